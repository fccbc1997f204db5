// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"
	"slices"
)

// PeerID names a peer towards a [Stack], which knows nothing else of it. The caller picks the numbers.
type PeerID uint32

// Route says that a peer serves the addresses of a prefix: one entry of that peer's allowed IPs.
type Route struct {
	Prefix netip.Prefix
	Peer   PeerID
}

// routeTable finds the peer that serves an address, by the longest prefix. It is immutable, so that the packet
// path reads it without a lock. Prefixes are kept in one map for each length that is in use: real tables have
// two or three lengths, and a look-up tries them longest first.
type routeTable struct {
	// bits4 and bits6 are the prefix lengths in use, longest first.
	bits4, bits6 []int
	peers        map[netip.Prefix]PeerID
	served       map[PeerID]struct{} // the peers that have a prefix
}

func newRouteTable(routes []Route) *routeTable {
	t := &routeTable{peers: make(map[netip.Prefix]PeerID, len(routes)), served: map[PeerID]struct{}{}}
	for _, r := range routes {
		p := r.Prefix.Masked()
		t.peers[p] = r.Peer
		t.served[r.Peer] = struct{}{}
		if p.Addr().Is4() {
			t.bits4 = append(t.bits4, p.Bits())
		} else {
			t.bits6 = append(t.bits6, p.Bits())
		}
	}
	t.bits4, t.bits6 = longestFirst(t.bits4), longestFirst(t.bits6)
	return t
}

func longestFirst(bits []int) []int {
	slices.Sort(bits)
	slices.Reverse(bits)
	return slices.Clip(slices.Compact(bits))
}

// serves says whether there is something that the peer serves.
func (t *routeTable) serves(peer PeerID) bool {
	if t == nil {
		return peer == 0
	}
	_, ok := t.served[peer]
	return ok
}

// lookup returns the peer that serves addr, which must not be 4-in-6 nor have a zone.
// A nil table serves every address by peer 0.
func (t *routeTable) lookup(addr netip.Addr) (PeerID, bool) {
	if t == nil {
		return 0, true
	}
	bits := t.bits6
	if addr.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		prefix, err := addr.Prefix(n)
		if err != nil {
			return 0, false
		}
		if peer, ok := t.peers[prefix]; ok {
			return peer, true
		}
	}
	return 0, false
}
