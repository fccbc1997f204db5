// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// stallPause is how long nothing needs to be sent before the packets in flight are taken for lost: the device drops
	// packets without a word, and they would never be counted as sent.
	stallPause = 5 * time.Millisecond
	// flushPause bounds the wait of close for the last packets.
	flushPause = 100 * time.Millisecond
)

// link is the stack's link endpoint: the queues between gVisor and the device's TUN reader.
//
// Its invariants:
//   - WritePackets never blocks: it runs inside of the device's own write path too, for echo replies and RSTs;
//   - every packet in a queue has one reference that the queue owns;
//   - queues are served in turn, a batch each, so no peer's traffic waits for all of another's;
//   - a peer without a session gets nothing into the device, where it would take 64 KiB a packet;
//   - once closed, nothing is put into a queue and no writer waits for it;
//   - nobody ever sends on a channel that may be closed: wake is never closed, ended is closed once.
type link struct {
	mtu     uint32
	ended   chan struct{} // closed by close
	wake    chan struct{} // holds one token when there may be something to read
	silence *silenceWatch
	routes  *atomic.Pointer[routeTable]
	begin   time.Time // where the link's time begins
	// needSession is Config.NeedSession, reads Config.Read, maxInFlight Config.MaxInFlight.
	needSession func(PeerID)
	reads       func(PeerID, int)
	maxInFlight int
	// endpoints are gVisor's for IPv4 and IPv6 on this link. Set once, before the first packet.
	endpoints map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint

	// readMu guards reading, readingOf and segmenter, and lets one device's reader at a time copy. Lock order: readMu, mu.
	readMu    sync.Mutex
	reading   []queued // taken out of a queue and not written yet
	readingOf PeerID   // whose queue that was
	segmenter segmenter

	mu     sync.Mutex // guards what follows
	queues map[PeerID]*peerQueue
	ready  []*peerQueue // those that have packets and a session, in turn
	wanted []PeerID     // those that have packets and no session, to be reported
	// counts are the packets of each class in all queues.
	counts     [classes]int
	taking     bool          // packets are out of their queues and not in inFlight yet
	inFlight   int           // packets read and not sent yet
	sentAt     time.Duration // the last time that any were sent, or inFlight was given up
	idle       chan struct{} // closed, and taken away, when nothing waits or is in flight. Nil when nobody asks.
	closed     bool
	dropped    uint64 // packets that found no place in their queue, or no peer
	dispatcher stack.NetworkDispatcher
}

func newLink(s *Stack, cfg Config) *link {
	return &link{
		mtu: uint32(cfg.MTU), ended: make(chan struct{}), wake: make(chan struct{}, 1), silence: s.silence, routes: &s.routes,
		begin: time.Now(), needSession: cfg.NeedSession, reads: cfg.Read, maxInFlight: cfg.MaxInFlight,
		queues:    map[PeerID]*peerQueue{},
		endpoints: map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint{},
	}
}

func (l *link) now() time.Duration { return time.Since(l.begin) }

// WritePackets implements [stack.LinkWriter]. A packet that is dropped for want of room is no error: it is lost, as on
// any link.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		l.silence.sent(pkt)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, &tcpip.ErrClosedForSend{}
	}
	for _, pkt := range pkts.AsSlice() {
		l.pushLocked(pkt)
	}
	l.mu.Unlock()
	l.notify()
	return pkts.Len(), nil
}

// resend queues packets a second time. It takes over the caller's references.
func (l *link) resend(pkts []*stack.PacketBuffer) {
	l.mu.Lock()
	for _, pkt := range pkts {
		if !l.closed {
			l.pushLocked(pkt)
		}
		pkt.DecRef()
	}
	l.mu.Unlock()
	l.notify()
}

func (l *link) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// The caller holds l.mu, as for all methods that end in Locked.
func (l *link) pushLocked(pkt *stack.PacketBuffer) {
	class := classify(pkt)
	peer, ok := l.routes.Load().lookup(destination(pkt))
	if !ok || class == classControl && l.counts[class] >= maxControlPackets || class == classAck && l.counts[class] >= maxAckPackets {
		l.dropped++
		return
	}
	q := l.queueLocked(peer)
	l.counts[class]++
	q.push(queued{pkt.IncRef(), class})
	l.offerLocked(q)
}

func (l *link) queueLocked(peer PeerID) *peerQueue {
	q := l.queues[peer]
	if q == nil {
		q = &peerQueue{peer: peer}
		l.queues[peer] = q
	}
	return q
}

// offerLocked gives a queue that has packets its turn, or, without a session, cuts it down and has one asked for.
func (l *link) offerLocked(q *peerQueue) {
	if q.ready || q.len() == 0 {
		return
	}
	if l.openLocked(q) {
		q.ready = true
		l.ready = append(l.ready, q)
		return
	}
	for q.len() > maxWaiting {
		l.dropLocked(q)
	}
	q.release()
	if now := l.now(); q.asked == 0 || now-q.asked >= askPause {
		q.asked = now
		l.wanted = append(l.wanted, q.peer)
	}
}

// openLocked says whether packets may go to the queue's peer.
func (l *link) openLocked(q *peerQueue) bool { return l.needSession == nil || q.session > l.now() }

func (l *link) dropLocked(q *peerQueue) {
	p := q.pop()
	l.counts[p.class]--
	l.dropped++
	p.pkt.DecRef()
}

// setSession says until when the device has a session with a peer, in the link's time.
func (l *link) setSession(peer PeerID, until time.Duration) {
	l.mu.Lock()
	q := l.queueLocked(peer)
	q.session, q.asked = until, 0
	l.offerLocked(q)
	l.mu.Unlock()
	l.notify()
}

// retain forgets peers that have no route any more, and their packets.
func (l *link) retain(routes []Route) {
	keep := make(map[PeerID]bool, len(routes))
	for _, r := range routes {
		keep[r.Peer] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for peer, q := range l.queues {
		if !keep[peer] {
			l.emptyLocked(q, func(queued) bool { return false })
			delete(l.queues, peer)
		}
	}
}

// emptyLocked drops what keep does not want to keep.
func (l *link) emptyLocked(q *peerQueue, keep func(queued) bool) {
	for range q.len() {
		p := q.pop()
		if keep(p) {
			q.push(p)
			continue
		}
		l.counts[p.class]--
		p.pkt.DecRef()
	}
	q.release()
}

// wait returns nil when there is room for a datagram to a peer, else a channel that is closed when there may be. The
// bound may be passed by what the writers that saw room at the same time put in, a datagram each.
func (l *link) wait(peer PeerID) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[peer]
	if q == nil || q.datagrams < maxDatagramPackets || l.closed || !l.openLocked(q) {
		return nil
	}
	if q.room == nil {
		q.room = make(chan struct{})
	}
	return q.room
}

// read waits until there are packets, closed is closed or the link is, and writes as many packets as bufs has place
// for, each at offset into its buffer. After the link's end it still returns what close has left. The stall timer is
// the caller's, and not running.
func (l *link) read(bufs [][]byte, sizes []int, offset int, closed <-chan struct{}, stall *time.Timer) (int, error) {
	for {
		if isClosed(closed) {
			l.notify() // the token that woke us may have been meant for the reader of the next facade
			return 0, os.ErrClosed
		}
		l.askForSessions()
		n, full := l.take(bufs, sizes, offset)
		if n > 0 {
			return n, nil
		}
		if full {
			stall.Reset(stallPause)
		}
		select {
		case <-l.wake:
		case <-stall.C: // runs only if full
			l.giveUp()
		case <-closed:
		case <-l.ended:
			if n, _ := l.take(bufs, sizes, offset); n > 0 {
				return n, nil
			}
			return 0, os.ErrClosed
		}
		stall.Stop()
	}
}

func (l *link) askForSessions() {
	l.mu.Lock()
	wanted := l.wanted
	l.wanted = nil
	l.mu.Unlock()
	for _, peer := range wanted {
		l.needSession(peer)
	}
}

// take writes what there is and returns how many packets that were. full says that there is more, and too much in
// flight already.
func (l *link) take(bufs [][]byte, sizes []int, offset int) (n int, full bool) {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if l.full() {
		return 0, true
	}
	counted := 0 // of the n packets
	for n < len(bufs) {
		if !l.segmenter.busy() {
			if len(l.reading) == 0 {
				l.count(n - counted)
				counted = n
				if !l.refill(len(bufs) - n) {
					break
				}
			}
			l.segmenter.start(l.reading[0].pkt)
			l.reading[0] = queued{}
			l.reading = l.reading[1:]
		}
		if size := l.segmenter.next(bufs[n][offset:]); size > 0 {
			sizes[n] = size
			n++
		}
	}
	l.count(n - counted)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taking = false
	if l.maxInFlight > 0 {
		l.inFlight += n
	}
	l.checkIdleLocked()
	return n, false
}

// count tells of n packets that were read, to the peer whose they are. The caller holds l.readMu.
func (l *link) count(n int) {
	if n > 0 && l.reads != nil {
		l.reads(l.readingOf, n)
	}
}

func (l *link) full() bool {
	if l.maxInFlight == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight >= l.maxInFlight
}

// refill moves up to n packets of the peer whose turn it is into reading, which is empty. The caller holds l.readMu.
func (l *link) refill(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading = l.reading[:0]
	for len(l.ready) > 0 && len(l.reading) == 0 {
		q := l.ready[0]
		l.ready[0] = nil
		l.ready = l.ready[1:]
		q.ready = false
		if l.openLocked(q) {
			for range min(n, q.len()) {
				p := q.pop()
				l.counts[p.class]--
				l.reading = append(l.reading, p)
			}
			l.readingOf = q.peer
		}
		l.offerLocked(q)
	}
	l.taking = len(l.reading) > 0
	return l.taking
}

// sent notes that n packets that were read have left, or more: handshakes and keepalives are not told apart.
func (l *link) sent(n int) {
	l.mu.Lock()
	wasFull := l.inFlight >= l.maxInFlight
	l.inFlight = max(0, l.inFlight-n)
	l.sentAt = l.now()
	nowFull := l.inFlight >= l.maxInFlight
	l.checkIdleLocked()
	l.mu.Unlock()
	if wasFull && !nowFull {
		l.notify()
	}
}

// giveUp takes what is in flight for lost if nothing has been sent for a while.
func (l *link) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now-l.sentAt >= stallPause {
		l.inFlight, l.sentAt = 0, now
		l.checkIdleLocked()
	}
}

func (l *link) checkIdleLocked() {
	if l.idle != nil && len(l.ready) == 0 && !l.taking && l.inFlight == 0 {
		close(l.idle)
		l.idle = nil
	}
}

// close lets every writer that waits for room go and empties the queues, but for control packets to peers with a
// session: the RSTs by which the other sides learn of the end. If somebody counts what is sent, it waits for them a
// moment. Then readers end. Call it once.
func (l *link) close() {
	idle := l.stopQueues()
	for range flushPause / stallPause {
		if idle == nil || isClosed(idle) {
			break
		}
		timer := time.NewTimer(stallPause)
		select {
		case <-idle:
		case <-timer.C:
			l.giveUp()
		}
		timer.Stop()
	}
	close(l.ended)
}

// stopQueues returns a channel that is closed when what is left has been sent, or nil if there is nothing to wait for.
func (l *link) stopQueues() <-chan struct{} {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.segmenter.drop()
	for _, p := range l.reading {
		p.pkt.DecRef()
	}
	l.reading = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	left := false
	for _, q := range l.queues {
		open := l.openLocked(q)
		l.emptyLocked(q, func(p queued) bool { return open && p.class == classControl })
		left = left || q.len() > 0
	}
	if !left || l.maxInFlight == 0 {
		return nil
	}
	l.idle = make(chan struct{})
	return l.idle
}

// deliver hands an inbound packet to gVisor. verified says that its checksums are right, or that its parts' were.
// It reports false when the stack is gone.
func (l *link) deliver(pkt *stack.PacketBuffer, proto tcpip.NetworkProtocolNumber, verified bool) bool {
	l.mu.Lock()
	d := l.dispatcher
	l.mu.Unlock()
	if d == nil {
		return false
	}
	if ep := l.endpoints[proto]; verified && ep != nil {
		// Past the NIC, which would take the mark away again.
		pkt.RXChecksumValidated = true
		ep.HandlePacket(pkt)
	} else {
		d.DeliverNetworkPacket(proto, pkt)
	}
	return true
}

// Attach implements [stack.NetworkLinkEndpoint]; the dispatcher is nil when the NIC goes.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements [stack.NetworkLinkEndpoint].
func (l *link) IsAttached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dispatcher != nil
}

// SupportedGSO implements [stack.GSOEndpoint]: TCP may send segments of any size, and read cuts them.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize implements [stack.GSOEndpoint]: what the IPv4 total length can say.
func (l *link) GSOMaxSize() uint32 { return maxCoalesced }

// MTU implements [stack.NetworkLinkEndpoint].
func (l *link) MTU() uint32 { return l.mtu }

// The rest of [stack.NetworkLinkEndpoint] is for links with addresses and headers, which a tunnel has not.

func (l *link) SetMTU(uint32)                                {}
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }
func (l *link) Wait()                                        {}
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) Close()                                       {}
func (l *link) SetOnCloseAction(func())                      {}
