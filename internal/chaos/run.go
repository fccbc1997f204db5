// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/internal/testpeer"
)

// settings are the flags.
type settings struct {
	length  time.Duration
	seed    uint64
	peers   int
	rounds  int
	workers int
	every   time.Duration
	verbose bool
	out     io.Writer
}

// stuckAfter is how long a call may take, beyond what it was given, until it counts as one that never ends.
const stuckAfter = time.Minute

// A run is all that happens from the start to the report.
type run struct {
	settings
	begun time.Time

	epochs, rounds                atomic.Uint64
	verified                      atomic.Uint64 // bytes
	events, missedEvents          atomic.Uint64
	eventKinds                    [32]atomic.Uint64
	secondDials, secondDatagrams  atomic.Uint64
	corrupt, panics, wrongs, hung atomic.Uint64
	healed                        [2]times // from the end of a storm until a packet gets through: between Nets, and with upstream's
	tallies                       map[string]*tally
	samples                       []sample // of one goroutine
	outer                         memnet.Stats

	mu       sync.Mutex // guards what follows
	mistakes []string   // the first of them
	history  []string   // the faults of the present round
	where    string     // it is
	secret   []string
	inFlight map[*call]flight
	deadEnd  chan struct{} // closed when a call does not end
}

// A tally counts one operation.
type tally struct{ ok, failed, skipped, strict atomic.Uint64 }

// A flight is a call that has not ended.
type flight struct {
	name  string
	until time.Time
}

// A sample is what there is when everything is closed.
type sample struct {
	at         time.Duration
	goroutines int
	heap       uint64
}

const maxMistakes, maxSecrets = 20, 1000

// A lockedWriter may be written to from several goroutines.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func newRun(s settings) *run {
	s.out = &lockedWriter{w: s.out}
	r := &run{settings: s, begun: time.Now(), tallies: map[string]*tally{}, inFlight: map[*call]flight{}, deadEnd: make(chan struct{})}
	for _, table := range [][]operation{traffic, faults} {
		for _, op := range table {
			r.tallies[op.name] = &tally{}
		}
	}
	return r
}

// do runs until its time is over, or ctx is done, and says whether all was well.
func (r *run) do(ctx context.Context) bool {
	fmt.Fprintf(r.out, "chaos with seed %d for %v, %d members\n", r.seed, r.length, r.peers)
	done := make(chan struct{})
	go func() { // ends when the time is over, unless a call never ends: then so does the program
		defer close(done)
		r.samples = append(r.samples, r.sample())
		end := r.begun.Add(r.length)
		for epoch := 0; epoch == 0 || time.Now().Before(end) && ctx.Err() == nil; epoch++ {
			r.epoch(ctx, epoch, end)
		}
	}()
	tick, watch := time.NewTicker(r.every), time.NewTicker(time.Second)
	defer tick.Stop()
	defer watch.Stop()
	r.progressHeader()
	for {
		select {
		case <-done:
			r.progress()
			return r.ok()
		case <-tick.C:
			r.progress()
		case <-watch.C:
			r.watch()
		case <-r.deadEnd:
			return false
		}
	}
}

// epoch is the life of one network.
func (r *run) epoch(ctx context.Context, epoch int, end time.Time) {
	w, err := newWorld(r, rand.New(rand.NewPCG(r.seed, uint64(epoch))).Uint64())
	if err != nil {
		r.wrong("start", err)
	} else {
		for round := range r.settings.rounds {
			if round > 0 && (ctx.Err() != nil || time.Now().After(end)) {
				break
			}
			r.at(epoch, round)
			w.storm(ctx, epoch, round)
			if err := w.settle(); err != nil {
				r.wrong("settle", err)
				break
			}
			w.calm(context.WithoutCancel(ctx), epoch, round)
			r.rounds.Add(1)
		}
	}
	if err := w.close(); err != nil {
		r.wrong("close", err)
	}
	r.addStats(w.outer.TotalStats())
	r.epochs.Add(1)
	r.samples = append(r.samples, r.settled())
}

// storm has workers use the network while faults happen to it.
func (w *world) storm(ctx context.Context, epoch, round int) {
	r := w.run
	ctx, over := context.WithCancel(ctx)
	defer over()
	var working sync.WaitGroup
	for worker := range r.workers {
		rng := source(r.seed, epoch, round, worker)
		working.Go(func() { // over ends it
			for ctx.Err() == nil {
				op := pick(traffic, rng)
				r.call(context.WithoutCancel(ctx), w, op, rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64())), false)
			}
		})
	}
	for _, s := range planStorm(r.seed, epoch, round) {
		r.fault(ctx, w, s)
		pause(ctx, s.pause)
	}
	over()
	working.Wait()
}

// fault makes one fault. What goes wrong with it is wrong in any weather: nobody else makes any.
func (r *run) fault(ctx context.Context, w *world, s step) {
	c := &call{world: w, rng: rand.New(rand.NewPCG(s.seed, 0)), strict: true}
	err := r.perform(context.WithoutCancel(ctx), s.op, c, strictLimit)
	if errors.Is(err, errSkipped) {
		return
	}
	text := fmt.Sprintf("%s: %s", s.op.name, c.text)
	r.mu.Lock()
	r.history = append(r.history, text)
	r.mu.Unlock()
	if r.verbose {
		fmt.Fprintf(r.out, "%12v  %s\n", time.Since(r.begun).Round(time.Millisecond), text)
	}
	if err != nil {
		r.wrong(s.op.name, fmt.Errorf("%s: %w", c.text, err))
	}
}

// call runs an operation of traffic.
func (r *run) call(ctx context.Context, w *world, op *operation, rng *rand.Rand, strict bool) {
	limit := stormLimit
	if strict {
		limit = strictLimit
	}
	c := &call{world: w, rng: rng, strict: strict}
	err := r.perform(ctx, op, c, limit)
	if err != nil && !errors.Is(err, errSkipped) && (strict || !ordinary(err)) {
		r.wrong(op.name, fmt.Errorf("%s: %w", c.text, err))
	}
}

// perform runs an operation, counts it, and makes an error of a panic.
func (r *run) perform(ctx context.Context, op *operation, c *call, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c.ctx = ctx
	r.mu.Lock()
	r.inFlight[c] = flight{op.name, time.Now().Add(limit + stuckAfter)}
	r.mu.Unlock()
	err := recovered(func() error { return op.do(c) })
	r.mu.Lock()
	delete(r.inFlight, c)
	r.mu.Unlock()
	t := r.tallies[op.name]
	switch {
	case errors.Is(err, errSkipped):
		t.skipped.Add(1)
	case err != nil:
		t.failed.Add(1)
	case c.strict:
		t.strict.Add(1)
		fallthrough
	default:
		t.ok.Add(1)
	}
	return err
}

// caught is for what runs beside the operations.
func (r *run) caught(name string, f func() error) {
	if err := recovered(f); err != nil {
		r.wrong(name, err)
	}
}

var errPanic = errors.New("PANIC")

func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %w: %v\n%s", errWrong, errPanic, p, debug.Stack())
		}
	}()
	return f()
}

// wrong notes what may not be.
func (r *run) wrong(name string, err error) {
	switch {
	case errors.Is(err, errPanic):
		r.panics.Add(1)
	case errors.Is(err, errCorrupt):
		r.corrupt.Add(1)
	default:
		r.wrongs.Add(1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mistakes) == maxMistakes {
		return
	}
	text := fmt.Sprintf("%s: %s: %v", r.where, name, err)
	for _, h := range r.history {
		text += "\n      after " + h
	}
	r.mistakes = append(r.mistakes, text)
	fmt.Fprintf(r.out, "WRONG %s\n", text)
}

// at says where the run is.
func (r *run) at(epoch, round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.where, r.history = fmt.Sprintf("epoch %d, round %d", epoch, round), nil
}

// keepSecret remembers a key that may not be shown.
func (r *run) keepSecret(key testpeer.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !key.IsZero() && len(r.secret) < maxSecrets {
		r.secret = append(r.secret, key.String())
	}
}

func (r *run) secrets() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.secret[:len(r.secret):len(r.secret)]
}

// watch looks for calls that do not end.
func (r *run) watch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.inFlight {
		if time.Now().After(f.until) && r.hung.Load() == 0 {
			r.hung.Add(1)
			buf := make([]byte, 4<<20)
			fmt.Fprintf(r.out, "WRONG %s: %s does not end; all goroutines:\n%s\n", r.where, f.name, buf[:runtime.Stack(buf, true)])
			close(r.deadEnd)
		}
	}
}

// settled waits until the goroutines are as few as before anything began, and takes a sample.
func (r *run) settled() sample {
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > r.samples[0].goroutines {
		select {
		case <-tick.C:
			continue
		case <-limit.C:
		}
		buf := make([]byte, 4<<20)
		r.wrong("close", fmt.Errorf("%w: %d goroutines before, %d after everything is closed:\n%s", errWrong,
			r.samples[0].goroutines, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)]))
		break
	}
	return r.sample()
}

// sample measures when all finalizers and pools have had their turn: when several collections in a row free nothing.
func (r *run) sample() sample {
	const most, steady = 30, 4
	var m runtime.MemStats
	least, same := uint64(math.MaxUint64), 0
	for i := 0; i < most && same < steady; i++ {
		runtime.GC()
		pause(context.Background(), time.Millisecond) // for the finalizers, which run beside
		runtime.ReadMemStats(&m)
		if same++; m.HeapAlloc < least-least/100 {
			least, same = m.HeapAlloc, 0
		}
	}
	return sample{time.Since(r.begun), runtime.NumGoroutine(), m.HeapAlloc}
}
