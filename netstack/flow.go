// SPDX-License-Identifier: MIT

package netstack

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// A Flow is what a peer begins with an address that is not the stack's own: a TCP connection, a UDP conversation, or
// echo requests. Its handler decides by one of Accept, Forward, Refuse and Drop. Until then the other side sees nothing,
// and a few of its packets wait. Its methods are safe for concurrent use; the first decision counts.
type Flow struct {
	transit   *transit
	key       flowKey
	id        PeerID
	peer      *flowPeer
	target    PeerID
	hasTarget bool
	ctx       context.Context
	cancel    context.CancelCauseFunc

	// transit.mu guards what follows.
	state    flowState
	returned bool // the handler
	held     []transitPacket
	heldSize int
	conn     *flowConn     // an accepted one's, but for TCP
	used     time.Duration // when it last was, in transit's time
	ranked   time.Duration // when it was last put at the end of peer.idle
	inIdle   *list.Element // of peer.idle; nil if it may not be evicted
	tracked  tcpTrack      // a forwarded one's
}

// flowState says what has become of a flow.
type flowState uint8

const (
	flowUndecided flowState = iota
	flowAccepting           // Accept waits for the end of TCP's handshake
	flowOpen
	flowForwarded
	flowEnded
)

// ErrDecided is the error of a second decision about a [Flow], or of one that comes after its handler has returned.
var ErrDecided = errors.New("the flow was decided before")

func newFlow(t *transit, key flowKey, id PeerID, peer *flowPeer) *Flow {
	f := &Flow{transit: t, key: key, id: id, peer: peer, used: t.now()}
	f.ctx, f.cancel = context.WithCancelCause(context.Background()) // endLocked cancels it
	return f
}

// Network returns "tcp", "udp" or "ping".
func (f *Flow) Network() string {
	switch f.key.proto {
	case flowTCP:
		return "tcp"
	case flowUDP:
		return "udp"
	}
	return "ping"
}

// Peer returns the peer that serves the source.
func (f *Flow) Peer() PeerID { return f.id }

// Source returns who has begun. The port is 0 for a ping.
func (f *Flow) Source() netip.AddrPort {
	if f.key.proto == flowPing {
		return netip.AddrPortFrom(f.key.src.Addr(), 0)
	}
	return f.key.src
}

// Destination returns with whom. The port is 0 for a ping.
func (f *Flow) Destination() netip.AddrPort { return f.key.dst }

// Target returns the peer that serves the destination, if one does and it is not the one that the flow comes from.
func (f *Flow) Target() (PeerID, bool) { return f.target, f.hasTarget }

// Context returns a context that is done when the flow has come to its end: it was refused or dropped, the peer gave it
// up, nobody decided for a minute, it was evicted, an address of it has become another peer's, its connection or the stack
// was closed. [context.Cause] says why.
func (f *Flow) Context() context.Context { return f.ctx }

// Accept makes the program the flow's other end. For TCP it completes the handshake, and the connection is a [*TCPConn].
// For UDP and pings it has message boundaries, and reads and writes as many messages as there are: those of a ping are a
// sequence number (two bytes, big endian) and data, read from the requests and written into replies. Its local address is
// the flow's destination. It has to be closed. Datagrams that wait to be read are bounded: 1 MiB for each flow, 16 MiB for
// each peer; further ones are lost.
//
// Errors are [*net.OpError]; errors.Is holds for [ErrDecided], [net.ErrClosed], ECONNABORTED and ECONNRESET (the other side
// has given up).
func (f *Flow) Accept() (net.Conn, error) {
	if f.key.proto == flowTCP {
		c, err := f.transit.acceptTCP(f)
		if err != nil {
			return nil, f.opError("accept", err)
		}
		return c, nil
	}
	t := f.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := f.decideLocked(flowOpen); err != nil {
		return nil, f.opError("accept", err)
	}
	f.peer.stats.Accepted++
	f.used = t.now()
	f.conn = newFlowConn(f)
	f.evictableLocked()
	held := f.held
	f.releaseLocked() // before they are counted again
	for i := range held {
		f.conn.deliver(&held[i])
	}
	return f.conn, nil
}

// Forward has the flow's packets pass to the peer that serves its destination, and the answers back, until nothing comes
// for the times of RFC 4787 and RFC 5382: five minutes for UDP, over two hours for an established TCP connection, four
// minutes for another, a minute for pings. Errors are [*net.OpError]; errors.Is holds for ENETUNREACH (there is no such
// peer), [ErrDecided] and [net.ErrClosed].
func (f *Flow) Forward() error {
	t := f.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	if !f.hasTarget {
		return f.opError("forward", os.NewSyscallError("forward", syscall.ENETUNREACH))
	}
	if err := f.decideLocked(flowForwarded); err != nil {
		return f.opError("forward", err)
	}
	f.peer.stats.Forwarded++
	f.used = t.now()
	f.evictableLocked()
	if back := f.key.reverse(); t.flows[back] == nil { // else the other side has begun too, and has its flow that way
		t.flows[back] = f
	}
	for i := range f.held {
		f.trackLocked(&f.held[i])
		if !t.forward(&f.held[i]) { // with the lock held, so that nothing overtakes them
			t.complainLocked(&f.held[i], tooBig)
		}
	}
	f.releaseLocked()
	return nil
}

// Refuse answers that the destination does not want the flow, or cannot be reached, and why: ECONNREFUSED (a reset of TCP,
// port unreachable for UDP), EHOSTUNREACH, ENETUNREACH, and EACCES for what is forbidden (an ICMP error of that kind).
// Anything else is taken for ECONNREFUSED, and that for EHOSTUNREACH where it is a ping.
//
// A TCP client's dial fails at once in any case, and in that way where its host heeds the ICMP error: gVisor's, and so
// ours, knows one of IPv6's only, and so fails with ENETUNREACH for all of them. ICMP errors are limited to 100 a second
// for each peer; past it TCP gets a reset.
//
// After Accept of UDP or pings, until the connection is closed, it answers in the same way the datagram that has come
// last, which the program may have passed on to where it was refused. The flow goes on.
func (f *Flow) Refuse(reason error) {
	t := f.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case f.state == flowUndecided:
		f.peer.stats.Refused++
		if n := len(f.held); n > 0 { // else there was no room for the packet, and nothing to answer
			t.refuseLocked(f, &f.held[n-1], reason)
		}
		f.endLocked(ErrDecided)
	case f.state == flowOpen && f.conn != nil:
		if b := f.conn.newest(); b != nil {
			t.refuseLocked(f, &transitPacket{b: b}, reason)
		}
	}
}

// Drop leaves the other side without an answer. Its next packet begins another flow. During Accept it ends that call, and
// after Forward the flow. When Accept has returned it does nothing: the connection ends by its Close.
func (f *Flow) Drop() {
	f.transit.mu.Lock()
	defer f.transit.mu.Unlock()
	switch f.state {
	case flowUndecided, flowAccepting:
		f.peer.stats.Dropped++
		f.endLocked(ErrDecided)
	case flowForwarded:
		f.endLocked(ErrDecided)
	}
}

// decideLocked makes the decision if nobody has before. The caller holds transit.mu, as for all methods that end in Locked.
func (f *Flow) decideLocked(state flowState) error {
	switch f.state {
	case flowUndecided:
	case flowEnded:
		return context.Cause(f.ctx)
	default:
		return ErrDecided
	}
	f.state = state
	if state != flowAccepting { // which counts as undecided until the handshake is done
		f.openLocked()
	}
	return nil
}

// openLocked counts a flow that was undecided as an open one.
func (f *Flow) openLocked() {
	f.transit.undecided--
	f.peer.undecided--
	f.peer.stats.Undecided--
	f.peer.stats.Open++
}

// evictableLocked lists the flow among those that may be evicted.
func (f *Flow) evictableLocked() {
	f.ranked = f.used
	f.inIdle = f.peer.idle.PushBack(f)
	heap.Fix(&f.transit.ranking, f.peer.place)
}

// holdLocked keeps a packet of an undecided flow, if there is room. Of TCP only the newest SYN counts, for which there always
// is, and a reset ends the flow.
func (f *Flow) holdLocked(p *transitPacket) {
	if p.kind == kindTCP {
		switch {
		case p.isReset():
			f.endLocked(os.NewSyscallError("accept", syscall.ECONNRESET))
			return
		case !p.holdable():
			return
		}
		f.releaseLocked()
	}
	size := len(p.b)
	if len(f.held) > 0 && (len(f.held) >= heldPackets || f.heldSize+size > heldBytes) {
		f.transit.unread.Add(1)
		return
	}
	if f.peer.buffered.Add(int64(size)) > f.transit.limits.peerBuffered && p.kind != kindTCP {
		f.peer.buffered.Add(-int64(size))
		f.transit.unread.Add(1)
		return
	}
	f.held = append(f.held, p.clone())
	f.heldSize += size
}

func (f *Flow) releaseLocked() {
	f.peer.buffered.Add(-int64(f.heldSize))
	f.held, f.heldSize = nil, 0
}

// timeoutLocked is how long the flow may be idle; 0 means for ever.
func (f *Flow) timeoutLocked() time.Duration {
	switch {
	case f.state == flowUndecided, f.state == flowAccepting: // in its handshake, which the other side may have given up
		return undecidedTimeout
	case f.state != flowForwarded:
		return 0
	case f.key.proto == flowUDP:
		return udpTimeout
	case f.key.proto == flowPing:
		return pingTimeout
	case f.establishedLocked():
		return establishedTimeout
	}
	return transitoryTimeout
}

// endLocked ends the flow, and its conn if that is not TCP.
func (f *Flow) endLocked(cause error) {
	t := f.transit
	switch f.state {
	case flowEnded:
		return
	case flowUndecided, flowAccepting:
		f.peer.stats.Undecided--
		if f.returned {
			t.undecided--
			f.peer.undecided--
		}
	default:
		f.peer.stats.Open--
		if !f.returned { // the handler still has its goroutine
			t.undecided++
			f.peer.undecided++
		}
	}
	f.state = flowEnded
	t.open--
	f.peer.open--
	for _, key := range [...]flowKey{f.key, f.key.reverse()} {
		if t.flows[key] != f {
			continue
		}
		delete(t.flows, key)
		if other := t.flows[key.reverse()]; other != nil && other.state == flowForwarded {
			t.flows[key] = other // both sides had begun: what comes this way is an answer again
		}
	}
	if f.inIdle != nil {
		f.peer.idle.Remove(f.inIdle)
		f.inIdle = nil
		heap.Fix(&t.ranking, f.peer.place)
	}
	f.releaseLocked()
	if f.conn != nil {
		f.conn.end(cause)
	}
	f.cancel(cause)
}

// touch notes that the flow is in use.
func (f *Flow) touch() {
	f.transit.mu.Lock()
	defer f.transit.mu.Unlock()
	f.transit.touchLocked(f)
}

// finish ends the flow when its connection was closed.
func (f *Flow) finish() {
	f.transit.mu.Lock()
	defer f.transit.mu.Unlock()
	f.endLocked(net.ErrClosed)
}

func (f *Flow) opError(op string, err error) error {
	return opError(op, f.Network(), f.addr(f.Destination()), f.addr(f.Source()), err)
}

// addr is an address of the flow in the form that the net package gives it.
func (f *Flow) addr(ap netip.AddrPort) net.Addr {
	switch f.key.proto {
	case flowTCP:
		return tcpAddr(ap)
	case flowUDP:
		return udpAddr(ap)
	}
	return &net.IPAddr{IP: ap.Addr().AsSlice()}
}
