// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// The coalescer makes one packet of consecutive segments of a TCP flow, which costs gVisor as much as one of them does.
// Its invariants:
//   - what it merges carries the same bytes, options and flags: the receiving TCP cannot tell the difference;
//   - only segments with a valid checksum are merged, each checked by itself;
//   - order is kept, and everything that is not surely alike is delivered as it came, for gVisor to judge.

// maxCoalesced is the size of the largest packet that segments become: what the IPv4 total length can say.
const maxCoalesced = 65_535

// parseSegment finds out whether the packet may be one of a run: an IP packet without options, extension headers or
// fragments, with a valid checksum, payload, and no flags but ACK and PSH. The packet has passed parseAddresses.
func (p *inboundPacket) parseSegment() {
	ipLen := header.IPv6MinimumSize
	if isIPv4(p.packet) {
		ipLen = header.IPv4MinimumSize
		h := header.IPv4(p.packet)
		if h.More() || h.FragmentOffset() != 0 || h.HeaderLength() != header.IPv4MinimumSize ||
			h.Protocol() != uint8(header.TCPProtocolNumber) || !h.IsChecksumValid() {
			return
		}
	} else if p.packet[6] != uint8(header.TCPProtocolNumber) { // next header
		return
	}
	if len(p.packet) < ipLen+header.TCPMinimumSize {
		return
	}
	tcp := header.TCP(p.packet[ipLen:])
	tcpLen := int(tcp.DataOffset())
	if tcpLen < header.TCPMinimumSize || tcpLen >= len(tcp) { // a length that lies, or no payload
		return
	}
	if tcp.Flags()&^header.TCPFlagPsh != header.TCPFlagAck || !checksumValid(p.packet, ipLen) {
		return
	}
	p.ipLen, p.allLen = ipLen, ipLen+tcpLen
}

func (p *inboundPacket) isSegment() bool   { return p.allLen > 0 }
func (p *inboundPacket) tcp() header.TCP   { return header.TCP(p.packet[p.ipLen:p.allLen]) }
func (p *inboundPacket) payload() []byte   { return p.packet[p.allLen:] }
func (p *inboundPacket) options() []byte   { return p.packet[p.ipLen+header.TCPMinimumSize : p.allLen] }
func (p *inboundPacket) addresses() []byte { return addresses(p.packet) }

// addresses are source and destination, side by side in both kinds of IP header.
func addresses(packet []byte) []byte {
	if isIPv4(packet) {
		return packet[12:20]
	}
	return packet[8:40]
}

func checksumValid(packet []byte, ipLen int) bool {
	return segmentSum(packet[ipLen:], pseudoSum(packet)) == 0xffff
}

// coalesce finds the run that begins with the first packet. It returns how many packets are in it, and the size of the
// packet that they become.
func coalesce(batch []inboundPacket) (n, size int) {
	first := &batch[0]
	n, size = 1, len(first.packet)
	if !first.isSegment() {
		return n, size
	}
	for ; n < len(batch); n++ {
		next := &batch[n]
		if !next.follows(&batch[n-1], first) || size+len(next.payload()) > maxCoalesced {
			break
		}
		size += len(next.payload())
	}
	return n, size
}

// follows says whether p continues a run that last ends: the same flow, the next byte, and headers that differ in
// nothing that the stack could see. All but the last have the first one's payload size; a pushed segment is the last.
// These are the rules of Linux's GRO, which lets windows differ and merges a FIN too: that is not worth a rule here.
func (p *inboundPacket) follows(last, first *inboundPacket) bool {
	if !p.isSegment() || p.ipLen != last.ipLen {
		return false
	}
	a, b := last.tcp(), p.tcp()
	return !a.Flags().Contains(header.TCPFlagPsh) &&
		a[header.TCPDataOffset] == b[header.TCPDataOffset] && // and the reserved bits beside it
		len(last.payload()) == len(first.payload()) && len(p.payload()) <= len(first.payload()) &&
		b.SequenceNumber() == a.SequenceNumber()+uint32(len(last.payload())) &&
		a.SourcePort() == b.SourcePort() && a.DestinationPort() == b.DestinationPort() &&
		bytes.Equal(p.addresses(), last.addresses()) && sameIP(last.packet, p.packet) &&
		a.AckNumber() == b.AckNumber() && a.WindowSize() == b.WindowSize() && a.UrgentPointer() == b.UrgentPointer() &&
		bytes.Equal(last.options(), p.options())
}

// sameIP compares, of two packets of one family, traffic class with its ECN bits (RFC 3168, section 5.3), flow label or
// fragment flags, and time to live. IDs may differ: nobody looks at them past reassembly (RFC 6864, section 4.1).
func sameIP(a, b []byte) bool {
	if isIPv4(a) {
		return a[1] == b[1] && a[6] == b[6] && a[7] == b[7] && a[8] == b[8]
	}
	return bytes.Equal(a[:4], b[:4]) && a[7] == b[7]
}

// merge writes the packet that a run becomes to dst, which has its size. Its TCP checksum is not computed: that of each
// segment was right.
func merge(dst []byte, run []inboundPacket) {
	first := &run[0]
	at := copy(dst, first.packet)
	for i := range run[1:] {
		at += copy(dst[at:], run[1+i].payload())
	}
	last := &run[len(run)-1] // the only one that can have PSH
	header.TCP(dst[first.ipLen:]).SetFlags(uint8(last.tcp().Flags()))
	if isIPv4(dst) {
		h := header.IPv4(dst)
		h.SetTotalLength(uint16(len(dst)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	} else {
		header.IPv6(dst).SetPayloadLength(uint16(len(dst) - header.IPv6MinimumSize))
	}
}
