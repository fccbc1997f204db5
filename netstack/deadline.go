// SPDX-License-Identifier: MIT

package netstack

import (
	"sync"
	"time"
)

// deadline is a time that can be moved at any moment, also while somebody waits for it.
// The zero value never passes. It is safe for concurrent use.
type deadline struct {
	mu    sync.Mutex // guards what follows
	timer *time.Timer
	// passed is closed when the deadline has passed and replaced when it is moved after that.
	passed chan struct{}
}

// set moves the deadline; the zero time takes it away.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.passed == nil || isClosed(d.passed) {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.passed)
		return
	}
	// The timer is stopped by the next set. One that fires in that very moment finds, under the lock, that it is
	// no longer the current one.
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer {
			close(d.passed)
			d.timer = nil
		}
	})
	d.timer = timer
}

// wait returns a channel that is closed once the deadline has passed. After a move it may be another one, so a
// waiter that set wakes has to ask again.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
