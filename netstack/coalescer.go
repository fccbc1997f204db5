// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// maxCoalesced is the size of the largest packet that segments become: what the IPv4 total length can say.
const maxCoalesced = 65_535

// segment is a received TCP segment that may be one of a run: an IP packet without options, extension headers or
// fragments, a valid checksum, payload, and no flags but ACK and PSH.
type segment struct {
	packet []byte
	ipLen  int // length of the IP header
	allLen int // length of both headers
}

func (s segment) ip() []byte         { return s.packet[:s.ipLen] }
func (s segment) tcp() header.TCP    { return header.TCP(s.packet[s.ipLen:s.allLen]) }
func (s segment) payload() []byte    { return s.packet[s.allLen:] }
func (s segment) next() uint32       { return s.tcp().SequenceNumber() + uint32(len(s.payload())) }
func (s segment) pushed() bool       { return s.tcp().Flags().Contains(header.TCPFlagPsh) }
func (s segment) addresses() []byte  { return s.ip()[addressesAt(s.packet):s.ipLen] }
func (s segment) tcpOptions() []byte { return s.packet[s.ipLen+header.TCPMinimumSize : s.allLen] }

// addressesAt is where the source address begins; the destination follows it in both families.
func addressesAt(packet []byte) int {
	if isIPv4(packet) {
		return 12
	}
	return 8
}

// parseSegment reports false for what is delivered as it is, for gVisor to judge. The packet has passed parseAddresses.
func parseSegment(packet []byte) (segment, bool) {
	s := segment{packet: packet}
	if isIPv4(packet) {
		h := header.IPv4(packet)
		// More fragments, or a fragment's offset; an option; a header that is not intact.
		if h.More() || h.FragmentOffset() != 0 || h.HeaderLength() != header.IPv4MinimumSize ||
			h.Protocol() != uint8(header.TCPProtocolNumber) || !h.IsChecksumValid() {
			return s, false
		}
		s.ipLen = header.IPv4MinimumSize
	} else {
		if packet[6] != uint8(header.TCPProtocolNumber) {
			return s, false
		}
		s.ipLen = header.IPv6MinimumSize
	}
	if len(packet) < s.ipLen+header.TCPMinimumSize {
		return s, false
	}
	tcpLen := int(header.TCP(packet[s.ipLen:]).DataOffset())
	s.allLen = s.ipLen + tcpLen
	if tcpLen < header.TCPMinimumSize || s.allLen >= len(packet) {
		return s, false // no payload, or a header that lies
	}
	if flags := s.tcp().Flags(); flags&^header.TCPFlagPsh != header.TCPFlagAck {
		return s, false
	}
	return s, s.checksumValid()
}

func (s segment) checksumValid() bool {
	segment := s.packet[s.ipLen:]
	var pseudo [4]byte // protocol and length, as the pseudo header has them
	pseudo[1] = uint8(header.TCPProtocolNumber)
	binary.BigEndian.PutUint16(pseudo[2:], uint16(len(segment)))
	sum := checksum.Checksum(s.addresses(), 0)
	sum = checksum.Checksum(pseudo[:], sum)
	return checksum.Checksum(segment, sum) == 0xffff
}

// follows says whether t continues a run that s ends: the same flow, the next byte, and headers that differ in nothing
// that the stack could see (RFC 9293; the same rules as Linux's GRO). first is the run's first segment: all have its
// payload size but the last, which may be shorter. A pushed segment ends a run.
func (t segment) follows(s, first segment) bool {
	a, b := s.tcp(), t.tcp()
	return s.ipLen == t.ipLen && s.allLen == t.allLen && !s.pushed() &&
		len(s.payload()) == len(first.payload()) && len(t.payload()) <= len(first.payload()) &&
		bytes.Equal(s.addresses(), t.addresses()) && sameIP(s.ip(), t.ip()) &&
		binary.BigEndian.Uint32(a) == binary.BigEndian.Uint32(b) && // both ports
		b.SequenceNumber() == s.next() &&
		a.AckNumber() == b.AckNumber() && a.WindowSize() == b.WindowSize() && a.UrgentPointer() == b.UrgentPointer() &&
		bytes.Equal(s.tcpOptions(), t.tcpOptions())
}

// sameIP compares version, traffic class with its ECN bits (RFC 3168, section 5.3), flow label or fragment flags, and
// time to live.
func sameIP(a, b []byte) bool {
	if isIPv4(a) {
		return a[0] == b[0] && a[1] == b[1] && a[6] == b[6] && a[7] == b[7] && a[8] == b[8]
	}
	return bytes.Equal(a[:4], b[:4]) && a[7] == b[7]
}

// coalesce finds the run that begins with the first packet. It returns how many packets are in it and, if that is more
// than one, the size of the packet that they become.
func coalesce(packets [][]byte) (n, size int) {
	first, ok := parseSegment(packets[0])
	if !ok {
		return 1, 0
	}
	n, size = 1, len(first.packet)
	for last := first; n < len(packets); n++ {
		t, ok := parseSegment(packets[n])
		if !ok || !t.follows(last, first) || size+len(t.payload()) > maxCoalesced {
			break
		}
		size += len(t.payload())
		last = t
	}
	return n, size
}

// merge writes the packet that a run becomes to dst, which has its size. Its TCP checksum is not computed: that of each
// segment was right.
func merge(dst []byte, run [][]byte) {
	first := run[0]
	ipLen := header.IPv6MinimumSize
	if isIPv4(first) {
		ipLen = header.IPv4MinimumSize
	}
	allLen := ipLen + int(header.TCP(first[ipLen:]).DataOffset())
	at := copy(dst, first)
	for _, packet := range run[1:] {
		at += copy(dst[at:], packet[allLen:])
	}
	// PSH can be on the last one only.
	header.TCP(dst[ipLen:]).SetFlags(uint8(header.TCP(run[len(run)-1][ipLen:]).Flags()))
	if isIPv4(first) {
		h := header.IPv4(dst)
		h.SetTotalLength(uint16(len(dst)))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	} else {
		header.IPv6(dst).SetPayloadLength(uint16(len(dst) - header.IPv6MinimumSize))
	}
}
