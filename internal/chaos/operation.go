// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"text/tabwriter"
	"time"
)

// An operation is one thing that chaos does, and checks. Further ones are further rows in the tables of [traffic], whose
// operations meet each other and the faults, and [faults], which come one after the other.
type operation struct {
	name   string
	weight int
	what   string // in a few words, for -list
	// do returns nil, or errSkipped, or what went wrong. In a storm, what ordinary accepts is no mistake.
	do func(*call) error
}

// A call is one run of an operation. Everything that it does by chance comes from its rng.
type call struct {
	ctx    context.Context
	world  *world
	rng    *rand.Rand
	strict bool   // it has to succeed
	text   string // what it did, for people
}

// say notes what the call does.
func (c *call) say(format string, args ...any) { c.text = fmt.Sprintf(format, args...) }

// chance is true with a probability.
func (c *call) chance(p float64) bool { return c.rng.Float64() < p }

var (
	// errSkipped says that there is nothing to do it to.
	errSkipped = errors.New("skipped")
	// errCorrupt is for data that is not what was sent.
	errCorrupt = errors.New("CORRUPT")
	// errWrong is for what may not happen in any weather.
	errWrong = errors.New("wrong")
	// errUpstream is for what upstream's implementation says, whose errors are its own matter during a storm.
	errUpstream = errors.New("upstream")
)

// ordinary says whether an error is one that a program expects on a network that fails.
func ordinary(err error) bool {
	if errors.Is(err, errCorrupt) || errors.Is(err, errWrong) {
		return false
	}
	for _, known := range []error{
		errUpstream, net.ErrClosed, os.ErrDeadlineExceeded, context.DeadlineExceeded, context.Canceled, io.EOF, io.ErrUnexpectedEOF,
		syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE, syscall.ETIMEDOUT,
		syscall.ENETUNREACH, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	var dns *net.DNSError
	return errors.As(err, &dns) // the peer of that name was removed, and there is no name server
}

// pick draws one of a table, by weight.
func pick(table []operation, rng *rand.Rand) *operation {
	sum := 0
	for i := range table {
		sum += table[i].weight
	}
	at := rng.IntN(sum)
	for i := range table {
		if at -= table[i].weight; at < 0 {
			return &table[i]
		}
	}
	panic("weights are positive")
}

// A step is a fault of a storm, as it is planned.
type step struct {
	op    *operation
	seed  uint64
	pause time.Duration // after it
}

// planStorm says what happens in a storm. It depends on its arguments only.
func planStorm(seed uint64, epoch, round int) (steps []step) {
	rng := source(seed, epoch, round, -1)
	for range 10 + rng.IntN(20) {
		s := step{op: pick(faults, rng), seed: rng.Uint64()}
		if rng.IntN(3) > 0 { // some follow each other at once
			s.pause = time.Duration(rng.IntN(150)) * time.Millisecond
		}
		steps = append(steps, s)
	}
	return steps
}

// source is where the chances of one worker, or of the plan, come from.
func source(seed uint64, epoch, round, worker int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(epoch)<<40^uint64(round)<<20^uint64(worker+1)))
}

// printOperations lists both tables.
func printOperations(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, table := range []struct {
		name string
		ops  []operation
	}{{"traffic", traffic}, {"faults", faults}} {
		fmt.Fprintf(t, "%s\tweight\t\n", table.name)
		for _, op := range table.ops {
			fmt.Fprintf(t, "  %s\t%d\t%s\n", op.name, op.weight, op.what)
		}
	}
	t.Flush()
}
