// SPDX-License-Identifier: MIT

package gateway

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// Counters are of flows since the start, but Open, and of bytes of payload.
type Counters struct {
	Open      int    `json:"open"`      // flows that are open now, forwarded ones included
	Accepted  uint64 `json:"accepted"`  // flows that were let through: TCP connections that were made, UDP, ping
	Forwarded uint64 `json:"forwarded"` // flows to another peer that were let through; their bytes are not counted
	Denied    uint64 `json:"denied"`    // flows that the rules do not allow
	Refused   uint64 `json:"refused"`   // flows that the target refused, or to which there is no way
	Capped    uint64 `json:"capped"`    // flows that were dropped since too many were open
	Evicted   uint64 `json:"evicted"`   // flows that gave their place to another one
	Failed    uint64 `json:"failed"`    // flows that came to nothing for another reason: no answer, or no more sockets
	BytesOut  uint64 `json:"bytes_out"` // from peers to targets
	BytesIn   uint64 `json:"bytes_in"`  // from targets to peers
}

// PeerStatus is what a peer's flows have come to.
type PeerStatus struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"id"` // its public key as base64
	Counters
}

// Status is a snapshot of a gateway.
type Status struct {
	Counters              // of all peers
	Peers    []PeerStatus `json:"peers"` // in the order of their names; at most 4,096 are remembered
}

// Status takes a snapshot. It has no secrets in it.
func (g *Gateway) Status() Status {
	t := &g.table
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Status{Counters: t.total.snapshot(t.open)}
	for _, p := range t.peers {
		open := p.open() + len(p.flows[hub])
		s.Open += len(p.flows[hub])
		s.Peers = append(s.Peers, PeerStatus{Name: p.name, ID: p.id, Counters: p.snapshot(open)})
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return s
}

type counters struct {
	accepted, forwarded, denied, refused, capped, evicted, failed, bytesOut, bytesIn atomic.Uint64
}

func (c *counters) snapshot(open int) Counters {
	return Counters{
		Open: open, Accepted: c.accepted.Load(), Forwarded: c.forwarded.Load(), Denied: c.denied.Load(),
		Refused: c.refused.Load(), Capped: c.capped.Load(), Evicted: c.evicted.Load(), Failed: c.failed.Load(),
		BytesOut: c.bytesOut.Load(), BytesIn: c.bytesIn.Load(),
	}
}

// count adds to the peer's counters and to those of all.
func (r *request) count(add func(*counters)) {
	add(&r.peer.counters)
	add(&r.peer.table.total)
}

// moved counts bytes of a flow, and that it is alive.
func (f *flow) moved(out bool, n int) {
	f.touch()
	f.count(func(c *counters) {
		if out {
			c.bytesOut.Add(uint64(n))
		} else {
			c.bytesIn.Add(uint64(n))
		}
	})
}
