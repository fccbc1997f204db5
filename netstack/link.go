// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the stack's link endpoint: the queues between gVisor and the device's TUN reader.
//
// Its invariants:
//   - WritePackets never blocks: it runs inside of the device's own write path too, for echo replies and RSTs;
//   - every packet in a queue has one reference that the queue owns;
//   - peers are served in turn, a batch or a segment each, so no peer's traffic waits for all of another's;
//   - a peer without a session gets nothing into the device, where it would take 64 KiB a packet;
//   - a queue that is not empty is in ready, in waiting, or in flying as one without credit, and what is there is looked at
//     by the reader before it sleeps;
//   - once closed, nothing is put into a queue and no writer waits for it;
//   - nobody ever sends on a channel that may be closed: wake is never closed, ended is closed once.
type link struct {
	mtu     uint32
	ended   chan struct{} // closed by close
	wake    chan struct{} // holds one token when there may be something to read
	silence *silenceWatch
	senders *senderWatch
	routes  *atomic.Pointer[routeTable]
	taps    *tapList
	begin   time.Time // where the link's time begins
	// needSession is Config.NeedSession, reads Config.Read, maxInFlight Config.MaxInFlight.
	needSession func(PeerID)
	reads       func(PeerID, int)
	maxInFlight int
	// endpoints are gVisor's for IPv4 and IPv6 on this link. Set once, before the first packet.
	endpoints map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint

	// readMu guards reading, readingOf, readingMTU and segmenter, and lets one device's reader at a time copy. Lock order: readMu, mu.
	readMu     sync.Mutex
	reading    fifo[*stack.PacketBuffer] // taken out of a queue and not written yet
	readingOf  PeerID                    // whose queue that was
	readingMTU int                       // of the path to that peer, or 0
	segmenter  segmenter

	mu         sync.Mutex // guards what follows
	queues     map[PeerID]*peerQueue
	ready      fifo[*peerQueue] // those that have packets and a session, in turn
	waiting    []*peerQueue     // those that have packets and no session
	askAt      time.Duration    // when they are looked at next
	taken      bool             // packets are out of their queues, and not written or not in inFlight yet
	inFlight   int              // packets out of their queues and not sent yet: see flight.go
	flying     []*peerQueue     // those that have packets in flight, and may have
	lookAt     time.Duration    // when they are looked at next
	idle       chan struct{}    // closed, and taken away, when nothing waits or is in flight. Nil when nobody asks.
	closed     bool
	dropped    uint64 // packets that found no place in their queue, or no peer
	dispatcher stack.NetworkDispatcher
}

func newLink(s *Stack, cfg Config) *link {
	return &link{
		mtu: uint32(cfg.MTU), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		silence: s.silence, senders: s.senders, routes: &s.routes, taps: &s.taps, begin: time.Now(),
		needSession: cfg.NeedSession, reads: cfg.Read, maxInFlight: cfg.MaxInFlight,
		queues:    map[PeerID]*peerQueue{},
		endpoints: map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint{},
	}
}

// now is the time since the link began, and never 0.
func (l *link) now() time.Duration { return time.Since(l.begin) + 1 }

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
		l.pushLocked(pkt, classify(pkt))
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
			l.pushLocked(pkt, classify(pkt))
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
func (l *link) pushLocked(pkt *stack.PacketBuffer, class packetClass) {
	peer, ok := l.routes.Load().lookup(destination(pkt))
	if !ok {
		l.dropped++
		return
	}
	if class == classStream {
		l.senders.sent()
	}
	q := l.queueLocked(peer)
	if limit := class.limit(); limit > 0 && q.counts[class] >= limit {
		l.dropped++
		return
	}
	q.push(pkt.IncRef(), class)
	l.offerLocked(q, true)
}

func (l *link) queueLocked(peer PeerID) *peerQueue {
	q := l.queues[peer]
	if q == nil {
		q = &peerQueue{peer: peer}
		l.queues[peer] = q
	}
	return q
}

// offerLocked gives a queue that has packets its turn, or, without a session, cuts it down and has one asked for. pushed
// says that a packet has just come.
func (l *link) offerLocked(q *peerQueue, pushed bool) {
	if q.size == 0 {
		return
	}
	if l.openLocked(q) {
		if !q.ready && l.hasCreditLocked(q) {
			q.ready = true
			l.ready.push(q)
		}
		return
	}
	for q.size > maxWaiting {
		l.dropped++
		q.popOldest().DecRef()
	}
	q.release()
	if pushed || !q.waiting {
		q.pushed = l.now()
	}
	if !q.waiting || q.asked == 0 {
		l.askAt = 0
	}
	if !q.waiting {
		q.waiting = true
		l.waiting = append(l.waiting, q)
	}
}

// openLocked says whether packets may go to the queue's peer.
func (l *link) openLocked(q *peerQueue) bool { return l.needSession == nil || q.session > l.now() }

// setSession says until when the device has a session with a peer, in the link's time. It may come late, for a peer that
// retain has forgotten: what it made then would stay for good.
func (l *link) setSession(peer PeerID, until time.Duration) {
	l.mu.Lock()
	if !l.routes.Load().serves(peer) {
		l.mu.Unlock()
		return
	}
	q := l.queueLocked(peer)
	q.session, q.asked = until, 0
	q.stalled = false
	l.refundLocked(q, q.inFlight) // what the device kept back goes out with the new session, or never
	l.mu.Unlock()
	l.notify()
}

// retain forgets peers that have no route any more: their packets and their sessions.
func (l *link) retain(routes []Route) {
	keep := make(map[PeerID]bool, len(routes))
	for _, r := range routes {
		keep[r.Peer] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for peer, q := range l.queues {
		if !keep[peer] {
			q.empty(classes, nil)
			l.refundLocked(q, q.inFlight)
			delete(l.queues, peer)
		}
	}
}

// wait returns nil when there is room for a datagram to a peer, else a channel that is closed when there may be. The
// bound may be passed by what the writers that saw room at the same time put in, a datagram each.
func (l *link) wait(peer PeerID) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[peer]
	if q == nil || q.counts[classDatagram] < maxDatagramPackets || l.closed || !l.openLocked(q) {
		return nil
	}
	if q.room == nil {
		q.room = make(chan struct{})
	}
	return q.room
}

// read waits until there are packets, closed is closed or the link is, and writes as many packets as bufs has place
// for, each at offset into its buffer. After the link's end it still returns what close has left. The timer is the
// caller's, and not running.
func (l *link) read(bufs [][]byte, sizes []int, offset int, closed <-chan struct{}, timer *time.Timer) (int, error) {
	for {
		if isClosed(closed) {
			l.notify() // the token that woke us may have been meant for the reader of the next facade
			return 0, os.ErrClosed
		}
		n, pause := l.take(bufs, sizes, offset)
		again := l.askForSessions()
		if n > 0 {
			return n, nil
		}
		if pause == 0 || again > 0 && again < pause {
			pause = again
		}
		if pause > 0 {
			timer.Reset(pause)
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-closed:
		case <-l.ended:
			timer.Stop()
			if n, _ := l.take(bufs, sizes, offset); n > 0 {
				return n, nil
			}
			return 0, os.ErrClosed
		}
		timer.Stop()
	}
}

// askForSessions reports the peers whose packets wait and drops what has waited for too long. It returns when it is to
// be called again, or 0 if nothing waits.
func (l *link) askForSessions() (again time.Duration) {
	for _, peer := range l.unasked(&again) {
		l.needSession(peer)
	}
	return again
}

func (l *link) unasked(again *time.Duration) (peers []PeerID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	now := l.now()
	if now >= l.askAt {
		l.askAt = now + askPause
		l.waiting = slices.DeleteFunc(l.waiting, func(q *peerQueue) bool {
			if !l.openLocked(q) && now-q.pushed >= waitLimit {
				l.dropped += uint64(q.size)
				q.empty(classes, nil)
			}
			switch due := q.asked + askPause; {
			case q.size == 0 || l.openLocked(q):
				q.waiting = false
			case q.asked != 0 && now < due:
				l.askAt = min(l.askAt, due)
			default:
				q.asked = now
				peers = append(peers, q.peer)
			}
			return !q.waiting
		})
	}
	if len(l.waiting) > 0 {
		*again = l.askAt - now
	}
	return peers
}

// take writes what there is and returns how many packets that were. If none are, for there is too much in flight,
// it returns after what time to look again whether that is lost.
func (l *link) take(bufs [][]byte, sizes []int, offset int) (n int, pause time.Duration) {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	pause = l.checkLost()
	counted := 0 // of the n packets
	taps := l.taps.load()
	for n < len(bufs) {
		if !l.segmenter.busy() {
			if l.reading.len() == 0 {
				l.count(n - counted)
				counted = n
				if !l.refill(len(bufs) - n) {
					break
				}
			}
			l.segmenter.start(l.reading.pop(), l.readingMTU)
		}
		if size := l.segmenter.next(bufs[n][offset:]); size > 0 {
			if taps != nil {
				showTo(taps, TappedPacket{Data: bufs[n][offset : offset+size], Peer: l.readingOf, Known: true, Outbound: true})
			}
			if l.maxInFlight > 0 {
				l.mark(bufs[n], l.readingOf)
			}
			sizes[n] = size
			n++
		}
	}
	l.count(n - counted)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = l.reading.len() > 0 || l.segmenter.busy()
	l.checkIdleLocked()
	return n, pause
}

// count tells of n packets that were read, to the peer whose they are. The caller holds l.readMu.
func (l *link) count(n int) {
	if n > 0 && l.reads != nil {
		l.reads(l.readingOf, n)
	}
}

// refill moves packets of the peer whose turn it is into reading, which is empty: enough for n packets of the link's MTU
// if there are, and no more than one of them is cut. The caller holds l.readMu.
func (l *link) refill(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.ready.len() > 0 && l.reading.len() == 0 && !l.fullLocked() {
		q := l.ready.pop()
		q.ready = false
		room := n
		if q.stalled {
			room = min(room, 1)
		}
		l.forgetPathLocked(q)
		charge := 0
		for open := l.openLocked(q); open && charge < room && q.size > 0; {
			pkt := q.pop()
			charge += packetsIn(pkt, q.pathMTU)
			l.reading.push(pkt)
			l.readingOf, l.readingMTU, l.taken = q.peer, q.pathMTU, true
		}
		if charge > 0 {
			l.chargeLocked(q, charge)
		}
		l.offerLocked(q, false)
	}
	return l.reading.len() > 0
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

// GSOMaxSize implements [stack.GSOEndpoint]. It is what a connection begins with: senderWatch fits it to the path.
func (l *link) GSOMaxSize() uint32 {
	return segmentSize(firstSegment, int(l.mtu)-header.IPv4MinimumSize-header.TCPMinimumSize-header.TCPOptionsMaximumSize)
}

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
