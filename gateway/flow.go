// SPDX-License-Identifier: MIT

package gateway

import (
	"container/heap"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// grace is for how long after something has moved in it a flow is safe from those of its own peer that come after it. It
// bounds what a flood of them costs the host: a peer opens no more than its places in each grace.
const grace = 500 * time.Millisecond

// maxPeers bounds the peers whose counters are kept.
const maxPeers = 4096

// Why a flow ended that did not end by itself.
var (
	errIdle    = errors.New("nothing was sent for too long")
	errEvicted = errors.New("its place was needed for another flow")
	errDenied  = errors.New("the rules have changed and do not allow it")
	errClosed  = errors.New("the gateway is closed")
)

// A Flow is what a peer begins: a TCP connection, a UDP flow (datagrams between one address and port and another), or a
// series of pings. [example.com/wgnet/wgnet.Flow] is one, and its methods say more. The gateway ends each flow that it
// is given with Accept, Forward, Refuse or Drop. The methods must be safe for concurrent use.
type Flow interface {
	// Network is "tcp", "udp" or "ping".
	Network() string

	// PeerName is the name of the peer that begins the flow, or "".
	PeerName() string

	// PeerID tells that peer from all others: its public key as base64.
	PeerID() string

	// Source and Destination are the flow's ends, with port 0 for ping.
	Source() netip.AddrPort
	Destination() netip.AddrPort

	// ToPeer reports whether a peer serves the destination, so that Forward can reach it.
	ToPeer() bool

	// Context is done when the peer has given up, and when there is no more tunnel.
	Context() context.Context

	// Accept answers the peer and returns the connection with it. One of UDP keeps the boundaries of datagrams. On
	// one of ping each message is an echo's sequence number, of two bytes, the most significant first, and its data:
	// what is read is a request, what is written is a reply.
	Accept() (net.Conn, error)

	// Forward leaves the flow's packets to the tunnel, which sends them on to the peer that serves the destination. If
	// that cannot be reached, it is an error, and the flow may still be refused.
	Forward() error

	// Refuse tells the peer why not: ECONNREFUSED, EHOSTUNREACH, ENETUNREACH or EACCES. After Accept, on UDP, it
	// answers as if the last datagram had met with that.
	Refuse(reason error)

	// Drop leaves the peer without an answer. After Forward it ends the flow, and during Accept that call.
	Drop()
}

// A request is a Flow on which the gateway has to decide.
type request struct {
	Flow
	peer *peer
	from source
	dst  netip.AddrPort // 4-in-6 unmapped
}

// A flow is a Flow that has a place in the table.
type flow struct {
	request
	ctx context.Context
	end context.CancelCauseFunc

	began  time.Duration // on the table's clock
	active atomic.Int64  // when something last moved, on the table's clock
	idle   atomic.Int64  // how long nothing may move, in nanoseconds
	timer  *time.Timer   // asks whether it has been idle

	// Guarded by table.mu.
	stage stage
	known int64 // active as it was when the heap was last in order
	index int   // in the heap of its peer and stage; -1 if it has no place any more
}

// A stage says how soon a flow is evicted.
type stage int

const (
	dialing stage = iota // TCP without the target's answer
	brief                // UDP, ping
	settled              // an established TCP connection: after all others of its peer
	hub                  // forwarded to another peer: never, since it takes no place; the tunnel has bounds of its own
	stages
)

// touch notes that something has moved.
func (f *flow) touch() { f.active.Store(int64(f.peer.table.now())) }

// setIdle sets how long nothing may move, from now on.
func (f *flow) setIdle(limit time.Duration) {
	f.touch()
	f.idle.Store(int64(limit))
	f.timer.Reset(limit)
}

// checkIdle runs when the timer fires.
func (f *flow) checkIdle() {
	t := f.peer.table
	t.mu.Lock() // under which the timer was set
	defer t.mu.Unlock()
	left := time.Duration(f.idle.Load()) - (t.now() - time.Duration(f.active.Load()))
	if left <= 0 {
		f.end(errIdle)
	} else if f.ctx.Err() == nil {
		f.timer.Reset(left)
	}
}

// A peer is a peer with flows, or that had some.
type peer struct {
	source
	counters
	table *table

	// Guarded by table.mu, and with it the name in source.
	flows   [stages]flowHeap
	serving int // calls of Serve
}

// open counts the flows that take a place.
func (p *peer) open() int {
	return len(p.flows[dialing]) + len(p.flows[brief]) + len(p.flows[settled])
}

// oldest is the flow to evict first: the one in which nothing has moved for longest.
func (p *peer) oldest() *flow {
	a, b := p.flows[dialing].oldest(), p.flows[brief].oldest()
	switch {
	case a == nil && b == nil:
		return p.flows[settled].oldest()
	case a == nil || b != nil && b.known < a.known:
		return b
	}
	return a
}

// A table has the flows that are open, and gives out places.
type table struct {
	most, mostOfPeer, mostDials int
	start                       time.Time
	total                       counters
	serving                     sync.WaitGroup // calls of Serve; grows under mu until the table is closed

	mu     sync.Mutex // guards what follows, and what the flows and peers say
	peers  map[string]*peer
	open   int
	closed bool
}

// now is the time since the start on the monotonic clock.
func (t *table) now() time.Duration { return time.Since(t.start) }

// enter counts a call of Serve in, until leave. It is nil when the table is closed.
func (t *table) enter(from source) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	p := t.peers[from.id]
	if p == nil {
		if len(t.peers) >= maxPeers {
			t.forget()
		}
		p = &peer{source: from, table: t}
		t.peers[from.id] = p
	}
	p.name = from.name // it may have got another one
	p.serving++
	t.serving.Add(1)
	return p
}

func (t *table) leave(p *peer) {
	t.mu.Lock()
	p.serving--
	t.mu.Unlock()
	t.serving.Done()
}

// forget makes room for another peer's counters. Peers in use stay: there are no more of them than calls of Serve.
func (t *table) forget() {
	for id, p := range t.peers {
		if p.serving == 0 {
			delete(t.peers, id)
			return
		}
	}
}

// add gives a flow a place, or says no. It may cost an older flow its place. idle is 0 for a flow that does not end by
// being idle.
func (t *table) add(r request, at stage, idle time.Duration) *flow {
	ctx, end := context.WithCancelCause(r.Context())
	fl := &flow{request: r, ctx: ctx, end: end, began: t.now(), stage: at}
	fl.active.Store(int64(fl.began))
	fl.known = int64(fl.began)
	fl.idle.Store(int64(idle))

	t.mu.Lock()
	victim, ok := t.makeRoom(fl)
	if ok {
		if victim != nil {
			t.removeLocked(victim)
		}
		heap.Push(&r.peer.flows[at], fl)
		if at != hub {
			t.open++
		}
		if idle > 0 {
			fl.timer = time.AfterFunc(idle, fl.checkIdle)
		}
	}
	t.mu.Unlock()

	if victim != nil {
		victim.end(errEvicted)
		t.total.evicted.Add(1)
		victim.peer.evicted.Add(1)
	}
	if !ok {
		end(nil)
		return nil
	}
	return fl
}

// makeRoom finds whose place a new flow gets: nobody's if there is a free one.
func (t *table) makeRoom(fl *flow) (victim *flow, ok bool) {
	if t.closed {
		return nil, false
	}
	p, from := fl.peer, fl.peer
	switch {
	case fl.stage == hub:
		return nil, true
	case fl.stage == dialing && len(p.flows[dialing]) >= t.mostDials:
		victim = p.flows[dialing].oldest()
	case p.open() >= t.mostOfPeer:
		victim = p.oldest()
	case t.open < t.most:
		return nil, true
	default:
		for _, other := range t.peers {
			if other.open() > from.open() {
				from = other
			}
		}
		victim = from.oldest()
	}
	if victim == nil || from == p && fl.began-time.Duration(victim.known) < grace {
		return nil, false
	}
	return victim, true
}

// settle notes that a flow is an established TCP connection.
func (t *table) settle(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.index < 0 {
		return
	}
	heap.Remove(&f.peer.flows[f.stage], f.index)
	f.stage = settled
	heap.Push(&f.peer.flows[settled], f)
}

// remove takes back a flow's place.
func (t *table) remove(f *flow) {
	f.end(nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(f)
}

func (t *table) removeLocked(f *flow) {
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.index < 0 {
		return
	}
	heap.Remove(&f.peer.flows[f.stage], f.index)
	if f.stage != hub {
		t.open--
	}
}

// flows lists those that there are.
func (t *table) flows() []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*flow, 0, t.open)
	for _, p := range t.peers {
		for _, flows := range p.flows {
			list = append(list, flows...)
		}
	}
	return list
}

// close turns new flows away from now on.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// A flowHeap has the flow with the smallest known activity first. Activity is noted without a lock, so what is known may
// be out of date, but is never too late: oldest brings it up to date where it matters.
type flowHeap []*flow

func (h *flowHeap) oldest() *flow {
	for len(*h) > 0 {
		f := (*h)[0]
		active := f.active.Load()
		if active == f.known {
			return f
		}
		f.known = active
		heap.Fix(h, 0)
	}
	return nil
}

// Len, Less, Swap, Push and Pop implement [heap.Interface].
func (h flowHeap) Len() int           { return len(h) }
func (h flowHeap) Less(i, j int) bool { return h[i].known < h[j].known }

func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

func (h *flowHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	f.index = -1
	return f
}
