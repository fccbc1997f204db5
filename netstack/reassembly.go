// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

const (
	// maxReassembly bounds the memory of incomplete datagrams in bytes, for each family. Past it the oldest goes.
	maxReassembly = 3 << 20
	// What an incomplete datagram and a fragment cost beyond their bytes, generously.
	partialCost, pieceCost = 768, 128
	// reassemblyTimeout is how long a datagram may take to be complete (RFC 8200, section 4.5; RFC 1122, section
	// 3.3.2, says 60 to 120 s for IPv4).
	reassemblyTimeout = 60 * time.Second
)

// reassembly puts the fragments of one family together, before gVisor sees them: its own reassembly lets a flood of
// small fragments take up more than three times the memory that it counts, and has no knob. It has no timer: an
// incomplete datagram that has timed out goes when the next fragment comes, and until then counts towards the bound.
type reassembly struct {
	mu       sync.Mutex // guards what follows
	partials map[fragmentID]*list.Element
	oldest   list.List // of *partial, oldest first
	cost     int
	lost     uint64 // datagrams that were given up: too old, or no room
}

type fragmentID struct {
	src, dst netip.Addr
	proto    uint8 // 0 for IPv6, where it does not tell datagrams apart
	id       uint32
}

// partial is a datagram of which fragments are missing.
type partial struct {
	id      fragmentID
	expires time.Time
	header  []byte  // of the fragment at offset 0; nil until that is there
	pieces  []piece // ascending, without overlaps
	have    int     // bytes in pieces
	total   int     // bytes in all; 0 until the last fragment is there
	cost    int
}

type piece struct {
	offset int
	data   []byte
}

func (p piece) end() int { return p.offset + len(p.data) }

// fragment is what a packet's headers say of its place in a datagram.
type fragment struct {
	fragmentID
	piece
	more   bool
	header []byte // for the whole datagram's packet, but for its lengths
}

// parseFragment takes a packet apart whose addresses and lengths are sound. It reports whether the packet is a fragment
// at all, and whether it is a valid one.
func parseFragment(packet []byte, proto tcpip.NetworkProtocolNumber, src, dst netip.Addr) (f fragment, isFragment, ok bool) {
	f.src, f.dst = src, dst
	if proto == ipv4.ProtocolNumber {
		h := header.IPv4(packet)
		if !h.More() && h.FragmentOffset() == 0 {
			return f, false, true
		}
		n := int(h.HeaderLength())
		f.proto, f.id, f.more = h.Protocol(), uint32(h.ID()), h.More()
		f.header, f.piece = packet[:n], piece{int(h.FragmentOffset()), packet[n:]}
		return f, true, h.IsChecksumValid() && f.valid(65_535-n)
	}
	next, rest := packet[6], packet[header.IPv6MinimumSize:]
	for next == 0 || next == 43 || next == 60 { // hop-by-hop options, routing header, destination options
		if len(rest) < 8 || len(rest) < 8*(int(rest[1])+1) {
			return f, false, true // gVisor says what is wrong with it
		}
		next, rest = rest[0], rest[8*(int(rest[1])+1):]
	}
	if next != header.IPv6FragmentHeader {
		return f, false, true
	}
	if len(rest) != len(packet)-header.IPv6MinimumSize || len(rest) < header.IPv6FragmentHeaderSize {
		return f, true, false // nobody fragments what has other extension headers, but for attackers
	}
	offset := binary.BigEndian.Uint16(rest[2:])
	f.id, f.more = binary.BigEndian.Uint32(rest[4:]), offset&1 != 0
	f.piece = piece{int(offset &^ 7), rest[header.IPv6FragmentHeaderSize:]}
	f.header = bytes.Clone(packet[:header.IPv6MinimumSize])
	f.header[6] = rest[0]
	return f, true, f.valid(65_535)
}

// valid says whether a fragment ends where it may.
func (f *fragment) valid(limit int) bool {
	return f.end() <= limit && len(f.data) > 0 && (!f.more || len(f.data)%8 == 0)
}

// add takes a fragment in and returns the whole packet if it was the last one that was missing. It reports false if
// the fragment was refused, and with it all of its datagram: fragments that overlap without being the same are an
// attack (RFC 5722; RFC 8200, section 4.5).
func (r *reassembly) add(f fragment, now time.Time) (whole []byte, ok bool) {
	if f.offset == 0 && !f.more {
		return join(f.header, []piece{f.piece}), true // an atomic fragment of IPv6 has no others (RFC 6946)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for e := r.oldest.Front(); e != nil && !now.Before(e.Value.(*partial).expires); e = r.oldest.Front() {
		r.lost++
		r.removeLocked(e)
	}
	e := r.partials[f.fragmentID]
	if e == nil {
		if r.partials == nil {
			r.partials = map[fragmentID]*list.Element{}
		}
		e = r.oldest.PushBack(&partial{id: f.fragmentID, expires: now.Add(reassemblyTimeout), cost: partialCost})
		r.partials[f.fragmentID] = e
		r.cost += partialCost
	}
	p := e.Value.(*partial)
	before := p.cost
	if !p.insert(f) {
		r.removeLocked(e)
		return nil, false
	}
	r.cost += p.cost - before
	if p.header != nil && p.total == p.have {
		whole = join(p.header, p.pieces)
		r.removeLocked(e)
		return whole, true
	}
	for r.cost > maxReassembly {
		r.lost++
		r.removeLocked(r.oldest.Front())
	}
	return nil, true
}

// forgotten counts the datagrams that were given up.
func (r *reassembly) forgotten() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// The caller holds r.mu.
func (r *reassembly) removeLocked(e *list.Element) {
	p := r.oldest.Remove(e).(*partial)
	delete(r.partials, p.id)
	r.cost -= p.cost
}

func (p *partial) insert(f fragment) bool {
	i, _ := slices.BinarySearchFunc(p.pieces, f.offset, func(have piece, offset int) int { return have.offset - offset })
	if i < len(p.pieces) && p.pieces[i].offset == f.offset && bytes.Equal(p.pieces[i].data, f.data) {
		return true // the network has delivered it twice
	}
	last := 0
	if n := len(p.pieces); n > 0 {
		last = p.pieces[n-1].end()
	}
	switch {
	case i > 0 && p.pieces[i-1].end() > f.offset, i < len(p.pieces) && f.end() > p.pieces[i].offset:
		return false // it overlaps
	case !f.more && (p.total != 0 || f.end() < last), f.more && p.total != 0 && f.end() > p.total:
		return false // two ends, or something past the end
	}
	f.data = bytes.Clone(f.data)
	p.pieces = slices.Insert(p.pieces, i, f.piece)
	p.have += len(f.data)
	p.cost += len(f.data) + len(f.data)/8 + pieceCost
	if !f.more {
		p.total = f.end()
	}
	if f.offset == 0 {
		p.header = bytes.Clone(f.header)
	}
	return true
}

// join makes the packet that was fragmented.
func join(head []byte, pieces []piece) []byte {
	whole := make([]byte, len(head), len(head)+pieces[len(pieces)-1].end())
	copy(whole, head)
	for _, p := range pieces {
		whole = append(whole, p.data...)
	}
	if whole[0]>>4 == 6 {
		header.IPv6(whole).SetPayloadLength(uint16(len(whole) - len(head)))
		return whole
	}
	h := header.IPv4(whole)
	h.SetTotalLength(uint16(len(whole)))
	h.SetFlagsFragmentOffset(0, 0)
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	return whole
}
