// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"example.com/wgnet/netstack"
)

// A Flow is what a peer begins with an address that is not the Net's own: a TCP connection, a UDP conversation, or echo
// requests. The handler of [Net.HandleFlows] decides about it by one of Accept, Forward, Refuse and Drop; until then the
// other side has no answer, and a few of its packets wait. The source is one of the peer's AllowedIPs, so it is the peer's
// own word. Methods are safe for concurrent use; the first decision counts, but Refuse and Drop have a meaning later too.
type Flow struct {
	net    *Net
	flow   *netstack.Flow
	peer   *peer
	target *peer // nil if none serves the destination
}

// HandleFlows has handler decide about every [Flow] of the peers. Without a handler the packets go nowhere: they are
// counted, and the first one is logged.
//
// It is called in a goroutine of its own for each flow, in which it may stay for the flow's life, and a return without a
// decision is a Drop. There are bounds: past 512 undecided flows of a peer, or 4,096 in all, new ones are not begun (a TCP
// client tries again); past 4,096 flows of a peer, or 16,384 in all, the one that was idle for longest is ended, of that
// peer or of the one that has most, but no accepted TCP connection. A handler that goes on after its flow's end counts as
// an undecided flow; [Flow.Context] tells it of that end. [Net.Close] does not wait for handlers.
//
// There is one handler at a time. Nil ends it: undecided flows are dropped, forwarded ones end, accepted ones live on.
// The error is that there is a handler already, or [net.ErrClosed].
func (n *Net) HandleFlows(handler func(*Flow)) error {
	var handle func(*netstack.Flow)
	if handler != nil {
		handle = func(f *netstack.Flow) {
			if flow := n.newFlow(f); flow != nil {
				handler(flow)
			}
		}
	}
	if err := n.stack.HandleFlows(handle); err != nil {
		return fmt.Errorf("wgnet: HandleFlows: %w", err)
	}
	return nil
}

// newFlow returns nil if the peer was removed just now, and the flow with it.
func (n *Net) newFlow(f *netstack.Flow) *Flow {
	byID := n.peers().byID
	flow := &Flow{net: n, flow: f, peer: byID[f.Peer()]}
	if id, ok := f.Target(); ok {
		flow.target = byID[id]
	}
	if flow.peer == nil {
		return nil
	}
	return flow
}

// Network returns "tcp", "udp" or "ping".
func (f *Flow) Network() string { return f.flow.Network() }

// PeerKey returns the key of the peer whose AllowedIPs have the source.
func (f *Flow) PeerKey() PublicKey { return f.peer.PublicKey }

// PeerName returns that peer's name in the config, or "".
func (f *Flow) PeerName() string { return f.peer.Name }

// Source returns who has begun the flow. The port is 0 for a ping.
func (f *Flow) Source() netip.AddrPort { return f.flow.Source() }

// Destination returns whom the peer wants to reach. The port is 0 for a ping.
func (f *Flow) Destination() netip.AddrPort { return f.flow.Destination() }

// Target returns the name (or "") and the key of the peer whose AllowedIPs have the destination, if there is one and it is
// another than the flow's own.
func (f *Flow) Target() (name string, key PublicKey, ok bool) {
	if f.target == nil {
		return "", PublicKey{}, false
	}
	return f.target.Name, f.target.PublicKey, true
}

// Context returns a context that is done when the flow has come to its end: it was refused or dropped, the peer gave it
// up, nobody decided for a minute, it was evicted, an address of it has become another peer's, its connection or the Net
// was closed. [context.Cause] says why.
func (f *Flow) Context() context.Context { return f.flow.Context() }

// Accept makes the program the flow's other end. The connection's local address is the flow's destination.
//
// For TCP it completes the handshake, and the connection has the methods of [net.TCPConn], as others have: CloseRead,
// CloseWrite, SetLinger and so on. For UDP and pings, each Read and Write is one message: of UDP a datagram, of up to
// 65,507 bytes (IPv6: 65,527); of a ping a sequence number (two bytes, big endian) and data, read from a request and
// written into a reply. Such a conversation has no end but Close: give Read a deadline. Of datagrams that wait to be read
// there may be 1 MiB for each flow and 16 MiB for each peer; further ones are lost.
//
// The connection has to be closed. Errors are [*net.OpError]; errors.Is holds for [ErrFlowDecided], [net.ErrClosed],
// ECONNABORTED and ECONNRESET (the other side has given up).
func (f *Flow) Accept() (net.Conn, error) {
	c, err := f.flow.Accept()
	if err != nil {
		return nil, err
	}
	return pinFlow(c, f.peer.who()), nil
}

// Forward has the flow's packets pass to the peer that serves its destination ([Flow.Target]), and the answers back. It
// ends when no packet has come for five minutes (UDP), for two hours and four minutes (an established TCP connection), for
// four minutes (TCP otherwise) or a minute (ping), as RFC 4787 and RFC 5382 have it.
//
// Errors are [*net.OpError]; errors.Is holds for ENETUNREACH (no other peer serves the destination), EHOSTUNREACH (that
// peer has no endpoint and has not been heard from), [ErrFlowDecided] and [net.ErrClosed]. With the first two the flow is
// undecided still, and Refuse takes the error as its reason.
func (f *Flow) Forward() error {
	if f.target != nil {
		if err := f.net.mute(f.Context(), f.target); err != nil {
			addr := &net.IPAddr{IP: f.Destination().Addr().AsSlice()}
			return &net.OpError{Op: "forward", Net: f.Network(), Addr: addr, Err: err}
		}
	}
	return f.flow.Forward()
}

// Refuse tells the other side that the destination does not want the flow, or cannot be reached, and why: ECONNREFUSED (a
// reset of TCP, port unreachable for UDP), EHOSTUNREACH, ENETUNREACH, and EACCES for what is forbidden (ICMP errors of
// these kinds). reason is looked at with errors.Is. Anything else is taken for ECONNREFUSED, and that for EHOSTUNREACH if
// the flow is a ping.
//
// A TCP client's dial fails at once, and with that error where its host heeds the ICMP error. Over IPv6, a client that is
// a Net fails with ENETUNREACH for all three of them. ICMP errors are limited to 100 a second for each peer; past it TCP
// gets a reset.
//
// After Accept of UDP or pings, until the connection is closed, it answers in the same way the datagram that has come
// last: a program that has passed it on, and was refused, can say so. The flow goes on.
func (f *Flow) Refuse(reason error) { f.flow.Refuse(reason) }

// Drop leaves the other side without an answer. Its next packet begins another flow. It may come at any time: during Accept
// it ends that call, and after Forward the flow. When Accept has returned it does nothing: the connection ends by its Close.
func (f *Flow) Drop() { f.flow.Drop() }

// ErrFlowDecided is the error of a second decision about a [Flow], or of one that comes after its handler has returned.
var ErrFlowDecided = netstack.ErrDecided

// FlowStats counts flows: those that there are now, and what became of the others. See [Net.HandleFlows].
type FlowStats struct {
	// Open flows are accepted and not closed yet, or forwarded. Undecided ones wait for their handler.
	Open      int `json:"open"`
	Undecided int `json:"undecided"`
	// Accepted, Forwarded, Refused and Dropped are decisions since the beginning. Dropped has flows whose handler returned
	// without one or took longer than a minute, and those whose TCP handshake the other side did not complete.
	Accepted  uint64 `json:"accepted"`
	Forwarded uint64 `json:"forwarded"`
	Refused   uint64 `json:"refused"`
	Dropped   uint64 `json:"dropped"`
	// Evicted flows were ended to make room for others.
	Evicted uint64 `json:"evicted"`
	// Capped packets would have begun a flow, but there were too many.
	Capped uint64 `json:"capped"`
	// Unhandled packets were for addresses that are not the Net's own, and there was no handler.
	Unhandled uint64 `json:"unhandled"`
}

// String returns the counters that are not 0 as "1 open, 3 accepted", or "none".
func (s FlowStats) String() string {
	return listCounters([]counter{
		{uint64(s.Open), "open"},
		{uint64(s.Undecided), "undecided"},
		{s.Accepted, "accepted"},
		{s.Forwarded, "forwarded"},
		{s.Refused, "refused"},
		{s.Dropped, "dropped"},
		{s.Evicted, "evicted"},
		{s.Capped, "capped"},
		{s.Unhandled, "unhandled"},
	})
}

// logUnhandled says once why what a peer wants from beyond this host goes nowhere.
func (n *Net) logUnhandled(src netstack.PeerID, dst netip.Addr) {
	n.withPeer(src, func(p *peer) {
		n.log.Warn("a packet for an address that is not ours goes nowhere: there is no handler for flows (HandleFlows)",
			"peer", p.label(), "destination", dst)
	})
}
