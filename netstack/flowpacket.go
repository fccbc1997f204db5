// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// packetKind says what a packet is to a flow.
type packetKind uint8

const (
	kindTCP packetKind = iota
	kindUDP
	kindEchoRequest
	kindEchoReply
	kindError // an ICMP error, about a packet of a flow
)

// transitPacket is a packet for an address that is not the stack's own, and what is known of it. It has no options of
// IPv4 and no extension headers of IPv6: nobody needs them, and a router has reasons to distrust them (RFC 7126, section
// 3; RFC 9098).
type transitPacket struct {
	b     []byte // the whole packet
	ipLen int
	kind  packetKind
	ttl   uint8 // or hop limit
	// key is of the flow that the packet is of. An error's are the addresses of the packet that it is about.
	key flowKey
	// mss is the payload of each segment but the last, in bytes, if the packet is a run of segments; else 0.
	mss int
	// verified says that the checksum is right, or that those of the segments were.
	verified bool
	// whole says that the packet came in fragments.
	whole bool
}

// parse takes apart a packet that has passed inbound.check. It reports false for what no flow has.
func (p *transitPacket) parse(in *inboundPacket, b []byte, mss int) bool {
	*p = transitPacket{b: b, ipLen: header.IPv6MinimumSize, mss: mss, verified: in.isSegment(), whole: in.whole}
	if !validTransit(in.src, in.dst) {
		return false
	}
	var proto uint8
	if isIPv4(b) {
		h := header.IPv4(b)
		if h.HeaderLength() != header.IPv4MinimumSize || !h.IsChecksumValid() {
			return false // RFC 1812, section 5.2.2
		}
		proto, p.ttl, p.ipLen = h.Protocol(), h.TTL(), header.IPv4MinimumSize
	} else {
		proto, p.ttl = b[6], b[7]
	}
	l4 := b[p.ipLen:]
	switch {
	case proto == uint8(header.TCPProtocolNumber):
		if len(l4) < header.TCPMinimumSize {
			return false
		}
		if n := int(header.TCP(l4).DataOffset()); n < header.TCPMinimumSize || n > len(l4) {
			return false
		}
		p.kind = kindTCP
	case proto == uint8(header.UDPProtocolNumber):
		if len(l4) < header.UDPMinimumSize || int(header.UDP(l4).Length()) != len(l4) {
			return false
		}
		p.kind = kindUDP
	case len(l4) < echoHeader:
		return false
	case proto == uint8(header.ICMPv4ProtocolNumber) && isIPv4(b):
		switch header.ICMPv4(l4).Type() {
		case header.ICMPv4Echo:
			p.kind = kindEchoRequest
		case header.ICMPv4EchoReply:
			p.kind = kindEchoReply
		case header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded, header.ICMPv4ParamProblem:
			p.kind = kindError
		default:
			return false
		}
	case proto == uint8(header.ICMPv6ProtocolNumber) && !isIPv4(b):
		switch header.ICMPv6(l4).Type() {
		case header.ICMPv6EchoRequest:
			p.kind = kindEchoRequest
		case header.ICMPv6EchoReply:
			p.kind = kindEchoReply
		case header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
			p.kind = kindError
		default:
			return false
		}
	default:
		return false
	}
	if p.kind == kindError {
		var ok bool
		p.key, ok = innerKey(l4[echoHeader:], isIPv4(b))
		return ok && p.key.src.Addr() == in.dst && p.checksumValid()
	}
	p.key = keyOf(p.kind, in.src, in.dst, l4)
	return true
}

// keyOf makes the key of a packet from its transport header.
func keyOf(kind packetKind, src, dst netip.Addr, l4 []byte) flowKey {
	switch kind {
	case kindEchoRequest:
		return flowKey{flowPing, netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4[4:])), netip.AddrPortFrom(dst, 0)}
	case kindEchoReply:
		return flowKey{flowPong, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[4:]))}
	}
	proto := flowTCP
	if kind == kindUDP {
		proto = flowUDP
	}
	return flowKey{
		proto,
		netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:])),
	}
}

// innerKey reads which flow's packet an ICMP error is about, of which it carries the beginning: the IP header and eight
// bytes at least (RFC 792; RFC 4443, section 3.1).
func innerKey(inner []byte, v4 bool) (key flowKey, ok bool) {
	var src, dst netip.Addr
	var proto uint8
	switch {
	case v4:
		h := header.IPv4(inner)
		if len(inner) < header.IPv4MinimumSize || inner[0]>>4 != 4 || h.FragmentOffset() != 0 {
			return key, false
		}
		n := int(h.HeaderLength())
		if n < header.IPv4MinimumSize || len(inner) < n+echoHeader {
			return key, false
		}
		src, dst = netip.AddrFrom4([4]byte(inner[12:16])), netip.AddrFrom4([4]byte(inner[16:20]))
		proto, inner = h.Protocol(), inner[n:]
	default:
		if len(inner) < header.IPv6MinimumSize+echoHeader || inner[0]>>4 != 6 {
			return key, false
		}
		src, dst = netip.AddrFrom16([16]byte(inner[8:24])), netip.AddrFrom16([16]byte(inner[24:40]))
		proto, inner = inner[6], inner[header.IPv6MinimumSize:]
		if proto == header.IPv6FragmentHeader && len(inner) >= 2*echoHeader && binary.BigEndian.Uint16(inner[2:])&^7 == 0 {
			proto, inner = inner[0], inner[header.IPv6FragmentHeaderSize:]
		}
	}
	switch {
	case proto == uint8(header.TCPProtocolNumber):
		return keyOf(kindTCP, src, dst, inner), true
	case proto == uint8(header.UDPProtocolNumber):
		return keyOf(kindUDP, src, dst, inner), true
	case v4 && proto == uint8(header.ICMPv4ProtocolNumber):
		switch header.ICMPv4Type(inner[0]) {
		case header.ICMPv4Echo:
			return keyOf(kindEchoRequest, src, dst, inner), true
		case header.ICMPv4EchoReply:
			return keyOf(kindEchoReply, src, dst, inner), true
		}
	case !v4 && proto == uint8(header.ICMPv6ProtocolNumber):
		switch header.ICMPv6Type(inner[0]) {
		case header.ICMPv6EchoRequest:
			return keyOf(kindEchoRequest, src, dst, inner), true
		case header.ICMPv6EchoReply:
			return keyOf(kindEchoReply, src, dst, inner), true
		}
	}
	return key, false
}

// clone is a copy that may be kept.
func (p *transitPacket) clone() transitPacket {
	c := *p
	c.b = bytes.Clone(p.b)
	return c
}

// begins says whether a packet may begin a flow.
func (p *transitPacket) begins() bool {
	switch p.kind {
	case kindTCP:
		return p.tcp().Flags()&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst|header.TCPFlagFin) == header.TCPFlagSyn
	case kindUDP, kindEchoRequest:
		return true
	}
	return false
}

// holdable says whether a packet may begin a flow of ours, which keeps it until the decision.
func (p *transitPacket) holdable() bool {
	return p.begins() && (p.kind != kindTCP || len(p.b) <= maxSYN)
}

func (p *transitPacket) isReset() bool {
	return p.kind == kindTCP && p.tcp().Flags().Contains(header.TCPFlagRst)
}

// tcp is the segment of a packet that is one.
func (p *transitPacket) tcp() header.TCP { return header.TCP(p.b[p.ipLen:]) }

// message is the payload of a datagram; of a ping its sequence number and data.
func (p *transitPacket) message() []byte {
	if p.kind == kindUDP {
		return p.b[p.ipLen+header.UDPMinimumSize:]
	}
	return p.b[p.ipLen+6:]
}

// checksumValid says whether the checksum of the transport protocol is right.
func (p *transitPacket) checksumValid() bool {
	l4 := p.b[p.ipLen:]
	v4 := isIPv4(p.b)
	switch {
	case p.verified:
		return true
	case p.kind == kindTCP:
		return checksumValid(p.b, p.ipLen)
	case p.kind == kindUDP:
		sum := header.UDP(l4).Checksum()
		return sum == 0 && v4 || sum != 0 && transportSum(p.b, p.ipLen, uint8(header.UDPProtocolNumber)) == 0xffff
	case v4:
		return checksum.Checksum(l4, 0) == 0xffff
	}
	return transportSum(p.b, p.ipLen, uint8(header.ICMPv6ProtocolNumber)) == 0xffff
}

// transportSum adds up a packet from the transport header on, with the pseudo header: 0xffff if the checksum in it is
// right, the complement of what belongs there if it is 0.
func transportSum(packet []byte, ipLen int, proto uint8) uint16 {
	length := len(packet) - ipLen
	sum := checksum.Checksum(addresses(packet), 0)
	sum = checksum.Combine(sum, uint16(proto))
	sum = checksum.Combine(sum, uint16(length)) // never more than 65,535
	return checksum.Checksum(packet[ipLen:], sum)
}

// newIP makes a packet with room for size bytes behind the IP header, without checksums. Its length must fit.
func newIP(src, dst netip.Addr, proto uint8, size int) (packet []byte, ipLen int) {
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize+size)
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b)), TTL: defaultTTL, Protocol: proto, SrcAddr: gvisorAddr(src), DstAddr: gvisorAddr(dst),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return b, header.IPv4MinimumSize
	}
	b := make([]byte, header.IPv6MinimumSize+size)
	h := header.IPv6(b)
	h.Encode(&header.IPv6Fields{PayloadLength: uint16(size), HopLimit: defaultTTL, SrcAddr: gvisorAddr(src), DstAddr: gvisorAddr(dst)})
	b[6] = proto
	return b, header.IPv6MinimumSize
}

// defaultTTL is the time to live of what we send (RFC 1700).
const defaultTTL = 64

// packetBuffer makes what gVisor and the link have for a packet, of a copy.
func packetBuffer(b []byte) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	ipLen, proto, fragment := header.IPv6MinimumSize, uint8(0), false
	if isIPv4(b) {
		h := header.IPv4(b)
		ipLen, proto, fragment = int(h.HeaderLength()), h.Protocol(), h.More() || h.FragmentOffset() != 0
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	} else {
		proto = b[6]
		fragment = proto == header.IPv6FragmentHeader
		if fragment {
			ipLen += header.IPv6FragmentHeaderSize
		}
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	_, _ = pkt.NetworkHeader().Consume(ipLen)
	if fragment {
		return pkt // gVisor does not mark a fragment's transport protocol either
	}
	size := echoHeader // UDP's header is as long as that of an echo
	if proto == uint8(header.TCPProtocolNumber) {
		size = int(header.TCP(b[ipLen:]).DataOffset())
	}
	_, _ = pkt.TransportHeader().Consume(size)
	switch proto {
	case uint8(header.TCPProtocolNumber):
		pkt.TransportProtocolNumber = header.TCPProtocolNumber
	case uint8(header.UDPProtocolNumber):
		pkt.TransportProtocolNumber = header.UDPProtocolNumber
	case uint8(header.ICMPv4ProtocolNumber):
		pkt.TransportProtocolNumber = header.ICMPv4ProtocolNumber
	case uint8(header.ICMPv6ProtocolNumber):
		pkt.TransportProtocolNumber = header.ICMPv6ProtocolNumber
	}
	return pkt
}
