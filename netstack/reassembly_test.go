// SPDX-License-Identifier: MIT

package netstack

import (
	"testing"
	"time"
)

func testFragment(id uint32, offset, size int, more bool) fragment {
	return fragment{
		fragmentID: fragmentID{id: id},
		piece:      piece{offset, make([]byte, size)},
		more:       more,
		header:     make([]byte, 40),
	}
}

func (r *reassembly) check(t *testing.T, datagrams, cost int) {
	t.Helper()
	if len(r.partials) != datagrams || r.oldest.Len() != datagrams || r.cost != cost {
		t.Errorf("%d and %d datagrams that cost %d, want %d that cost %d", len(r.partials), r.oldest.Len(), r.cost, datagrams, cost)
	}
}

// What has timed out goes, and what has come too late begins anew.
func TestReassemblyTimeout(t *testing.T) {
	var r reassembly
	start := time.Now()
	const one = partialCost + pieceCost + 8 + 1
	for id, after := range []time.Duration{0, time.Second, 2 * time.Second} {
		if whole, ok := r.add(testFragment(uint32(id), 0, 8, true), start.Add(after)); whole != nil || !ok {
			t.Fatal(whole, ok)
		}
	}
	r.check(t, 3, 3*one)
	if whole, ok := r.add(testFragment(0, 8, 8, false), start.Add(reassemblyTimeout)); whole != nil || !ok {
		t.Errorf("completed after the time-out: %v, %v", whole, ok)
	}
	r.check(t, 3, 3*one)
	if whole, _ := r.add(testFragment(2, 8, 8, false), start.Add(2*time.Second+reassemblyTimeout-1)); len(whole) != 56 {
		t.Errorf("a packet of %d bytes, want 56", len(whole))
	}
	r.check(t, 1, one) // the second one has gone, the third is complete
	if n := r.forgotten(); n != 2 {
		t.Errorf("%d are counted as given up, want the first two", n)
	}
}

// The bound holds, and the oldest goes first.
func TestReassemblyBound(t *testing.T) {
	var r reassembly
	now := time.Now()
	for id := range uint32(10_000) {
		r.add(testFragment(id, 0, 1000, true), now)
		if r.cost > maxReassembly {
			t.Fatalf("cost %d, want %d at most", r.cost, maxReassembly)
		}
	}
	if n := int(r.forgotten()) + len(r.partials); n != 10_000 {
		t.Errorf("%d are there or counted as given up, want 10000", n)
	}
	if whole, _ := r.add(testFragment(0, 1000, 1, false), now); whole != nil {
		t.Error("the oldest one is still there")
	}
	if whole, _ := r.add(testFragment(9_999, 1000, 1, false), now); len(whole) != 40+1001 {
		t.Error("the newest one is not there")
	}
	// Refusing one takes all of it away.
	n, cost := len(r.partials), r.cost
	r.add(testFragment(20_000, 0, 16, true), now)
	if _, ok := r.add(testFragment(20_000, 8, 16, true), now); ok {
		t.Error("an overlap was taken in")
	}
	if len(r.partials) > n || r.cost > cost {
		t.Errorf("%d datagrams that cost %d, want %d and %d at most", len(r.partials), r.cost, n, cost)
	}
}
