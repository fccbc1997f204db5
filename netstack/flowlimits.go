// SPDX-License-Identifier: MIT

package netstack

import (
	"container/heap"
	"container/list"
	"sync/atomic"
	"syscall"
	"time"
)

// flowLimits bound the flows of all peers together and of each. Handlers that go on after their flow's end count as
// undecided ones do: a handler holds a goroutine.
type flowLimits struct {
	flows, peerFlows         int
	undecided, peerUndecided int
	// spared is how many flows, or undecided ones, a peer may have when others have taken up all that there are. There
	// may be twice as many then.
	spared int
	// peerBuffered bounds what waits in a peer's flows, in bytes: held packets, and datagrams that were not read. Held SYNs
	// count too, and are held past it.
	peerBuffered int64
}

var defaultFlowLimits = flowLimits{
	flows: 16_384, peerFlows: 4096, undecided: 4096, peerUndecided: 512, spared: 8, peerBuffered: 16 << 20,
}

// flowPeer is what is known of one peer's flows. transit.mu guards it, but for buffered.
type flowPeer struct {
	stats     FlowStats
	idle      list.List // of the flows that may be evicted, longest idle first; ranking follows its length
	place     int       // in transit.ranking
	open      int
	undecided int
	errors    bucket // of ICMP errors to the peer
	buffered  atomic.Int64
}

// flowRanking is a heap of the peers, whose first one has most flows that may be evicted. Who pays for a new flow is so found
// without a look at all peers, which would make each packet that begins one dear when there are thousands of them.
type flowRanking []*flowPeer

// Len implements [heap.Interface], as the other methods do.
func (r flowRanking) Len() int           { return len(r) }
func (r flowRanking) Less(i, j int) bool { return r[i].idle.Len() > r[j].idle.Len() }
func (r flowRanking) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].place, r[j].place = i, j
}

func (r *flowRanking) Push(p any) {
	p.(*flowPeer).place = len(*r)
	*r = append(*r, p.(*flowPeer))
}

func (r *flowRanking) Pop() any {
	last := len(*r) - 1
	p := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return p
}

// FlowStats counts flows: those that there are now, and what became of the others.
type FlowStats struct {
	// Open are accepted or forwarded, and Undecided wait for their handler, now.
	Open, Undecided int
	// Accepted, Forwarded, Refused and Dropped are decisions. Dropped has flows whose handler returned without one, or
	// took longer than a minute.
	Accepted, Forwarded, Refused, Dropped uint64
	// Evicted flows were ended to make place for others.
	Evicted uint64
	// Capped packets would have begun a flow, and there were too many.
	Capped uint64
	// Unhandled packets were for addresses that are not the stack's own, and there was no handler.
	Unhandled uint64
}

// add adds what is counted up.
func (s *FlowStats) add(o FlowStats) {
	s.Accepted += o.Accepted
	s.Forwarded += o.Forwarded
	s.Refused += o.Refused
	s.Dropped += o.Dropped
	s.Evicted += o.Evicted
	s.Capped += o.Capped
	s.Unhandled += o.Unhandled
}

// FlowStats returns the counters of all flows, and of each peer that has had any since it has a route.
func (s *Stack) FlowStats() (all FlowStats, peers map[PeerID]FlowStats) {
	t := s.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	all, peers = t.stats, make(map[PeerID]FlowStats, len(t.peers))
	for id, p := range t.peers {
		all.add(p.stats)
		all.Open += p.stats.Open
		all.Undecided += p.stats.Undecided
		peers[id] = p.stats
	}
	return all, peers
}

// makeRoomLocked reports whether another flow of a peer may begin. It evicts one if that helps.
func (t *transit) makeRoomLocked(peer *flowPeer) bool {
	l := &t.limits
	switch {
	case peer.undecided >= l.peerUndecided, t.undecided >= l.undecided && (peer.undecided >= l.spared || t.undecided >= 2*l.undecided):
		return false
	case peer.open < l.peerFlows && t.open < l.flows:
		return true
	}
	// The peer that has most pays. Who has as many, accepted TCP connections and undecided flows included, is that peer.
	most := t.ranking[0]
	if peer.open >= l.peerFlows || peer.open >= most.open {
		most = peer
	}
	e := most.idle.Front()
	if e == nil {
		return peer.open < l.spared && t.open < 2*l.flows
	}
	f := e.Value.(*Flow)
	f.peer.stats.Evicted++
	f.endLocked(syscall.ECONNABORTED)
	return true
}

// peerLocked returns what is known of a peer, which must be in the table of routes now: forget takes it away again.
func (t *transit) peerLocked(id PeerID) *flowPeer {
	p := t.peers[id]
	if p == nil {
		p = &flowPeer{}
		t.peers[id] = p
		heap.Push(&t.ranking, p)
	}
	return p
}

// touchLocked notes that a flow is in use. That it waits for a decision is counted from its beginning.
func (t *transit) touchLocked(f *Flow) {
	if f.state == flowUndecided || f.state == flowAccepting {
		return
	}
	f.used = t.now()
	if f.inIdle != nil && f.used-f.ranked > time.Second { // exact enough, and cheap
		f.ranked = f.used
		f.peer.idle.MoveToBack(f.inIdle)
	}
}

// forget takes leave of peers that have no route any more.
func (t *transit) forget(now *routeTable) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if !now.serves(id) {
			t.stats.add(p.stats)
			heap.Remove(&t.ranking, p.place) // none of its flows is left, nor will another be listed: see rerouted
			delete(t.peers, id)
		}
	}
}
