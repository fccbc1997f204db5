// SPDX-License-Identifier: MIT

package outer

import (
	"net"
	"strconv"
	"testing"
	"time"
)

// What has just come may still be inside the device, so it is not counted before a second is over.
func TestReceivedCount(t *testing.T) {
	begin := time.Now()
	var c receivedCount
	for _, step := range []struct {
		at   time.Duration
		add  int
		want uint64
	}{
		{0, 10, 0},
		{400 * time.Millisecond, 5, 0},
		{900 * time.Millisecond, 0, 0},
		{1100 * time.Millisecond, 3, 0},  // a mark of 15
		{1900 * time.Millisecond, 2, 0},  // ten have settled, but it is not known how many
		{2100 * time.Millisecond, 0, 15}, // the mark is a second old
		{2200 * time.Millisecond, 4, 15}, // a mark of 20
		{3100 * time.Millisecond, 0, 15},
		{3200 * time.Millisecond, 0, 24}, // a second of silence
		{time.Hour, 1, 24},
		{2 * time.Hour, 0, 25},
	} {
		now := begin.Add(step.at)
		if step.add > 0 {
			c.add(step.add, now)
		}
		if got := c.settled(now); got != step.want {
			t.Errorf("after %v: %d have settled, want %d", step.at, got, step.want)
		}
	}
}

// A destination is announced once, and once more when that is asked for.
func TestDestination(t *testing.T) {
	calls := 0
	s, err := Open(Config{Destination: func() { calls++ }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := s.Bind()
	if _, _, err := b.Open(0); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	self, err := b.ParseEndpoint(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.Port()))))
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.ParseEndpoint(self.DstToString())
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		to    int
		again bool
		want  int
	}{{0, false, 1}, {0, false, 1}, {1, false, 2}, {0, false, 2}, {0, true, 3}, {1, false, 4}, {1, false, 4}} {
		if step.again {
			s.AnnounceAgain()
		}
		to := self
		if step.to == 1 {
			to = other
		}
		if err := b.Send([][]byte{{1, 2, 3}}, to); err != nil {
			t.Fatal(err)
		}
		if calls != step.want {
			t.Errorf("step %d: announced %d times, want %d", i, calls, step.want)
		}
	}
}
