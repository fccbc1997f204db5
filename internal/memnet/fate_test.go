// SPDX-License-Identifier: MIT

package memnet

import (
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// storm is a weather with everything in it that has a fate.
var storm = Link{Loss: 0.1, Corrupt: 0.1, Duplicate: 0.05, Copies: 2, Reorder: 0.25, Jitter: time.Millisecond}

// replay writes the same sequence to a new network and returns what comes of it, in order.
func replay(t *testing.T, seed uint64, w Link, pace time.Duration, disturb func(*Network)) (got []string, s Stats) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{Seed: seed}, w)
		if disturb != nil {
			disturb(n)
		}
		for i := range 1000 {
			write(t, a, addrPort(b), number(i)+"payload")
			time.Sleep(pace)
		}
		time.Sleep(time.Minute)
		got, s = drain(t, b), n.Stats(addrA, addrB)
		checkSum(t, s)
	})
	return got, s
}

// TestSameFateTwice: a recorded sequence meets the same fate again, whatever the pace and whatever else happens.
func TestSameFateTwice(t *testing.T) {
	first, s := replay(t, 7, storm, 0, nil)
	if s.Lost == 0 || s.Corrupted == 0 || s.Duplicated == 0 || s.Reordered == 0 {
		t.Fatalf("the weather is too good: %+v", s)
	}
	if slices.IsSorted(first) {
		t.Error("nothing is out of order")
	}
	for _, tc := range []struct {
		name    string
		pace    time.Duration
		disturb func(*Network)
	}{
		{"again", 0, nil},
		{"slowly", 100 * time.Microsecond, nil},
		{"with other links", 0, func(n *Network) {
			c := listen(t, n, "10.1.0.3:1000")
			for range 100 {
				for _, to := range []string{"10.1.0.1:1000", "10.9.9.9:9"} {
					write(t, c, mustAddrPort(to), "noise")
				}
			}
		}},
	} {
		if again, _ := replay(t, 7, storm, tc.pace, tc.disturb); !slices.Equal(again, first) {
			t.Errorf("%s: another fate", tc.name)
		}
	}
	if other, _ := replay(t, 8, storm, 0, nil); slices.Equal(other, first) {
		t.Error("another seed, but the same fate")
	}
}

// TestFatesAreStable pins some fates: they must be the same in every version and on every machine.
func TestFatesAreStable(t *testing.T) {
	if key := linkKey(7, addrA, addrB); key != 0x59a14fc1f8f664b3 {
		t.Errorf("linkKey = %#x", key)
	}
	// The first outputs of SplitMix64 with the seed 1234567, as published with its reference code.
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423} {
		if got := draw(1234567, 0, uint64(i)); got != want {
			t.Errorf("draw %d is %d, want %d", i, got, want)
		}
	}
	if draw(5, 1, 0) != draw(5, 0, drawsEach) {
		t.Error("the draws of datagram 1 do not follow those of datagram 0")
	}
}

// TestFatesAreIndependent: directions differ, and changing one property leaves the others as they are.
func TestFatesAreIndependent(t *testing.T) {
	key, back := linkKey(7, addrA, addrB), linkKey(7, addrB, addrA)
	if key == back || key == linkKey(8, addrA, addrB) || key == linkKey(7, addrA, addrC) {
		t.Error("links share a key")
	}
	more := storm
	more.Loss, more.Reorder = 0.2, 0
	for i := range uint64(10_000) {
		f, g := fateOf(key, i, &storm), fateOf(key, i, &more)
		if f.lose && !g.lose {
			t.Errorf("datagram %d is lost at 10 %%, but not at 20 %%", i)
		}
		if f.corrupt != g.corrupt || f.duplicate != g.duplicate || f.bit != g.bit || f.jitter != g.jitter {
			t.Errorf("the loss of datagram %d changes its other fates", i)
		}
	}
}

// TestProbabilities: what is asked for is what happens, within five standard deviations.
func TestProbabilities(t *testing.T) {
	const count = 100_000
	key := linkKey(1, addrA, addrB)
	for _, p := range []float64{0, 0.01, 0.25, 0.9, 1} {
		w := Link{Loss: p, Corrupt: p, Duplicate: p, Reorder: p}
		var lost, corrupt, duplicate, reorder, both int
		for i := range uint64(count) {
			f := fateOf(key, i, &w)
			lost += toInt(f.lose)
			corrupt += toInt(f.corrupt)
			duplicate += toInt(f.duplicate)
			reorder += toInt(f.reorder)
			both += toInt(f.lose && f.corrupt)
		}
		for name, c := range map[string]struct {
			got int
			p   float64
		}{
			"lost": {lost, p}, "corrupt": {corrupt, p}, "duplicate": {duplicate, p}, "reorder": {reorder, p},
			"lost and corrupt": {both, p * p},
		} {
			want := count * c.p
			if off := math.Abs(float64(c.got) - want); off > 5*math.Sqrt(want*(1-c.p)) {
				t.Errorf("probability %v: %d %s of %d", p, c.got, name, count)
			}
		}
	}
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestFateOfConcurrentWriters: the numbers are those of the link, whoever writes.
func TestFateOfConcurrentWriters(t *testing.T) {
	n, a, b := couple(t, Options{Seed: 7}, Link{Loss: 0.5})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 250 {
				write(t, a, addrPort(b), "x")
			}
		})
	}
	writers.Wait()
	want := 0
	for i := range uint64(1000) {
		want += toInt(!fateOf(linkKey(7, addrA, addrB), i, &Link{Loss: 0.5}).lose)
	}
	if got := n.Stats(addrA, addrB).Delivered; got != uint64(want) {
		t.Errorf("%d delivered, want %d", got, want)
	}
}
