// SPDX-License-Identifier: MIT

// Command chaos breaks networks of wgnet hosts in every way that it knows, while traffic flows, and checks that nothing
// is corrupted, lost for good or left behind.
//
//	go run ./internal/chaos                               # a minute, with a seed by chance
//	go run ./internal/chaos -time 1h -seed 7 -peers 8     # an hour
//	go run ./internal/chaos -list                         # what it does
//
// A run is made of epochs. Each has a new network in memory, with members of which a third are upstream's own
// implementation. In a round of an epoch there is a storm first: faults, one after the other, while several workers dial,
// transfer and ask. Nothing has to succeed then, but errors must be those that a program expects, and each byte and
// datagram that arrives is compared with what was sent. Calm follows: everybody is told of everybody again, the
// weather is fair, and now traffic has to flow between all members within a bound, and everything has to succeed. At the
// end of an epoch all is closed, and what is left of goroutines and memory is measured.
//
// What is done, with what, in which order follows from the seed; how far it gets, and how calls meet each other, from the
// machine. The exit status is 1 if something was wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"
)

func main() {
	var s settings
	flag.DurationVar(&s.length, "time", time.Minute, "how long to go on; the round that is under way comes to its end")
	flag.Uint64Var(&s.seed, "seed", 0, "what is done follows from it; 0 picks one by chance")
	flag.IntVar(&s.peers, "peers", 6, "members of a network, from 2 to 50; every third is upstream's implementation")
	flag.IntVar(&s.rounds, "rounds", 4, "storms, each with a calm after it, before all is closed and measured")
	flag.IntVar(&s.workers, "workers", 6, "how many use the network at a time during a storm")
	flag.DurationVar(&s.every, "every", 5*time.Second, "pause between lines of progress")
	flag.BoolVar(&s.verbose, "v", false, "print each fault")
	list := flag.Bool("list", false, "list what it does, with weights, and do nothing")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "Chaos breaks networks of wgnet hosts, and checks that nothing is corrupted or left behind.\n"+
			"It prints a report, and its exit status is 1 if something was wrong.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *list {
		printOperations(os.Stdout)
		return
	}
	if flag.NArg() > 0 || s.peers < 2 || s.peers > 50 || s.rounds < 1 || s.workers < 1 || s.every <= 0 {
		fmt.Fprintln(os.Stderr, "chaos: an argument is out of its range or not known; -h lists the flags")
		os.Exit(2)
	}
	for s.seed == 0 {
		s.seed = rand.Uint64()
	}
	s.out = os.Stdout
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	r := newRun(s)
	ok := r.do(ctx)
	stop()
	r.report()
	if !ok {
		os.Exit(1)
	}
}
