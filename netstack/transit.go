// SPDX-License-Identifier: MIT

package netstack

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// heldPackets and heldBytes bound what waits for a flow's decision.
	heldPackets = 16
	heldBytes   = 64 << 10
	// maxSYN bounds a SYN that begins a flow, in bytes with its headers: it is held whatever else waits, since there is
	// nothing to accept without it. Data in it (RFC 7413) is less than a segment.
	maxSYN = 1500
	// sweepPause is the time between two looks for flows that have timed out.
	sweepPause = 10 * time.Second
)

// Timeouts of flows. A connection or conversation that was accepted has none: it is the program's.
const (
	undecidedTimeout = 60 * time.Second
	pingTimeout      = 60 * time.Second
	// udpTimeout is RFC 4787's recommendation (REQ-5).
	udpTimeout = 5 * time.Minute
	// establishedTimeout and transitoryTimeout are the least that RFC 5382 allows (REQ-5).
	establishedTimeout = 2*time.Hour + 4*time.Minute
	transitoryTimeout  = 4 * time.Minute
)

// transit takes the packets for addresses that are not the stack's own. Each belongs to a flow: see [Flow].
//
// TCP connections that are accepted live in a second gVisor stack (transittcp.go), which has every address: one that has
// the stack's own too would let its listeners take strangers' connections. Datagrams and pings need none, and what is
// forwarded (forwarded.go) passes as packets.
//
// Lock order: transit.mu, flowConn.mu; transit.mu, silenceWatch.mu; transit.mu, link.mu.
type transit struct {
	stack  *Stack
	limits flowLimits
	begin  time.Time // where transit's time begins
	// unhandled is Config.Unhandled, told that it was called.
	unhandled func(src PeerID, dst netip.Addr)
	told      atomic.Bool
	unread    atomic.Uint64 // packets that a flow had no room for
	// used is set with the first handler and stays. Before, there are no flows.
	used atomic.Bool

	handleMu sync.Mutex // orders changes of handler. Lock order: handleMu, mu.

	mu        sync.Mutex // guards what follows
	handler   func(*Flow)
	tcp       *transitTCP // nil before the first handler
	flows     map[flowKey]*Flow
	peers     map[PeerID]*flowPeer
	ranking   flowRanking // of all in peers
	open      int         // flows in all
	undecided int         // of those, undecided ones; and handlers of flows that have ended
	stats     FlowStats   // of the peers that are gone, and what is no peer's
	timer     *time.Timer
	closed    bool

	sweeps    sync.WaitGroup // the timer's calls
	accepting sync.WaitGroup // handshakes of TCP under way
}

func newTransit(s *Stack, cfg Config) *transit {
	return &transit{
		stack: s, limits: defaultFlowLimits, begin: time.Now(), unhandled: cfg.Unhandled,
		flows: map[flowKey]*Flow{}, peers: map[PeerID]*flowPeer{},
	}
}

// HandleFlows has handler decide about each flow that a peer begins with an address that is not the stack's own: see
// [Flow]. It is called in a goroutine of its own for each, and may keep it as long as the flow lives. Past 4,096 flows of
// a peer, and 16,384 in all, the ones longest idle are ended, of that peer or of the one that has most, but not accepted
// TCP connections; past 512 undecided ones of a peer, and 4,096 in all, new ones are not begun. [Stack.Close] does not
// wait for handlers.
//
// There is one handler at a time. Nil ends it: undecided flows are dropped, forwarded ones end, and accepted ones live on.
// The error is that there is a handler already, or [net.ErrClosed].
func (s *Stack) HandleFlows(handler func(*Flow)) error {
	return s.transit.handle(handler)
}

func (t *transit) handle(handler func(*Flow)) error {
	t.handleMu.Lock()
	defer t.handleMu.Unlock()
	if handler == nil {
		return t.unhandle()
	}
	t.mu.Lock()
	tcp, busy, closed := t.tcp, t.handler != nil, t.closed
	t.mu.Unlock()
	switch {
	case closed, t.stack.Draining():
		return net.ErrClosed
	case busy:
		return errors.New("there is a handler already: end it by HandleFlows(nil) first")
	case tcp == nil:
		var err error
		if tcp, err = newTransitTCP(t.stack); err != nil {
			return err
		}
	}
	t.mu.Lock()
	if closed = t.closed; !closed {
		t.tcp, t.handler = tcp, handler
		t.used.Store(true)
	}
	lost := closed && t.tcp == nil // close has not seen it
	t.mu.Unlock()
	if lost {
		tcp.stack.Destroy()
	}
	if closed {
		return net.ErrClosed
	}
	return nil
}

func (t *transit) unhandle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	t.handler = nil
	t.told.Store(false)
	t.endLocked(net.ErrClosed, func(f *Flow) bool { return f.state == flowUndecided || f.state == flowForwarded })
	return nil
}

// now is the time since transit began, and never 0.
func (t *transit) now() time.Duration { return time.Since(t.begin) + 1 }

// receive takes a packet from the tunnel, or a run of TCP segments that became one, with mss bytes in each but the last.
// It copies what it keeps, and waits for nobody.
func (t *transit) receive(in *inboundPacket, b []byte, mss int) {
	if !t.used.Load() {
		t.unasked(in.src, in.dst)
		return
	}
	var p transitPacket
	if !p.parse(in, b, mss) {
		t.stack.inbound.dropped.Add(1)
		return
	}
	switch {
	case p.ttl <= 1:
		// RFC 1812, section 5.3.1: for each packet that is not for the router itself.
		t.complain(&p, timeExceeded)
	case p.kind == kindError:
		t.relayError(&p)
	default:
		t.route(&p)
	}
}

// unasked counts a packet that nobody has asked for.
func (t *transit) unasked(src, dst netip.Addr) {
	t.mu.Lock()
	peer, ok := t.stack.routes.Load().lookup(src)
	if ok {
		t.peerLocked(peer).stats.Unhandled++
	}
	t.mu.Unlock()
	if ok && t.unhandled != nil && !t.told.Swap(true) {
		t.unhandled(peer, dst)
	}
}

// route gives a packet to its flow, or begins one.
func (t *transit) route(p *transitPacket) {
	if p.kind == kindTCP && p.begins() {
		t.reopen(p)
	}
	t.mu.Lock()
	f := t.flows[p.key]
	if f != nil && f.state == flowForwarded && p.key != f.key && p.kind == kindTCP && p.begins() {
		f = nil // no answer, but a connection the other way (RFC 9293, section 3.5: simultaneous open), with its own decision
	}
	if f == nil {
		f = t.beginLocked(p)
	}
	if f == nil {
		tcp := t.tcp
		none := t.handler == nil
		t.mu.Unlock()
		switch {
		case p.kind == kindTCP && !p.begins():
			tcp.deliver(p.b, p.verified) // what a connection of ours has still to do with, or it is answered with a reset
		case none && p.begins():
			t.unasked(p.key.src.Addr(), p.key.dst.Addr())
		}
		return
	}
	t.touchLocked(f)
	switch f.state {
	case flowUndecided:
		f.holdLocked(p)
	case flowForwarded:
		f.trackLocked(p)
	}
	state, conn, tcp := f.state, f.conn, t.tcp
	t.mu.Unlock()
	switch {
	case state == flowForwarded:
		if !t.forward(p) {
			t.complain(p, tooBig)
		}
	case state != flowAccepting && state != flowOpen:
	case conn != nil:
		conn.deliver(p)
	case p.kind == kindTCP:
		tcp.deliver(p.b, p.verified)
	}
}

// beginLocked begins a flow, if the packet may and there is room for it. The caller holds t.mu, as for all methods that
// end in Locked.
func (t *transit) beginLocked(p *transitPacket) *Flow {
	if t.handler == nil || t.closed || t.stack.moving.Load() || !p.holdable() || !p.checksumValid() {
		return nil
	}
	routes := t.stack.routes.Load()
	id, ok := routes.lookup(p.key.src.Addr())
	if !ok {
		return nil
	}
	peer := t.peerLocked(id)
	if !t.makeRoomLocked(peer) {
		peer.stats.Capped++
		return nil
	}
	f := newFlow(t, p.key, id, peer)
	if target, ok := routes.lookup(p.key.dst.Addr()); ok && target != id {
		f.target, f.hasTarget = target, true
	}
	t.flows[f.key] = f
	t.open++
	peer.open++
	t.undecided++
	peer.undecided++
	peer.stats.Undecided++
	if t.timer == nil {
		t.timer = time.AfterFunc(sweepPause, t.sweep) // close stops it, and waits
	}
	go t.decide(f, t.handler) // ends when the handler returns; not waited for, since it may call Close
	return f
}

// decide runs the handler.
func (t *transit) decide(f *Flow, handler func(*Flow)) {
	handler(f)
	t.mu.Lock()
	defer t.mu.Unlock()
	f.returned = true
	if f.state == flowUndecided {
		f.peer.stats.Dropped++
		f.endLocked(ErrDecided)
		return
	}
	if f.state == flowEnded {
		t.undecided--
		f.peer.undecided--
	}
}

// sweep ends what has timed out.
func (t *transit) sweep() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.sweeps.Add(1)
	t.mu.Unlock()
	defer t.sweeps.Done()
	t.expire(t.now())
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) == 0 || t.closed {
		t.timer = nil
		return
	}
	t.timer.Reset(sweepPause)
}

func (t *transit) expire(now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(syscall.ETIMEDOUT, func(f *Flow) bool {
		limit := f.timeoutLocked()
		over := limit > 0 && now-f.used >= limit
		if over && (f.state == flowUndecided || f.state == flowAccepting) {
			f.peer.stats.Dropped++
		}
		return over
	})
}

// endLocked ends the flows that over names.
func (t *transit) endLocked(cause error, over func(*Flow) bool) {
	for key, f := range t.flows {
		if f.key == key && over(f) { // a forwarded one is there twice
			f.endLocked(cause)
		}
	}
}

// rerouted ends the flows whose peers will not be the same any more. Until the routes are the new ones, none begins.
func (t *transit) rerouted(old, now *routeTable) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(syscall.ECONNRESET, func(f *Flow) bool {
		return moved(old, now, f.key.src.Addr()) || f.hasTarget && moved(old, now, f.key.dst.Addr())
	})
}

// readdressed ends the flows with addresses that have become the stack's own.
func (t *transit) readdressed(own *ownAddresses) {
	t.mu.Lock()
	t.endLocked(syscall.ECONNRESET, func(f *Flow) bool { return own.has(f.key.src.Addr()) || own.has(f.key.dst.Addr()) })
	tcp := t.tcp
	t.mu.Unlock()
	if tcp != nil {
		resetEndpoints(tcp.stack.RegisteredEndpoints(), func(local, remote netip.Addr) bool {
			return own.has(local) || own.has(remote)
		}, true)
	}
}

// sockets are the flows that the program has accepted and not closed.
func (t *transit) sockets() (list []Socket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.flows {
		if f.state == flowOpen {
			list = append(list, Socket{Network: f.Network(), Local: f.Destination(), Remote: f.Source()})
		}
	}
	return list
}

// close ends all flows, and TCP connections with a reset. It waits for everything but handlers.
func (t *transit) close() {
	t.mu.Lock()
	t.closed, t.handler = true, nil
	t.endLocked(net.ErrClosed, func(*Flow) bool { return true })
	if t.timer != nil {
		t.timer.Stop()
	}
	tcp := t.tcp
	t.mu.Unlock()
	t.sweeps.Wait()
	t.accepting.Wait()
	if tcp != nil {
		tcp.stack.Close()
	}
}

// wait returns when gVisor's goroutines have ended. It comes after close, and the link's.
func (t *transit) wait() {
	t.mu.Lock()
	tcp := t.tcp
	t.mu.Unlock()
	if tcp != nil {
		tcp.stack.Wait()
	}
}

// validTransit says whether a packet may go on to another host: its addresses must have a meaning beyond one link (RFC
// 3927, section 2.7; RFC 4291, section 2.5.6; RFC 1122, section 3.2.1.3). Others were refused before.
func validTransit(src, dst netip.Addr) bool {
	for _, addr := range [...]netip.Addr{src, dst} {
		if addr.IsLinkLocalUnicast() || addr.Is4() && addr.As4()[0] == 0 {
			return false
		}
	}
	return true
}

// flowProtocol is the protocol of a flow. The echo requests of both families are one. Their replies are another, which no
// flow begins with: with identifier 0 a request would else have the key of a reply.
type flowProtocol uint8

const (
	flowTCP  = flowProtocol(header.TCPProtocolNumber)
	flowUDP  = flowProtocol(header.UDPProtocolNumber)
	flowPing = flowProtocol(header.ICMPv4ProtocolNumber)
	flowPong = flowProtocol(header.ICMPv6ProtocolNumber) // a number that is not used otherwise
)

// flowKey names a flow by the addresses of the packet that began it. For pings the source's port is the identifier, and for
// their replies the destination's.
type flowKey struct {
	proto    flowProtocol
	src, dst netip.AddrPort
}

// reverse is the key of the answers.
func (k flowKey) reverse() flowKey {
	switch k.proto {
	case flowPing:
		k.proto = flowPong
	case flowPong:
		k.proto = flowPing
	}
	return flowKey{k.proto, k.dst, k.src}
}
