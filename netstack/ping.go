// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// echoHeader is the size of the header of an echo request in bytes, the same for both versions of ICMP.
const echoHeader = 8

// EchoReply is the answer to an echo request.
type EchoReply struct {
	// RTT is the time from the request to its answer.
	RTT time.Duration
	// TTL is the answer's time to live as it arrived (IPv6: its hop limit).
	TTL uint8
	// Size is the number of bytes of payload that came back.
	Size int
}

// Ping sends one ICMP echo request with the sequence number seq and size bytes of payload to addr, and waits for its
// answer. Requests that go on at the same time do not see one another's answers. Errors are [*net.OpError];
// errors.Is holds for ENETUNREACH (no peer serves the address), EMSGSIZE (the request is larger than the MTU),
// [net.ErrClosed], the context's error, and for a deadline [os.ErrDeadlineExceeded] too.
func (s *Stack) Ping(ctx context.Context, addr netip.Addr, seq uint16, size int) (EchoReply, error) {
	dst := localHost(addr.Unmap().WithZone(""))
	reply, err := s.ping(ctx, dst, seq, size)
	if err != nil {
		return EchoReply{}, opError("ping", "ip", nil, &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()}, err)
	}
	return reply, nil
}

func (s *Stack) ping(ctx context.Context, dst netip.Addr, seq uint16, size int) (EchoReply, error) {
	ipHeader := header.IPv4MinimumSize
	if dst.Is6() {
		ipHeader = header.IPv6MinimumSize
	}
	switch {
	case !dst.IsValid():
		return EchoReply{}, &net.AddrError{Err: "missing address"}
	case size < 0:
		return EchoReply{}, fmt.Errorf("payload of %d bytes, want 0 or more", size)
	case ctx.Err() != nil:
		return EchoReply{}, &contextError{ctx.Err()}
	case isClosed(s.done):
		return EchoReply{}, net.ErrClosed
	case size+echoHeader+ipHeader > int(s.link.mtu):
		return EchoReply{}, os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}

	dial := s.addDial(dst) // the wait ends when the route does
	defer s.removeDial(dial)
	if !s.reachable(dst) {
		return EchoReply{}, os.NewSyscallError("connect", syscall.ENETUNREACH)
	}
	if s.own.Load().has(dst) {
		// gVisor sends its answer to one of its own IPv4 addresses into the tunnel; the loopback is the same host.
		dst = loopbackLike(dst)
	}
	proto := icmp.ProtocolNumber4
	if dst.Is6() {
		proto = icmp.ProtocolNumber6
	}
	wq := new(waiter.Queue)
	ep, terr := s.stack.NewEndpoint(proto, protocolOf(dst), wq)
	if terr != nil {
		return EchoReply{}, s.failed("socket", terr)
	}
	defer ep.Close()
	ep.SocketOptions().SetReceiveTTL(true)
	ep.SocketOptions().SetReceiveHopLimit(true)
	entry, ready := waiter.NewChannelEntry(readEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if source, ok := s.source6(dst); ok {
		if err := ep.Bind(fullAddress(netip.AddrPortFrom(source, 0))); err != nil {
			return EchoReply{}, s.failed("bind", err)
		}
	}
	if err := ep.Connect(fullAddress(netip.AddrPortFrom(dst, 0))); err != nil {
		return EchoReply{}, s.failed("connect", err)
	}

	start := time.Now()
	if _, err := ep.Write(&payload{b: echoRequest(dst, seq, size)}, tcpip.WriteOptions{}); err != nil {
		return EchoReply{}, s.failed("sendto", err)
	}
	answer := make([]byte, echoHeader+size)
	for {
		w := tcpip.SliceWriter(answer)
		res, err := ep.Read(&w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			// gVisor gives us our own identifier's answers only; a late one may be of another request.
			if res.Count >= echoHeader && binary.BigEndian.Uint16(answer[6:]) == seq {
				return EchoReply{RTT: time.Since(start), TTL: ttlOf(res.ControlMessages), Size: res.Count - echoHeader}, nil
			}
			continue
		case *tcpip.ErrWouldBlock:
		default:
			return EchoReply{}, s.failed("recvfrom", err)
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return EchoReply{}, &contextError{ctx.Err()}
		case <-dial.lost:
			return EchoReply{}, s.lostRoute("recvfrom", dst)
		case <-s.done:
			return EchoReply{}, net.ErrClosed
		}
	}
}

// echoRequest leaves identifier and checksum to gVisor.
func echoRequest(dst netip.Addr, seq uint16, size int) []byte {
	b := make([]byte, echoHeader+size)
	b[0] = byte(header.ICMPv4Echo)
	if dst.Is6() {
		b[0] = byte(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[6:], seq)
	for i := range b[echoHeader:] {
		b[echoHeader+i] = byte(i)
	}
	return b
}

func ttlOf(cm tcpip.ReceivableControlMessages) uint8 {
	if cm.HasHopLimit {
		return cm.HopLimit
	}
	return cm.TTL
}
