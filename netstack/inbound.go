// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// inbound decides which packets from the tunnel the stack gets to see. The device has authenticated the peer and
// knows that the source is one of its allowed IPs; but a peer may be allowed everything, and may be hostile.
// gVisor checks checksums, options and extension headers.
type inbound struct {
	own                    *atomic.Pointer[ownAddresses]
	dropped                atomic.Uint64
	fragments4, fragments6 reassembly
}

// inboundPacket is a packet that may be delivered, and what is known of it.
type inboundPacket struct {
	packet []byte
	proto  tcpip.NetworkProtocolNumber
	src    netip.Addr
	dst    netip.Addr
	whole  bool // it came in fragments
	// ipLen and allLen are the lengths of the IP header and of both headers, if the packet is a TCP segment that may be
	// one of a run: see parseSegment. Else both are 0.
	ipLen, allLen int
}

// check reports whether there is a packet to deliver, and fills p with it: the one given, or the one that it completes.
func (in *inbound) check(p *inboundPacket, packet []byte) bool {
	proto, src, dst, ok := parseAddresses(packet)
	var whole []byte
	if ok = ok && in.validSource(src) && validDestination(dst); ok {
		whole, ok = in.reassemble(packet, proto, src, dst)
	}
	if !ok {
		in.dropped.Add(1)
	}
	if !ok || whole == nil {
		return false
	}
	*p = inboundPacket{packet: whole, proto: proto, src: src, dst: dst, whole: &whole[0] != &packet[0]}
	p.parseSegment()
	return true
}

// reassemble returns the packet that is to be delivered, or nil if it is a fragment and others are still missing, or
// not a valid one.
func (in *inbound) reassemble(packet []byte, proto tcpip.NetworkProtocolNumber, src, dst netip.Addr) (whole []byte, ok bool) {
	f, isFragment, ok := parseFragment(packet, proto, src, dst)
	switch {
	case !ok || !isFragment:
		return packet, ok
	case proto == ipv4.ProtocolNumber:
		return in.fragments4.add(f, time.Now())
	}
	whole, ok = in.fragments6.add(f, time.Now())
	if whole != nil {
		if _, again, _ := parseFragment(whole, proto, src, dst); again {
			return nil, false // a fragment inside of a fragment would reach gVisor's reassembly
		}
	}
	return whole, ok
}

// Source returns the source address of an IP packet. It reports false for what is not a whole, well-formed packet.
func Source(packet []byte) (netip.Addr, bool) {
	_, src, _, ok := parseAddresses(packet)
	return src, ok
}

// parseAddresses checks the lengths in the IP header against the packet's and returns its addresses.
func parseAddresses(packet []byte) (proto tcpip.NetworkProtocolNumber, src, dst netip.Addr, ok bool) {
	if len(packet) == 0 {
		return 0, src, dst, false
	}
	switch packet[0] >> 4 {
	case 4:
		if len(packet) < header.IPv4MinimumSize {
			return 0, src, dst, false
		}
		headerLen, total := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:4]))
		if headerLen < header.IPv4MinimumSize || total < headerLen || total != len(packet) {
			return 0, src, dst, false
		}
		return ipv4.ProtocolNumber, netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20])), true
	case 6:
		if len(packet) < header.IPv6MinimumSize {
			return 0, src, dst, false
		}
		// The sum is not computed in 16 bits: there it wraps for payloads of 65,496 bytes and more (fault 41).
		if int(binary.BigEndian.Uint16(packet[4:6]))+header.IPv6MinimumSize != len(packet) {
			return 0, src, dst, false
		}
		return ipv6.ProtocolNumber, netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40])), true
	}
	return 0, src, dst, false
}

// validSource refuses sources that cannot be those of a packet from another host (RFC 1122, section 3.2.1.3; RFC
// 4291, sections 2.5 and 2.7), among them our own addresses: who answers to such a packet answers to itself.
func (in *inbound) validSource(src netip.Addr) bool {
	return !src.IsUnspecified() && !src.IsLoopback() && !src.IsMulticast() && !src.Is4In6() &&
		src != broadcast4 && !in.own.Load().has(src)
}

// validDestination refuses what must never come over a link, and broadcasts and multicasts: a tunnel has no such, and
// a stack that nobody can make join a group needs none.
func validDestination(dst netip.Addr) bool {
	return !dst.IsUnspecified() && !dst.IsLoopback() && !dst.IsMulticast() && !dst.Is4In6() && dst != broadcast4
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
