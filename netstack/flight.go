// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"slices"
	"time"
)

// What is in flight between the link's reader and the socket, and the link's end, which waits for it.
//
// The reader charges a peer for what it takes out of its queue, and each send to it makes room again. So one whose
// packets do not get away, for whatever reason, keeps none from the others. What the device drops it does without a word:
// when nothing has moved for a while, and no send to the peer is under way, it is taken for lost. A peer that has lost
// packets so gets one at a time, until a send tells that it is reached.
//
// Whose message is being sent cannot be told by what the other side chooses: its index, its address. But the device
// encrypts a packet in the buffer that it was read into, of which a message is the beginning. Behind the longest message
// that there can be, the reader leaves the peer's number in it.

const (
	// stallPause is how long nothing moves before the packets in flight are taken for lost.
	stallPause = 5 * time.Millisecond
	// flushPause bounds the wait of close for the last packets.
	flushPause = 100 * time.Millisecond
	// fullPeers is how many peers may have as much in flight as one may, before all of them wait.
	fullPeers = 4
	// overhead is what WireGuard puts before and behind a packet: a header and a tag of 16 bytes each.
	overhead = 32
	markSize = 4
)

// mark leaves in a buffer whose packet was read into it.
func (l *link) mark(buf []byte, peer PeerID) {
	if at := int(l.mtu) + overhead; len(buf) >= at+markSize {
		binary.NativeEndian.PutUint32(buf[at:], uint32(peer))
	}
}

// peerOf returns whose packet a message in a marked buffer has.
func (l *link) peerOf(message []byte) (PeerID, bool) {
	at := int(l.mtu) + overhead
	if cap(message) < at+markSize {
		return 0, false
	}
	return PeerID(binary.NativeEndian.Uint32(message[:at+markSize][at:])), true
}

// hasCreditLocked says whether more may go out to a peer.
func (l *link) hasCreditLocked(q *peerQueue) bool {
	limit := l.maxInFlight
	if q.stalled {
		limit = 1
	}
	return q.inFlight < limit || l.maxInFlight == 0
}

// fullLocked says whether nothing may go out.
func (l *link) fullLocked() bool { return l.maxInFlight > 0 && l.inFlight >= fullPeers*l.maxInFlight }

// chargeLocked notes n packets that were taken out of a queue.
func (l *link) chargeLocked(q *peerQueue, n int) {
	if l.maxInFlight == 0 {
		return
	}
	q.inFlight += n
	l.inFlight += n
	q.movedAt = l.now()
	if !q.flying {
		q.flying = true
		l.flying = append(l.flying, q)
	}
}

// refundLocked notes that n packets of a peer have left, or more. It reports whether there is something for the reader to
// look at again.
func (l *link) refundLocked(q *peerQueue, n int) (waited bool) {
	waited = l.fullLocked() || !q.ready && q.size > 0
	n = min(n, q.inFlight)
	q.inFlight -= n
	l.inFlight -= n
	l.offerLocked(q, false)
	l.checkIdleLocked()
	return waited
}

// giveUpLocked takes for lost what has not moved for too long. It returns when to look again, or 0 if nobody waits.
func (l *link) giveUpLocked() (again time.Duration) {
	now := l.now()
	l.lookAt = now + stallPause
	flying := l.flying
	l.flying = l.flying[:0]
	for _, q := range flying {
		pause := q.movedAt + stallPause - now
		if q.sending > 0 {
			pause = stallPause
		}
		if pause > 0 && q.inFlight > 0 {
			l.flying = append(l.flying, q)
			if again == 0 || pause < again {
				again = pause
			}
			continue
		}
		q.flying = false
		if q.inFlight > 0 {
			q.stalled = true
			l.refundLocked(q, q.inFlight)
		}
	}
	clear(flying[len(l.flying):])
	if !l.fullLocked() && !slices.ContainsFunc(l.flying, func(q *peerQueue) bool { return q.size > 0 && !q.ready }) {
		return 0
	}
	return again
}

// checkLost is giveUpLocked when it is time for that. It costs little for each batch while all goes well.
func (l *link) checkLost() (again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.flying) == 0 || l.ready.len() > 0 && !l.fullLocked() && l.now() < l.lookAt {
		return 0
	}
	return l.giveUpLocked()
}

// beginSend notes that packets of a peer are being sent. While they are, that may just be slow.
func (l *link) beginSend(peer PeerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.queues[peer]; q != nil {
		q.sending++
	}
}

// sent ends a send, and notes that n packets of the peer have left, or more.
func (l *link) sent(peer PeerID, n int) {
	l.mu.Lock()
	waited := false
	if q := l.queues[peer]; q != nil {
		q.sending = max(0, q.sending-1)
		q.stalled = false
		q.movedAt = l.now()
		waited = l.refundLocked(q, n)
	}
	l.mu.Unlock()
	if waited {
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
	dropped := unsent{}
	dropped.dropRest(&l.segmenter)
	l.segmenter.drop()
	for range l.reading.len() {
		if pkt := l.reading.pop(); classify(pkt) == classControl {
			dropped.correct(pkt)
			l.reading.push(pkt)
		} else {
			dropped.drop(pkt)
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
		q.empty(but, dropped)
		left = left || q.size > 0
	}
	if !left || l.maxInFlight == 0 {
		return nil
	}
	l.idle = make(chan struct{})
	return l.idle
}
