// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// pingSize is the payload of ping(8): 56 bytes, which make an ICMP message of 64.
const pingSize = 56

// PingReply is the answer to a ping.
type PingReply struct {
	// Addr is who answered.
	Addr netip.Addr
	// RTT is the round-trip time.
	RTT time.Duration
	// Seq is the request's sequence number: the Net counts its requests from 1, and after 65,535 from 0 again.
	Seq uint16
	// TTL is the answer's time to live as it arrived (IPv6: its hop limit).
	TTL uint8
}

// Ping sends an ICMP echo request to a host inside the tunnel and waits for the answer. Host is what [Net.DialContext]
// takes; of several addresses the first is asked. It needs no privileges. Give ctx a deadline: a request that nobody
// answers is not repeated.
//
// Errors are those of [Net.DialContext], with the Op "ping".
func (n *Net) Ping(ctx context.Context, host string) (PingReply, error) {
	addrs, err := n.dialAddrs(ctx, "ip", host)
	if err != nil {
		return PingReply{}, &net.OpError{Op: "ping", Net: "ip", Err: err}
	}
	addr := addrs[0]
	p := n.peerFor(addr)
	if err := n.mute(ctx, p); err != nil {
		return PingReply{}, &net.OpError{Op: "ping", Net: "ip", Addr: &net.IPAddr{IP: addr.AsSlice()}, Err: err}
	}
	seq := uint16(n.pings.Add(1))
	reply, err := n.stack.Ping(ctx, addr, seq, pingSize)
	if err != nil {
		return PingReply{}, n.explain(err, p, addr)
	}
	return PingReply{Addr: addr, RTT: reply.RTT, Seq: seq, TTL: reply.TTL}, nil
}
