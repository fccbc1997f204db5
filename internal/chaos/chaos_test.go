// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A short run, in which all has to be well.
func TestChaos(t *testing.T) {
	var out strings.Builder
	r := newRun(settings{length: 2 * time.Second, seed: 1, peers: 4, rounds: 2, workers: 4, every: time.Second, verbose: true, out: &out})
	ok := r.do(t.Context())
	r.report()
	t.Log(out.String())
	if !ok {
		t.Error("something is wrong")
	}
	if done, _ := r.sum(faults); done == 0 || r.rounds.Load() == 0 {
		t.Errorf("%d faults, %d rounds", done, r.rounds.Load())
	}
}

// What a storm is follows from the seed.
func TestPlan(t *testing.T) {
	first, again, other := planStorm(1, 2, 3), planStorm(1, 2, 3), planStorm(2, 2, 3)
	if len(first) == 0 || !reflect.DeepEqual(first, again) {
		t.Errorf("the same seed, other storms:\n%v\n%v", first, again)
	}
	if reflect.DeepEqual(first, other) {
		t.Error("another seed, the same storm")
	}
	seen := map[string]bool{}
	for round := range 200 {
		for _, s := range planStorm(1, 1, round) {
			seen[s.op.name] = true
		}
	}
	for _, op := range faults {
		if !seen[op.name] {
			t.Errorf("%s never happens", op.name)
		}
	}
}

func TestOrdinary(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"refused", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{"closed", fmt.Errorf("read: %w", net.ErrClosed), true},
		{"unknown", errors.New("something else"), false},
		{"no such socket", syscall.EBADF, false},
		{"corrupt, and then the end", fmt.Errorf("%w: %w", errCorrupt, io.EOF), false},
		{"wrong, and a deadline", fmt.Errorf("%w: %w", errWrong, context.DeadlineExceeded), false},
	} {
		if got := ordinary(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// A byte that is not as it was sent is found, whatever the pieces.
func TestVerifier(t *testing.T) {
	good := make([]byte, 100_000)
	io.ReadFull(content(7, 0), good) // never fails
	for _, c := range []struct {
		name string
		bad  int // the byte that is changed; -1 is none
	}{{"none", -1}, {"the first", 0}, {"one in the middle", 54_321}, {"the last", len(good) - 1}} {
		data := append([]byte(nil), good...)
		if c.bad >= 0 {
			data[c.bad] ^= 1
		}
		v := &verifier{want: content(7, 0)}
		_, err := io.CopyBuffer(struct{ io.Writer }{v}, struct{ io.Reader }{strings.NewReader(string(data))}, make([]byte, 777))
		if (err == nil) != (c.bad < 0) || err != nil && !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name string
		b    []byte
		good bool
	}{
		{"as it was sent", datagram(1, 2, 500), true},
		{"the least", datagram(1, 2, 0), true},
		{"empty", nil, false},
		{"cut", datagram(1, 2, 500)[:10], false},
		{"changed", append(datagram(1, 2, 500)[:499], 'x'), false},
	} {
		if _, _, err := checkDatagram(c.b); (err == nil) != c.good {
			t.Errorf("datagram, %s: %v", c.name, err)
		}
	}
}

// What goes wrong is counted, and shown, and makes the run fail.
func TestReport(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*run)
		want string
	}{
		{"nothing", func(*run) {}, "all is well"},
		{"corruption", func(r *run) { r.wrong("tcp", fmt.Errorf("%w: here", errCorrupt)) }, "tcp: CORRUPT: here"},
		{"a panic", func(r *run) { r.caught("udp", func() error { panic("boom") }) }, "boom"},
		{"memory that grows", func(r *run) {
			for i := range 100 {
				r.samples = append(r.samples, sample{at: time.Duration(i) * time.Minute, heap: uint64(i) << 20})
			}
		}, "slope +61440 KiB an hour"},
	} {
		var out strings.Builder
		r := newRun(settings{out: &out})
		r.samples = []sample{{}}
		r.verified.Add(1)
		c.do(r)
		r.report()
		if !strings.Contains(out.String(), c.want) || r.ok() != (c.name == "nothing") {
			t.Errorf("%s: ok %v, want a word of %q:\n%s", c.name, r.ok(), c.want, out.String())
		}
	}
}
