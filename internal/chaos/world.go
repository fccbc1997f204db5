// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/internal/testpeer"
)

const (
	outerPort = 51820
	// flowLimit is how long it may take in calm weather until a packet gets through. A device waits five seconds before
	// it sends another initiation, and upstream's finds after fifteen that a session is dead.
	flowLimit = 30 * time.Second
	// strictLimit is how long one operation may take in calm weather, of which dialLimit is a dial's.
	strictLimit = 20 * time.Second
	dialLimit   = 5 * time.Second
	// pingLimit is how long one echo request waits for its answer, of those that look whether packets get through.
	pingLimit = 200 * time.Millisecond
	// stormLimit is how long one operation may take in a storm.
	stormLimit = time.Second
	// closeLimit is how long closing may take, and what has been closed to go.
	closeLimit = 10 * time.Second
)

// A world is one network and its members. Only one goroutine makes faults in it, and knows what is so.
type world struct {
	run     *run
	outer   *memnet.Network
	members []*member
	hosts   int // outer addresses that were given out
	psk     map[[2]int]testpeer.Key
}

// newWorld makes a network of members that know each other.
func newWorld(r *run, seed uint64) (*world, error) {
	w := &world{run: r, outer: memnet.New(memnet.Options{Seed: seed}), psk: map[[2]int]testpeer.Key{}}
	for i := range r.peers {
		last := byte(i + 1)
		m := &member{
			world: w, index: i, name: fmt.Sprintf("m%d", i), key: testpeer.GenerateKey(), outer: w.newOuterAddr(), port: outerPort,
			addr4: netip.AddrFrom4([4]byte{10, 0, 0, last}), addr6: netip.AddrFrom16([16]byte{0: 0xfd, 15: last}),
			extra: netip.AddrFrom4([4]byte{10, 0, 1, last}), knows: map[int]testpeer.Key{},
		}
		at := m.outer
		m.shown.Store(&at)
		var err error
		if m.host, err = w.outer.NewHost(m.outer); err != nil {
			return w, err
		}
		w.members = append(w.members, m)
		if i%3 != 2 {
			continue
		}
		m.peer, err = testpeer.Start(testpeer.Options{
			PrivateKey: m.key, Addresses: []string{m.addr4.String(), m.addr6.String()}, ListenPort: m.port, ListenPacket: m.listen,
		})
		if err != nil {
			return w, err
		}
	}
	return w, w.settle()
}

// newOuterAddr is one that nobody had before.
func (w *world) newOuterAddr() netip.Addr {
	w.hosts++
	return netip.AddrFrom4([4]byte{198, 18, byte(w.hosts >> 8), byte(w.hosts)})
}

// presharedKey is that of two members, as the one who makes faults has set it.
func (w *world) presharedKey(a, b *member) testpeer.Key { return w.psk[pairOf(a, b)] }

func pairOf(a, b *member) [2]int { return [2]int{min(a.index, b.index), max(a.index, b.index)} }

// others are all members but one.
func (w *world) others(m *member) (list []*member) {
	for _, other := range w.members {
		if other != m {
			list = append(list, other)
		}
	}
	return list
}

// settle ends all faults: the weather is fair, all members live, and know all others as they are.
func (w *world) settle() error {
	if err := w.outer.SetDefault(memnet.Link{}); err != nil {
		return err
	}
	for _, a := range w.members {
		for _, b := range w.others(a) {
			if err := w.outer.Heal(outside(a, b), outside(b, a)); err != nil {
				return err
			}
		}
	}
	for _, m := range w.members {
		m.learn(w.others(m)...)
		if m.current.Load() == nil {
			if err := m.start(); err != nil {
				return err
			}
		} else if n := m.net(); n != nil {
			if err := n.Apply(m.config()); err != nil {
				return fmt.Errorf("%w: %s: Apply: %w", errWrong, m.name, err)
			}
		}
		if err := m.tellUpstream(); err != nil {
			return err
		}
	}
	return nil
}

// learn makes a member know others by their present keys.
func (m *member) learn(others ...*member) {
	for _, other := range others {
		if key, ok := m.knows[other.index]; ok && key != other.key.Public() {
			m.stale = append(m.stale, key)
		}
		m.knows[other.index] = other.key.Public()
	}
}

// tellUpstream brings upstream's implementation up to what the member knows, if that is what runs.
func (m *member) tellUpstream() error {
	if !m.upstream() || m.current.Load() == nil {
		return nil
	}
	for _, key := range m.stale {
		if err := m.peer.RemovePeer(key); err != nil {
			return err
		}
	}
	m.stale = nil
	for _, other := range m.world.others(m) {
		if _, ok := m.knows[other.index]; ok {
			if err := m.peer.AddPeer(m.remote(other)); err != nil {
				return err
			}
		}
	}
	return nil
}

// outside is the address that a member shows to another.
func outside(m, to *member) netip.Addr {
	if m.nat != nil && m.nat != to.nat {
		return m.natAddr
	}
	return m.outer
}

// pairs are the pairs of members of which one is a Net at least.
func (w *world) pairs() (list [][2]*member) {
	for i, a := range w.members {
		for _, b := range w.members[:i] {
			if !a.upstream() || !b.upstream() {
				list = append(list, [2]*member{a, b})
			}
		}
	}
	return list
}

// flows waits until packets get through between all members, both ways.
func (w *world) flows(ctx context.Context, epoch, round int) {
	ctx, cancel := context.WithTimeout(ctx, flowLimit)
	defer cancel()
	start := time.Now()
	var waiting sync.WaitGroup
	for _, pair := range w.pairs() {
		for i, from := range pair {
			to := pair[1-i]
			waiting.Go(func() { // its context ends it
				var err error
				for tries := 0; ctx.Err() == nil; tries++ {
					one, cancel := context.WithTimeout(ctx, pingLimit)
					err = from.current.Load().ping(one, to.addr4)
					cancel()
					if err == nil {
						times := &w.run.healed[0]
						if from.upstream() || to.upstream() {
							times = &w.run.healed[1]
						}
						times.add(time.Since(start), fmt.Sprintf("%s to %s in epoch %d, round %d", from.name, to.name, epoch, round))
						return
					}
					if !ordinary(err) {
						break
					}
					pause(ctx, 20*time.Millisecond) // some fail at once
				}
				w.run.wrong("flow", fmt.Errorf("%w: from %s to %s nothing gets through %v after the storm: %w",
					errWrong, from.name, to.name, time.Since(start).Round(time.Second), err))
			})
		}
	}
	waiting.Wait()
}

// calm checks that everything works between all members, and returns when it is done.
func (w *world) calm(ctx context.Context, epoch, round int) {
	w.flows(ctx, epoch, round)
	jobs := make(chan func(), 1)
	var working sync.WaitGroup
	for range w.run.workers {
		working.Go(func() { // ends with the jobs
			for job := range jobs {
				job()
			}
		})
	}
	for i := range traffic {
		for turn := range 1 + w.run.peers/2 {
			rng := source(w.run.seed, epoch, round, 1000+i*100+turn)
			jobs <- func() { w.run.call(ctx, w, &traffic[i], rng, true) }
		}
	}
	close(jobs)
	working.Wait()
}

// close closes everything, in the manner of programs that end.
func (w *world) close() error {
	var errs []error
	for _, m := range w.members {
		if l := m.current.Load(); l != nil {
			l.stop()
		}
	}
	for _, m := range w.members {
		if l := m.current.Load(); l != nil && l.net != nil {
			errs = append(errs, l.drained())
		}
	}
	for _, m := range w.members {
		errs = append(errs, m.end(false))
		if m.upstream() {
			errs = append(errs, m.peer.Close()) // if it was never begun
		}
	}
	return errors.Join(append(errs, w.outer.Close())...)
}

// drained waits until nothing is open on a Net any more.
func (l *life) drained() error {
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		open := l.net.Sockets()
		if len(open) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("%w: %s: %v after everything was closed these are open still: %v", errWrong, l.member.name, closeLimit, open)
		}
	}
}
