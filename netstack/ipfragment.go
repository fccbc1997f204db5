// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"math/rand/v2"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// fragmented cuts a packet into fragments of at most mtu bytes (RFC 791, section 3.2; RFC 8200, section 4.5). It has no
// options or extension headers, and is no fragment. It is returned as it is if it fits.
func fragmented(packet []byte, mtu int) [][]byte {
	if len(packet) <= mtu {
		return [][]byte{packet}
	}
	if isIPv4(packet) {
		return fragmented4(packet, mtu)
	}
	return fragmented6(packet, mtu)
}

func fragmented4(packet []byte, mtu int) (fragments [][]byte) {
	head, rest := packet[:header.IPv4MinimumSize], packet[header.IPv4MinimumSize:]
	// What may be fragmented has an ID of its own (RFC 6864, section 4.3), but for what we have put together.
	id := header.IPv4(head).ID()
	if id == 0 {
		id = uint16(1 + rand.IntN(65_535))
	}
	most := (mtu - len(head)) &^ 7
	for offset := 0; offset < len(rest); offset += most {
		piece := rest[offset:min(offset+most, len(rest))]
		b := append(append(make([]byte, 0, len(head)+len(piece)), head...), piece...)
		h := header.IPv4(b)
		h.SetTotalLength(uint16(len(b)))
		h.SetID(id)
		flags := uint8(0)
		if offset+len(piece) < len(rest) {
			flags = header.IPv4FlagMoreFragments
		}
		h.SetFlagsFragmentOffset(flags, uint16(offset))
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
		fragments = append(fragments, b)
	}
	return fragments
}

func fragmented6(packet []byte, mtu int) (fragments [][]byte) {
	head, rest := packet[:header.IPv6MinimumSize], packet[header.IPv6MinimumSize:]
	id := rand.Uint32() // which nobody can guess (RFC 7739)
	most := (mtu - len(head) - header.IPv6FragmentHeaderSize) &^ 7
	for offset := 0; offset < len(rest); offset += most {
		piece := rest[offset:min(offset+most, len(rest))]
		b := append(make([]byte, 0, len(head)+header.IPv6FragmentHeaderSize+len(piece)), head...)
		b[6] = header.IPv6FragmentHeader
		field := uint16(offset)
		if offset+len(piece) < len(rest) {
			field |= 1
		}
		b = append(b, head[6], 0)
		b = binary.BigEndian.AppendUint16(b, field)
		b = binary.BigEndian.AppendUint32(b, id)
		b = append(b, piece...)
		header.IPv6(b).SetPayloadLength(uint16(len(b) - len(head)))
		fragments = append(fragments, b)
	}
	return fragments
}
