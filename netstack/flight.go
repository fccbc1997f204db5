// SPDX-License-Identifier: MIT

package netstack

import "time"

// What is in flight between the link's reader and the socket, and the link's end, which waits for it.

const (
	// stallPause is how long nothing moves before the packets in flight are taken for lost: the device drops packets
	// without a word, and they would never be counted as sent.
	stallPause = 5 * time.Millisecond
	// flushPause bounds the wait of close for the last packets.
	flushPause = 100 * time.Millisecond
)

// full returns 0 if more may go out, else after what time what is in flight may be taken for lost.
func (l *link) full() time.Duration {
	if l.maxInFlight == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight < l.maxInFlight {
		return 0
	}
	return l.giveUpLocked()
}

// giveUpLocked takes what is in flight for lost if nothing has moved for a while and no send is under way. Else it
// returns after what time to try again.
func (l *link) giveUpLocked() time.Duration {
	if l.sending.Load() > 0 {
		return stallPause
	}
	now := l.now()
	if pause := l.movedAt + stallPause - now; pause > 0 {
		return pause
	}
	l.inFlight, l.movedAt = 0, now
	l.checkIdleLocked()
	return 0
}

// sent ends a send, and notes that n packets that were read have left, or more.
func (l *link) sent(n int) {
	l.mu.Lock()
	wasFull := l.inFlight >= l.maxInFlight
	l.inFlight = max(0, l.inFlight-n)
	l.movedAt = l.now()
	l.sending.Add(-1)
	nowFull := l.inFlight >= l.maxInFlight
	l.checkIdleLocked()
	l.mu.Unlock()
	if wasFull && !nowFull {
		l.notify()
	}
}

func (l *link) checkIdleLocked() {
	if l.idle != nil && l.ready.len() == 0 && !l.taken && l.inFlight == 0 {
		close(l.idle)
		l.idle = nil
	}
}

// settle waits a moment until what can be sent was.
func (l *link) settle() {
	idle := make(chan struct{})
	l.mu.Lock()
	l.idle = idle
	l.checkIdleLocked()
	l.mu.Unlock()
	l.flush(idle)
	l.mu.Lock()
	l.idle = nil
	l.mu.Unlock()
}

// close lets every writer that waits for room go and empties the queues, but for control packets to peers with a
// session: the RSTs by which the other sides learn of the end. If somebody counts what is sent, it waits for them a
// moment. Then readers end. Call it once.
func (l *link) close() {
	if idle := l.stopQueues(); idle != nil {
		l.flush(idle)
	}
	close(l.ended)
}

func (l *link) flush(idle <-chan struct{}) {
	end := time.NewTimer(flushPause)
	defer end.Stop()
	lost := time.NewTicker(stallPause)
	defer lost.Stop()
	for {
		select {
		case <-idle:
			return
		case <-end.C:
			return
		case <-lost.C:
			l.mu.Lock()
			l.giveUpLocked()
			l.mu.Unlock()
		}
	}
}

// stopQueues returns a channel that is closed when what is left has been sent, or nil if there is nothing to wait for.
func (l *link) stopQueues() <-chan struct{} {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.segmenter.drop()
	for range l.reading.len() {
		if pkt := l.reading.pop(); classify(pkt) == classControl {
			l.reading.push(pkt)
		} else {
			pkt.DecRef()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.taken = l.reading.len() > 0
	left := l.taken
	for _, q := range l.queues {
		but := classes
		if l.openLocked(q) {
			but = classControl
		}
		q.empty(but)
		left = left || q.size > 0
	}
	if !left || l.maxInFlight == 0 {
		return nil
	}
	l.idle = make(chan struct{})
	return l.idle
}
