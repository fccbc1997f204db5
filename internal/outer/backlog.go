// SPDX-License-Identifier: MIT

package outer

import (
	"sync"
	"time"
)

// backlogPause is how long nothing is delivered before the messages in a backlog are taken for done.
const backlogPause = time.Millisecond

// backlog bounds the data messages that the device was given and has not delivered yet. Its own queues hold 16,384 for
// each peer, of 64 KiB each, and whoever has seen a receiver index on the wire can fill them: a message is authenticated
// behind them (fault 70).
//
// What the device drops it does not tell. So when nothing was delivered for a while, the backlog is taken for empty: the
// receiver, who sleeps meanwhile, gets the processor again after the device's workers, who need about a microsecond for
// a message. A flood of garbage is worked off as fast as it can be authenticated, and is lost in the socket beyond that.
type backlog struct {
	limit int // 0 is none
	room  chan struct{}

	mu        sync.Mutex // guards what follows
	size      int
	delivered uint64 // messages, ever
}

func newBacklog(limit int) *backlog { return &backlog{limit: limit, room: make(chan struct{}, 1)} }

// add notes messages that the device was given.
func (b *backlog) add(n int) {
	if b.limit == 0 || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size += n
}

// remove notes messages that the device has delivered.
func (b *backlog) remove(n int) {
	b.mu.Lock()
	wasFull := b.size >= b.limit
	b.size = max(0, b.size-n)
	b.delivered += uint64(n)
	full := b.size >= b.limit
	b.mu.Unlock()
	if wasFull && !full {
		select {
		case b.room <- struct{}{}:
		default:
		}
	}
}

// wait returns when there is room, or one of the channels is closed.
func (b *backlog) wait(done, closed <-chan struct{}) {
	full, delivered := b.full()
	if !full {
		return
	}
	timer := time.NewTimer(backlogPause)
	defer timer.Stop()
	for full {
		select {
		case <-b.room:
		case <-timer.C:
			timer.Reset(backlogPause)
			b.giveUp(delivered)
		case <-done:
			return
		case <-closed:
			return
		}
		full, delivered = b.full()
	}
}

func (b *backlog) full() (full bool, delivered uint64) {
	if b.limit == 0 {
		return false, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size >= b.limit, b.delivered
}

// giveUp takes the backlog for empty if no more was delivered than it was some time ago.
func (b *backlog) giveUp(delivered uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.delivered == delivered {
		b.size = 0
	}
}
