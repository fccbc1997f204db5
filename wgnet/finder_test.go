// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// finderWorld is what a finder sees of a Net, in a bubble: names, and a device that tries a handshake again every 5 s, as
// long as it is not answered.
type finderWorld struct {
	*finder
	table    atomic.Pointer[peerTable]
	interval time.Duration
	begin    time.Time

	mu      sync.Mutex          // guards what follows
	names   map[string][]string // the addresses; a name that is not there cannot be looked up
	alive   map[string]bool     // the addresses at which somebody answers
	lookUps []time.Duration
	pointed []string // where the device was pointed
	said    []string // what a Net would say: failures
}

// inFinderWorld runs a test in a bubble, with one peer and a keeper. db.example has some addresses from the beginning, of
// which the last one answers.
func inFinderWorld(t *testing.T, interval time.Duration, addrs []string, test func(t *testing.T, w *finderWorld, p *peer)) {
	synctest.Test(t, func(t *testing.T) {
		w := &finderWorld{
			finder: newFinder(), interval: interval, begin: time.Now(), names: map[string][]string{}, alive: map[string]bool{},
		}
		if len(addrs) > 0 {
			w.set(addrs, addrs[len(addrs)-1])
		}
		w.table.Store(newPeerTable([]PeerConfig{{PublicKey: PublicKey{1}, Endpoint: "db.example:7"}}, nil))
		p := w.table.Load().all[0]
		f := w.finder
		f.peers, f.interval, f.again = w.table.Load, func() time.Duration { return w.interval }, w.handshake
		f.quiet = func(p *peer) time.Duration { return w.now() - time.Duration(p.initiated.Load()) }
		f.lookUp = w.resolve
		f.note = w.note
		f.point = func(p *peer, e endpointState, how pointing) {
			w.note(p, e)
			w.do(func() { w.pointed = append(w.pointed, e.addr.Addr().String()) })
			p.observed.endpoint.Store(&e.addr)
			if how != pointOnly {
				w.handshake(p)
			}
			if how == pointFirst {
				time.AfterFunc(greetings[0], func() { // as greet does
					if p.attempts.Load() > 0 {
						w.handshake(p)
					}
				})
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		k := &keeper{finder: f, clock: newClock(systemClock()), reopened: make(chan struct{})}
		running.Go(func() { k.run(ctx) }) // cancel ends it
		running.Go(func() {               // cancel ends it
			tick := time.NewTicker(5*time.Second + 70*time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				select {
				case <-tick.C:
					if p.attempts.Load() > 0 {
						w.handshake(p)
					}
				case <-ctx.Done():
				}
			}
		})
		test(t, w, p)
	})
}

func (w *finderWorld) now() time.Duration { return time.Since(w.begin) }

func (w *finderWorld) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *finderWorld) resolve(_ context.Context, host string) (addrs []netip.Addr, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lookUps = append(w.lookUps, w.now())
	for _, a := range w.names[host] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	if addrs == nil {
		err = errors.New("no such host")
	}
	return addrs, err
}

func (w *finderWorld) note(p *peer, e endpointState) {
	if old := p.endpoint.Load(); e.err != nil && (old == nil || old.err == nil) {
		w.do(func() { w.said = append(w.said, e.err.Error()) })
	}
	p.endpoint.Store(&e)
}

// handshake begins one, which is answered at once or never.
func (w *finderWorld) handshake(p *peer) {
	at, known := p.inUse()
	if !known {
		return
	}
	p.initiated.Store(int64(w.now()))
	p.attempts.Add(1)
	w.do(func() {
		if w.alive[at.Addr().String()] {
			p.attempts.Store(0)
			p.heard.Store(true)
		}
	})
}

// after lets time pass.
func (w *finderWorld) after(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// set changes the addresses of the name, and who answers.
func (w *finderWorld) set(addrs []string, alive ...string) {
	w.do(func() {
		w.names["db.example"] = addrs
		w.alive = map[string]bool{}
		for _, a := range alive {
			w.alive[a] = true
		}
	})
}

// check compares where the device was pointed.
func (w *finderWorld) check(t *testing.T, want string) {
	t.Helper()
	w.do(func() {
		if got := strings.Join(w.pointed, " "); got != want {
			t.Errorf("after %v pointed to %s, want %s", w.now(), got, want)
		}
	})
}

// All addresses of a name are tried, until one answers.
func TestFinderTriesAll(t *testing.T) {
	addrs := []string{"2001:db8::1", "2001:db8::1", "::ffff:192.0.2.1", "0.0.0.0", "224.0.0.1", "fe80::1%e\nremove=true", "192.0.2.2"}
	inFinderWorld(t, 0, addrs, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(7 * time.Second)
		w.check(t, "2001:db8::1 192.0.2.1 192.0.2.2")
		if got := p.attempts.Load(); got != 0 {
			t.Errorf("%d attempts", got)
		}
		w.after(time.Hour)
		w.check(t, "2001:db8::1 192.0.2.1 192.0.2.2")
		// At the start, and with the first sign that it does not help; at no interval.
		if len(w.lookUps) != 2 {
			t.Errorf("look-ups at %v", w.lookUps)
		}
	})
}

// A peer that answers nowhere is looked for on and on, ever more slowly: never in a busy loop.
func TestFinderBackOff(t *testing.T) {
	inFinderWorld(t, time.Hour, []string{"192.0.2.1", "192.0.2.2"}, func(t *testing.T, w *finderWorld, p *peer) {
		w.set([]string{"192.0.2.1", "192.0.2.2"})
		w.after(time.Hour)
		if n := len(w.lookUps); n < 30 || n > 90 {
			t.Errorf("%d look-ups in an hour, want about one a minute", n)
		}
		for i, at := range w.lookUps[max(len(w.lookUps)-5, 1):] {
			if pause := at - w.lookUps[len(w.lookUps)-6+i]; pause < 50*time.Second {
				t.Errorf("a look-up after %v", pause)
			}
		}
		if n := len(w.pointed); n < 100 || n > 400 { // each as long as two or three handshakes take
			t.Errorf("pointed to %d addresses in an hour", n)
		}
		// It is back at one of them.
		w.set([]string{"192.0.2.1", "192.0.2.2"}, "192.0.2.2")
		w.after(30 * time.Second)
		if got := w.pointed[len(w.pointed)-1]; got != "192.0.2.2" || p.attempts.Load() != 0 {
			t.Errorf("at %s, %d attempts", got, p.attempts.Load())
		}
	})
}

// fault 56: the name points elsewhere after a while, and what is at the old address does not answer any more.
func TestFinderFollowsTheName(t *testing.T) {
	inFinderWorld(t, 0, []string{"192.0.2.1"}, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(time.Minute)
		w.set([]string{"192.0.2.9"}, "192.0.2.9")
		w.handshake(p) // something is sent
		w.handshake(p) // and again
		w.after(3 * time.Second)
		w.check(t, "192.0.2.1 192.0.2.9")
		if got := p.attempts.Load(); got != 0 {
			t.Errorf("%d attempts", got)
		}
	})
}

// fault 56: the name points elsewhere, and nobody has sent anything: the interval finds it. A name that is wrong does not
// lose the peer.
func TestFinderInterval(t *testing.T) {
	inFinderWorld(t, time.Minute, []string{"192.0.2.1"}, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(10*time.Minute + time.Second)
		w.check(t, "192.0.2.1")
		if len(w.lookUps) != 11 {
			t.Errorf("look-ups at %v", w.lookUps)
		}
		w.set([]string{"192.0.2.9"}, "192.0.2.9")
		w.after(time.Minute)
		w.check(t, "192.0.2.1 192.0.2.9")
		w.set([]string{"192.0.2.5"}, "192.0.2.9")
		w.after(time.Minute + 5*time.Second)
		w.check(t, "192.0.2.1 192.0.2.9 192.0.2.5 192.0.2.9")
		if got := p.attempts.Load(); got != 0 {
			t.Errorf("%d attempts", got)
		}
	})
}

// fault 53: where an authenticated packet came from is where the peer is, until it does not answer there. Then it is
// looked for at its name.
func TestFinderRoaming(t *testing.T) {
	inFinderWorld(t, time.Minute, []string{"192.0.2.1"}, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(time.Second)
		roam := func(to string, alive ...string) {
			at := netip.MustParseAddrPort(to)
			p.observed.endpoint.Store(&at)
			w.set([]string{"192.0.2.9"}, alive...)
		}
		roam("203.0.113.1:5", "203.0.113.1")
		w.after(10 * time.Minute) // look-ups answer something new, too
		w.check(t, "192.0.2.1")
		// It sends, and our handshakes do not get through: it is there.
		roam("203.0.113.1:5")
		for range 30 {
			w.handshake(p)
			p.observed.packetsReceived.Add(1)
			w.after(time.Second)
		}
		w.check(t, "192.0.2.1")
		roam("203.0.113.1:5", "192.0.2.9")
		w.after(12 * time.Second)
		w.check(t, "192.0.2.1 192.0.2.9")
	})
}

// A look-up that fails keeps the address and is told once.
func TestFinderFailures(t *testing.T) {
	inFinderWorld(t, time.Minute, []string{"192.0.2.1"}, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(time.Second)
		w.set(nil, "192.0.2.1")
		w.after(time.Hour)
		w.check(t, "192.0.2.1")
		if len(w.said) != 1 || len(w.lookUps) > 75 {
			t.Errorf("said %q, %d look-ups", w.said, len(w.lookUps))
		}
		if e := p.endpoint.Load(); e.err == nil || e.addr.Addr().String() != "192.0.2.1" {
			t.Errorf("got %+v", e)
		}
		w.set([]string{"192.0.2.1"}, "192.0.2.1")
		w.after(2 * time.Minute)
		if e := p.endpoint.Load(); e.err != nil {
			t.Errorf("got %+v", e)
		}
		w.set([]string{"0.0.0.0"}, "192.0.2.1") // nor does one that answers nothing of use
		w.after(10 * time.Minute)
		w.check(t, "192.0.2.1")
		if len(w.said) != 2 || w.said[1] != "db.example has no usable address" {
			t.Errorf("said %q", w.said)
		}
	})
}

// A name that cannot be looked up is asked for with growing pauses; not any more when its peer is gone or elsewhere.
func TestFinderForgets(t *testing.T) {
	inFinderWorld(t, time.Minute, nil, func(t *testing.T, w *finderWorld, p *peer) {
		w.after(10 * time.Second)
		// At once, after 1, 2 and 4 seconds; at whole seconds.
		if len(w.lookUps) != 4 || len(w.said) != 1 {
			t.Errorf("look-ups at %v, said %q", w.lookUps, w.said)
		}
		replace := func(configs ...PeerConfig) {
			w.table.Store(newPeerTable(configs, w.table.Load()))
			w.notice()
			w.do(func() { w.lookUps = nil })
			w.after(time.Minute)
		}
		replace(PeerConfig{PublicKey: PublicKey{1}, Endpoint: "192.0.2.1:7"})
		if len(w.lookUps) != 0 {
			t.Errorf("an address was looked up %d times", len(w.lookUps))
		}
		replace(PeerConfig{PublicKey: PublicKey{1}, Endpoint: "db.example:8"})
		if len(w.lookUps) == 0 {
			t.Error("a name that has come back is not looked up")
		}
		replace()
		if len(w.lookUps) != 0 || len(w.searches) != 0 {
			t.Errorf("after the removal: %d look-ups, %d searches", len(w.lookUps), len(w.searches))
		}
	})
}

// Many names are looked up a few at a time, and each is.
func TestFinderBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 1000
		f := newFinder()
		configs := make([]PeerConfig, names)
		for i := range configs {
			configs[i] = PeerConfig{PublicKey: PublicKey{byte(i), byte(i >> 8), 1}, Endpoint: fmt.Sprintf("n%d.example:7", i)}
		}
		table := newPeerTable(configs, nil)
		var now, most, found atomic.Int32
		f.peers, f.interval = func() *peerTable { return table }, func() time.Duration { return 0 }
		f.lookUp = func(context.Context, string) ([]netip.Addr, error) {
			defer now.Add(-1)
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(10 * time.Millisecond) // of the bubble
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}
		f.point = func(p *peer, e endpointState, how pointing) {
			p.endpoint.Store(&e)
			found.Add(1)
			if how != pointFirst {
				t.Error("not the first time")
			}
		}
		f.quiet = func(*peer) time.Duration { return 0 }
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		k := &keeper{finder: f, clock: newClock(systemClock()), reopened: make(chan struct{})}
		running.Go(func() { k.run(ctx) }) // cancel ends it
		time.Sleep(time.Second)           // of the bubble
		cancel()
		running.Wait()
		if most.Load() != maxResolving || found.Load() != names {
			t.Errorf("%d at a time, %d found", most.Load(), found.Load())
		}
	})
}

// Of the addresses of a name, the first few are tried.
func TestEndpointAddressesBounded(t *testing.T) {
	var found []netip.Addr
	for i := range byte(100) {
		found = append(found, netip.AddrFrom4([4]byte{192, 0, 2, i + 1}))
	}
	s := &search{endpoint: endpoint{port: 7}}
	if got := s.usable(found); len(got) != maxEndpointAddrs || got[15] != netip.MustParseAddrPort("192.0.2.16:7") {
		t.Errorf("%d addresses: %v", len(got), got)
	}
}
