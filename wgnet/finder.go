// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/netstack"
)

// DefaultResolveInterval is the interval of a Config whose ResolveInterval is 0.
const DefaultResolveInterval = 5 * time.Minute

const (
	// maxResolving bounds the endpoint names that are looked up at the same time.
	maxResolving = 16
	// resolveTimeout bounds one look-up.
	resolveTimeout = 10 * time.Second
	// maxEndpointAddrs bounds the addresses of a name that are tried.
	maxEndpointAddrs = 16
	// minResolvePause and maxResolvePause bound the back-off between look-ups that have failed, or have not helped.
	minResolvePause = time.Second
	maxResolvePause = time.Minute
	// minAnswerTime and maxAnswerTime bound the time that a peer has to answer at one address, before the next one is
	// tried. It doubles each time that all have been, for paths that are longer than anybody would think. The device takes
	// no answer after five seconds, when it begins anew (Rekey-Timeout).
	minAnswerTime = time.Second
	maxAnswerTime = 4 * time.Second
)

// finder finds the peers whose endpoint is a host name, and finds them again when they do not answer any more. It has one
// search for each, which begins when the peer comes into the table. The rules:
//
//   - where an authenticated packet comes from is where the peer is: the device follows that by itself, and nothing here
//     moves a peer that answers there;
//   - a peer that leaves two handshakes unanswered, and sends nothing, is looked for at the name's next address, and the
//     name is looked up again, with back-off;
//   - a name is looked up again at an interval. If it does not stand for the address any more that it has led to, the
//     peer has moved to where it leads now, and what it had led to is the last that is tried.
//
// It is the keeper's, whose goroutine calls all methods but notice and hurry.
type finder struct {
	peers    func() *peerTable
	interval func() time.Duration // 0 is never
	lookUp   func(ctx context.Context, host string) ([]netip.Addr, error)
	// quiet is how long ago our last initiation to the peer was.
	quiet func(*peer) time.Duration
	// point has the device send to an address.
	point func(p *peer, to endpointState, how pointing)
	// note keeps what was found of a name, when the device goes on sending to where it does.
	note func(p *peer, e endpointState)
	// again begins another handshake at the same address.
	again func(*peer)

	news    chan struct{} // holds one token when there may be other peers, or when all names are to be looked up
	results chan lookedUp // has room for maxResolving
	running sync.WaitGroup
	all     atomic.Bool // all names are to be looked up now

	searches map[netstack.PeerID]*search
	table    *peerTable // that searches are of
	queue    []*search  // those whose look-up is due and has to wait
	free     int        // look-ups that may begin
}

// pointing says what is to happen at an address.
type pointing int

const (
	// pointFirst: the peer had no address before. It is greeted, as one with a literal address.
	pointFirst pointing = iota
	// pointNow: a handshake begins at once, and is repeated if it is not answered.
	pointNow
	// pointOnly: the device is between two of its own tries. It gives up when it would anyway.
	pointOnly
)

// search is for one peer.
type search struct {
	peer *peer
	endpoint
	addrs []netip.AddrPort // those that are tried, in order
	named []netip.AddrPort // those of the name, as it was looked up last
	aimed netip.AddrPort   // the one that the device was pointed at last

	looking bool          // a look-up is under way, or in the queue
	failed  bool          // the last one has
	due     time.Time     // the next one; zero is never
	pause   time.Duration // before the next one after a failure, or in vain; 0 after an answer of the peer

	eager  bool   // the handshake at the address that is tried is ours to repeat
	base   uint32 // the peer's attempts before those at the address that is tried
	seen   uint64 // what it had sent then
	tried  int    // addresses, since it last answered
	rounds int    // how often all were
}

// lookedUp is the outcome of a look-up.
type lookedUp struct {
	search *search
	addrs  []netip.Addr
	err    error
}

func newFinder() *finder {
	return &finder{
		news: make(chan struct{}, 1), results: make(chan lookedUp, maxResolving),
		searches: map[netstack.PeerID]*search{}, free: maxResolving,
	}
}

// notice has the peers looked at that are in the table now.
func (f *finder) notice() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// hurry has all names looked up now.
func (f *finder) hurry() {
	f.all.Store(true)
	f.notice()
}

// round looks at all peers.
func (f *finder) round(ctx context.Context) {
	f.follow()
	all, now := f.all.Swap(false), time.Now()
	for _, s := range f.searches {
		if all {
			s.due = now
		}
		f.seek(s, now)
		if !s.looking && !s.due.IsZero() && !now.Before(s.due) {
			s.looking = true
			f.queue = append(f.queue, s)
		}
	}
	f.start(ctx)
}

// follow begins and ends searches as the table says.
func (f *finder) follow() {
	table := f.peers()
	if table == f.table {
		return
	}
	f.table = table
	for id, s := range f.searches {
		if p := table.byID[id]; p == nil || p.Endpoint != s.peer.Endpoint {
			delete(f.searches, id)
		}
	}
	for _, p := range table.all {
		if s := f.searches[p.id]; s != nil {
			s.peer = p
		} else if e, err := parseEndpoint(p.Endpoint); err == nil && e.host != "" {
			f.searches[p.id] = &search{peer: p, endpoint: e, due: time.Now()}
		}
	}
}

// start begins look-ups.
func (f *finder) start(ctx context.Context) {
	for f.free > 0 && len(f.queue) > 0 {
		s := f.queue[0]
		f.queue = f.queue[1:]
		if f.searches[s.peer.id] != s {
			continue // not asked for any more
		}
		f.free--
		f.running.Go(func() { // ends with the look-up, which ctx ends; wait waits
			ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			addrs, err := f.lookUp(ctx, s.host)
			f.results <- lookedUp{s, addrs, err} // there is room
		})
	}
	if len(f.queue) == 0 {
		f.queue = nil
	}
}

// wait waits for look-ups whose context is done.
func (f *finder) wait() { f.running.Wait() }

// take makes use of the outcome of a look-up.
func (f *finder) take(ctx context.Context, r lookedUp) {
	f.free++
	defer f.start(ctx)
	f.follow()
	s := r.search
	s.looking, s.due = false, time.Time{}
	if ctx.Err() != nil || f.searches[s.peer.id] != s {
		return // not asked for any more
	}
	addrs := s.usable(r.addrs)
	if r.err == nil && len(addrs) == 0 {
		r.err = fmt.Errorf("%s has no usable address", s.host)
	}
	now := time.Now()
	if interval := f.interval(); interval > 0 {
		s.due = now.Add(interval)
	}
	if r.err != nil {
		s.pause = min(max(2*s.pause, minResolvePause), maxResolvePause)
		s.due = now.Add(s.pause)
		// What it was is the best that there is.
		f.note(s.peer, endpointState{addr: s.peer.resolved(), err: r.err})
		s.failed = true
		return
	}
	s.failed = false
	s.found(f, addrs)
}

// usable are those addresses to which a datagram can be sent, each once. A zone is text, and may come from the program's
// own resolver: one that is not an interface's would write lines of its own into the device's config.
func (s *search) usable(found []netip.Addr) (addrs []netip.AddrPort) {
	for _, a := range found {
		at := netip.AddrPortFrom(a.Unmap(), s.port)
		if a.IsValid() && !a.Unmap().IsUnspecified() && !a.Unmap().IsMulticast() && printable(a.Zone()) &&
			!slices.Contains(addrs, at) && len(addrs) < maxEndpointAddrs {
			addrs = append(addrs, at)
		}
	}
	return addrs
}

// found goes where the name leads, if the peer is not known to be elsewhere.
func (s *search) found(f *finder, addrs []netip.AddrPort) {
	p := s.peer
	first := !p.resolved().IsValid()
	before := s.current()
	old := s.named
	s.addrs, s.named = addrs, addrs
	switch {
	case first && p.heard.Load() && !p.redirected && !p.PinEndpoint:
		s.aimed = addrs[0]
		f.note(p, endpointState{addr: addrs[0]}) // it was faster, and the device knows where it is
	case first:
		s.aim(f, endpointState{addr: addrs[0]}, pointFirst)
	case slices.Contains(addrs, before):
		f.note(p, endpointState{addr: before})
	case before == s.aimed && s.answers(f):
		s.addrs = append(slices.Clone(addrs), before) // should the name be wrong
		if slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return !slices.Contains(old, a) }) {
			s.aim(f, endpointState{addr: addrs[0]}, pointNow)
		} else {
			f.note(p, endpointState{addr: before}) // it was wrong
		}
	case before == s.aimed || !s.answers(f):
		s.aim(f, endpointState{addr: addrs[0]}, pointNow)
	default:
		f.note(p, endpointState{addr: addrs[0]})
	}
}

// current is where the device sends to, as far as that is known.
func (s *search) current() netip.AddrPort {
	if at, ok := s.peer.inUse(); ok && !s.peer.PinEndpoint {
		return at
	}
	return s.aimed
}

// seek looks for a peer that does not answer.
func (f *finder) seek(s *search, now time.Time) {
	p := s.peer
	if len(s.addrs) == 0 {
		return // not found yet
	}
	attempts, seen := p.attempts.Load(), p.sent()
	if attempts < s.base || attempts == 0 {
		s.base = 0
	}
	if attempts == 0 {
		s.tried, s.rounds, s.seen = 0, 0, seen
		if !s.failed {
			s.pause = 0
		}
		return
	}
	if seen != s.seen {
		s.base, s.seen = attempts, seen // it is there, whatever keeps it from answering
		return
	}
	quiet := f.quiet(p)
	unsent := p.unsent.Load() != nil
	switch unanswered := attempts - s.base; {
	case unsent && unanswered > 0 && len(s.addrs) > 1 && s.rounds == 0, // not on this host
		unanswered > 1 && quiet >= min(minAnswerTime<<s.rounds, maxAnswerTime):
		s.next(f, attempts, now)
	case unanswered == 1 && s.eager && quiet >= minAnswerTime:
		f.again(p) // a datagram is easily lost
	}
}

// next tries the next address, and has the name looked up again.
func (s *search) next(f *finder, attempts uint32, now time.Time) {
	i := slices.Index(s.addrs, s.current()) + 1
	if s.tried++; s.tried >= len(s.addrs) && s.tried%len(s.addrs) == 0 {
		s.rounds = min(s.rounds+1, 8)
	}
	if due := now.Add(s.pause); !s.looking && (s.tried == 1 || s.tried%len(s.addrs) == 0) && (s.due.IsZero() || due.Before(s.due)) {
		s.due = due
		s.pause = min(max(2*s.pause, minResolvePause), maxResolvePause)
	}
	s.base = attempts
	how := pointNow
	if s.rounds > 0 {
		how = pointOnly
	}
	if to := s.addrs[i%len(s.addrs)]; to != s.current() {
		s.aim(f, endpointState{addr: to, next: true, tried: min(s.tried+1, len(s.addrs))}, how)
	}
}

// aim has the device send to an address.
func (s *search) aim(f *finder, e endpointState, how pointing) {
	s.aimed, s.eager = e.addr, how == pointNow
	s.base, s.seen = s.peer.attempts.Load(), s.peer.sent()
	f.point(s.peer, e, how)
}

// answers says whether the peer does, as far as is known.
func (s *search) answers(f *finder) bool {
	attempts := s.peer.attempts.Load()
	return attempts == 0 || attempts == 1 && f.quiet(s.peer) < minAnswerTime || s.peer.sent() != s.seen
}
