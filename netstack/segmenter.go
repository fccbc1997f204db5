// SPDX-License-Identifier: MIT

package netstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxHeaders is the largest IP header (IPv4 with options) and the largest TCP header, in bytes.
const maxHeaders = 60 + 60

// segmenter cuts what the stack sends into packets for the device. gVisor hands over TCP segments that are several
// packets long (see maxSegment), which is what makes it fast, and leaves their checksums to us; every other packet passes
// as it is.
//
// Its invariants:
//   - it has one packet at a time, and writes it in order and whole, over as many calls as it takes;
//   - each packet that it writes is complete by itself: lengths, IPv4 ID and checksum, sequence number, TCP checksum;
//   - FIN and PSH are on the last one only (RFC 9293, section 3.9.1), everything else of the header is on each (CWR,
//     which belongs on the first one only, is never there: gVisor does not speak ECN);
//   - it never changes the packet, which TCP may send again.
type segmenter struct {
	pkt  *stack.PacketBuffer // nil when there is nothing to write
	view *buffer.View        // where the rest of the packet begins,
	skip int                 // and how far into the view

	// left is what has not been written: of the payload of a TCP segment, of anything else in all.
	left int

	// What follows is for TCP segments only; ipLen is 0 for the rest.
	header        [maxHeaders]byte
	ipLen, allLen int // the lengths of the IP header, and of both
	mss           int // payload of each packet but the last
	seq           uint32
	id            uint16
	last          header.TCPFlags // the flags of the last packet
	pseudoSum     uint16
}

// start takes the packet in, with the caller's reference. The one before must be done. What is written of a TCP segment is
// no larger than the path's MTU, if that is not 0.
func (s *segmenter) start(pkt *stack.PacketBuffer, pathMTU int) {
	views, skip := pkt.AsViewList()
	s.pkt, s.view, s.skip = pkt, views.Front(), skip
	s.left, s.ipLen = pkt.Size(), 0
	if pkt.GSOOptions.Type == stack.GSONone || !pkt.GSOOptions.NeedsCsum {
		return
	}

	ipLen, tcpLen := len(pkt.NetworkHeader().Slice()), len(pkt.TransportHeader().Slice())
	s.ipLen, s.allLen = ipLen, ipLen+tcpLen
	s.copy(s.header[:s.allLen])
	s.left = pkt.Data().Size()
	s.mss = payloadSize(pkt, pathMTU)
	ip, tcp := s.header[:ipLen], header.TCP(s.header[ipLen:s.allLen])
	s.seq, s.last = tcp.SequenceNumber(), tcp.Flags()
	s.pseudoSum = pseudoSum(ip)
	if isIPv4(ip) {
		s.id = header.IPv4(ip).ID()
	}
}

// busy says whether there is something left to write.
func (s *segmenter) busy() bool { return s.pkt != nil }

// next writes the next packet to dst and returns its size. After the last one it lets the packet go. What dst has no
// place for is dropped whole, and the size is 0, which the device skips: half a packet is of no use to anybody.
func (s *segmenter) next(dst []byte) int {
	if s.ipLen == 0 {
		n := s.left
		if n > len(dst) {
			n = 0
		}
		s.copy(dst[:n])
		s.done()
		return n
	}
	payload := min(s.left, s.mss)
	size := s.allLen + payload
	if size > len(dst) {
		s.done()
		return 0
	}
	packet := dst[:size]
	copy(packet, s.header[:s.allLen])
	s.copy(packet[s.allLen:])
	s.left -= payload
	s.complete(packet, s.left == 0)
	s.seq += uint32(payload)
	s.id++
	if s.left == 0 {
		s.done()
	}
	return size
}

// complete writes what differs from packet to packet.
func (s *segmenter) complete(packet []byte, last bool) {
	ip, segment := packet[:s.ipLen], packet[s.ipLen:]
	if isIPv4(ip) {
		h := header.IPv4(ip)
		h.SetTotalLength(uint16(len(packet)))
		if h.Flags()&header.IPv4FlagDontFragment == 0 {
			// What may be fragmented needs an ID of its own (RFC 6864, section 4.3).
			h.SetID(s.id)
		}
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	} else {
		header.IPv6(ip).SetPayloadLength(uint16(len(packet) - header.IPv6MinimumSize))
	}

	tcp := header.TCP(segment)
	tcp.SetSequenceNumber(s.seq)
	if !last {
		tcp.SetFlags(uint8(s.last &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	}
	tcp.SetChecksum(0)
	tcp.SetChecksum(^segmentSum(segment, s.pseudoSum))
}

// pseudoSum is the sum over the pseudo header without the segment's length (RFC 9293, section 3.1; RFC 8200, section
// 8.1). gVisor sends no routing header, and the coalescer lets none in: the destination is the IP header's.
func pseudoSum(packet []byte) uint16 {
	return checksum.Checksum(addresses(packet), uint16(header.TCPProtocolNumber))
}

// segmentSum adds the segment and its length: 0xffff if the checksum in it is right, the complement of what belongs
// there if it is 0.
func segmentSum(segment []byte, pseudoSum uint16) uint16 {
	return checksum.Checksum(segment, checksum.Combine(pseudoSum, uint16(len(segment))))
}

// copy fills dst with what comes next in the packet, and returns how much that was.
func (s *segmenter) copy(dst []byte) int {
	n := 0
	for n < len(dst) && s.view != nil {
		b := s.view.AsSlice()
		if s.skip >= len(b) {
			s.skip -= len(b)
			s.view = s.view.Next()
			continue
		}
		c := copy(dst[n:], b[s.skip:])
		n += c
		s.skip += c
	}
	return n
}

func (s *segmenter) done() {
	s.pkt.DecRef()
	s.pkt, s.view, s.left = nil, nil, 0
}

// drop lets go of a packet that will not be written to its end.
func (s *segmenter) drop() {
	if s.pkt != nil {
		s.done()
	}
}

func isIPv4(packet []byte) bool { return packet[0]>>4 == 4 }
