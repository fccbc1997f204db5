// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
)

// growLimit is how much more heap there may be in the last third of a run than in the first.
const growLimit = 8 << 20

// times are durations, of which the longest and quantiles are asked.
type times struct {
	mu   sync.Mutex // guards what follows
	list []time.Duration
	most time.Duration
	what string // that took it
}

// maxTimes bounds a list: what comes later counts for the longest one only.
const maxTimes = 100_000

func (t *times) add(d time.Duration, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) < maxTimes {
		t.list = append(t.list, d)
	}
	if d > t.most {
		t.most, t.what = d, what
	}
}

// at returns a quantile.
func (t *times) at(q float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t.list))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(10 * time.Microsecond)
}

// sum adds up one table's tallies.
func (r *run) sum(table []operation) (ok, failed uint64) {
	for _, op := range table {
		t := r.tallies[op.name]
		ok, failed = ok+t.ok.Load(), failed+t.failed.Load()
	}
	return ok, failed
}

func (r *run) progressHeader() {
	fmt.Fprintf(r.out, "%9s %6s %6s %9s %8s %7s %9s %10s %8s %8s %6s\n",
		"time", "epochs", "rounds", "calls ok", "failed", "faults", "verified", "goroutines", "heap", "events", "wrong")
}

// progress prints a line on how things are.
func (r *run) progress() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	ok, failed := r.sum(traffic)
	done, _ := r.sum(faults)
	fmt.Fprintf(r.out, "%9v %6d %6d %9d %8d %7d %6d MB %10d %5d MB %8d %6d\n",
		time.Since(r.begun).Round(time.Second), r.epochs.Load(), r.rounds.Load(), ok, failed, done, r.verified.Load()/1e6,
		runtime.NumGoroutine(), m.HeapAlloc/1e6, r.events.Load(), r.corrupt.Load()+r.panics.Load()+r.wrongs.Load()+r.hung.Load())
}

func (r *run) addStats(s memnet.Stats) {
	t := &r.outer
	t.Sent += s.Sent
	t.Lost += s.Lost
	t.Duplicated += s.Duplicated
	t.Reordered += s.Reordered
	t.Corrupted += s.Corrupted
	t.Cut += s.Cut
	t.Filtered += s.Filtered
	t.TooBig += s.TooBig
	t.Unreachable += s.Unreachable
	t.QueueDrops += s.QueueDrops
}

// ok says whether nothing was wrong.
func (r *run) ok() bool {
	return r.corrupt.Load()+r.panics.Load()+r.wrongs.Load()+r.hung.Load() == 0 && r.grown() <= growLimit && r.verified.Load() > 0
}

// settledSamples are the samples after the first networks, which fill pools.
func (r *run) settledSamples() []sample { return r.samples[min(3, len(r.samples)):] }

// grown is how much more heap there was in the last third than in the first, on average.
func (r *run) grown() int64 {
	s := r.settledSamples()
	third := len(s) / 3
	if third == 0 {
		return 0
	}
	mean := func(part []sample) (sum int64) {
		for _, one := range part {
			sum += int64(one.heap)
		}
		return sum / int64(len(part))
	}
	return mean(s[len(s)-third:]) - mean(s[:third])
}

// slope is a least-squares fit through the samples, per hour.
func (r *run) slope(value func(sample) float64) float64 {
	s := r.settledSamples()
	var n, x, y, xx, xy float64
	for _, one := range s {
		h, v := one.at.Hours(), value(one)
		n, x, y, xx, xy = n+1, x+h, y+v, xx+h*h, xy+h*v
	}
	if n < 3 {
		return 0
	}
	return (n*xy - x*y) / (n*xx - x*x)
}

// report prints what has happened.
func (r *run) report() {
	fmt.Fprintf(r.out, "\nreport: seed %d, %d members, %v, %d networks, %d storms and calms\n\n",
		r.seed, r.peers, time.Since(r.begun).Round(time.Second), r.epochs.Load(), r.rounds.Load())
	t := tabwriter.NewWriter(r.out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "traffic\tdone\tin calm\tfailed as networks do\t")
	for _, op := range traffic {
		v := r.tallies[op.name]
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t\n", op.name, v.ok.Load(), v.strict.Load(), v.failed.Load())
	}
	fmt.Fprintln(t, "\t\t\t\t\nfaults\tdone\t\t\t")
	for _, op := range faults {
		fmt.Fprintf(t, "%s\t%d\t\t\t\n", op.name, r.tallies[op.name].ok.Load())
	}
	t.Flush()
	o := &r.outer
	fmt.Fprintf(r.out, "\nouter network    %d datagrams: %d lost, %d duplicated, %d reordered, %d corrupted, %d cut, %d too big, "+
		"%d to nobody, %d filtered by NATs, %d dropped by queues\n",
		o.Sent, o.Lost, o.Duplicated, o.Reordered, o.Corrupted, o.Cut, o.TooBig, o.Unreachable, o.Filtered, o.QueueDrops)
	ok, failed := r.sum(traffic)
	done, _ := r.sum(faults)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(r.out, "%-17s"+format+"\n", append([]any{name}, args...)...)
	}
	row("operations", "%d, of which %d failed as networks do", ok+failed, failed)
	row("faults injected", "%d", done)
	row("bytes verified", "%d", r.verified.Load())
	row("events", "%d read, %d lost by slow readers", r.events.Load(), r.missedEvents.Load())
	for k := range r.eventKinds {
		if n := r.eventKinds[k].Load(); n > 0 {
			row("", "%d of %s", n, wgnet.EventKind(k))
		}
	}
	for i, who := range []string{"between Nets", "with upstream's"} {
		t := &r.healed[i]
		row("after a storm", "%s packets get through after %v (median), %v (99 %%), %v (longest: %s)", who, t.at(0.5), t.at(0.99),
			t.most.Round(time.Millisecond), t.what)
	}
	row("second tries", "%d dials, %d datagrams and pings in calm weather", r.secondDials.Load(), r.secondDatagrams.Load())
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	row("goroutines", "%d at first, %d at last, all closed; slope %+.2f an hour",
		first.goroutines, last.goroutines, r.slope(func(s sample) float64 { return float64(s.goroutines) }))
	row("heap", "%d KiB at first, %d KiB at last, all closed; slope %+.0f KiB an hour, %+d KiB from the first third to the last",
		first.heap>>10, last.heap>>10, r.slope(func(s sample) float64 { return float64(s.heap) / 1024 }), r.grown()>>10)
	row("corruption", "%d", r.corrupt.Load())
	row("panics", "%d", r.panics.Load())
	row("stuck calls", "%d", r.hung.Load())
	row("other mistakes", "%d", r.wrongs.Load())
	if r.ok() {
		row("result", "all is well")
	} else {
		row("result", "SOMETHING IS WRONG; the same seed does the same again")
		for _, m := range r.mistakes {
			fmt.Fprintf(r.out, "\n  %s\n", m)
		}
	}
}
