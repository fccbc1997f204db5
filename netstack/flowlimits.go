// SPDX-License-Identifier: MIT

package netstack

import (
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
	// peerBuffered bounds what waits in a peer's flows, in bytes: held packets, and datagrams that were not read.
	peerBuffered int64
}

var defaultFlowLimits = flowLimits{
	flows: 16_384, peerFlows: 4096, undecided: 4096, peerUndecided: 512, spared: 8, peerBuffered: 16 << 20,
}

// flowPeer is what is known of one peer's flows. transit.mu guards it, but for buffered.
type flowPeer struct {
	stats     FlowStats
	idle      list.List
	open      int
	undecided int
	errors    bucket // of ICMP errors to the peer
	buffered  atomic.Int64
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
	longest := &t.idle
	if peer.open >= l.peerFlows || peer.open > l.flows/len(t.peers) {
		longest = &peer.idle // who takes more than a fair share pays for it
	}
	e := longest.Front()
	if e == nil { // accepted TCP connections are all there are
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
		t.idle.MoveToBack(f.inIdle)
		f.peer.idle.MoveToBack(f.inPeerIdle)
	}
}

// forget takes leave of peers that have no route any more.
func (t *transit) forget(now *routeTable) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.peers {
		if !now.serves(id) {
			t.stats.add(p.stats)
			delete(t.peers, id)
		}
	}
}
