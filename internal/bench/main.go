// SPDX-License-Identifier: MIT

// Command bench measures wgnet against upstream's own stack, golang.zx2c4.com/wireguard's device with its tun/netstack
// and its UDP bind, as published. Both run in this process, both ends of each, over UDP on the loopback interface.
//
//	go run ./internal/bench              # the table, as markdown
//	go run ./internal/bench -json        # the same as JSON
//	go run ./internal/bench -weather     # one stream over links with delay and loss, as PERFORMANCE.md has it
//	go run ./internal/bench -flood -time 60s # what one peer's flood through a gateway costs, and does to another peer
//	go test -bench . ./internal/bench    # single benchmarks, for benchstat
//
// The two sides take turns in every round, so that what the machine does meanwhile meets both; the figures are medians
// over the rounds, and the ratios are medians of each round's ratio. Content is checked once by hash, outside of the
// timing. CPU time is that of the whole process, so of both ends.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds to measure")
	length := flag.Duration("time", 2*time.Second, "length of each measurement")
	asJSON := flag.Bool("json", false, "print JSON instead of a table")
	only := flag.String("only", "", "measure only what has this in its name")
	weather := flag.Bool("weather", false, "measure one stream over links with delay and loss instead, in Mbit/s")
	flood := flag.Bool("flood", false, "flood a gateway from one peer instead, for -time, and measure what another one feels")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: unexpected argument %q; -h lists the flags\n", flag.Arg(0))
		os.Exit(2)
	}
	mode := run
	switch {
	case *weather:
		mode = weatherTables
	case *flood:
		mode = floodCommand
	}
	if err := mode(*rounds, *length, *only, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(rounds int, length time.Duration, only string, asJSON bool) error {
	sides := []side{{"upstream", newUpstream}, {"wgnet", newWgnet}}
	for _, s := range sides {
		fmt.Fprintf(os.Stderr, "checking what %s carries\n", s.name)
		if err := s.verify(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	var results []result
	for round := range rounds {
		for _, m := range measurements {
			if !m.matches(only) {
				continue
			}
			for _, s := range sides {
				fmt.Fprintf(os.Stderr, "\rround %d of %d: %-28s %-10s", round+1, rounds, m.name, s.name)
				figures, err := m.measure(s.open, length)
				if err != nil {
					return fmt.Errorf("%s of %s: %w", m.name, s.name, err)
				}
				results = append(results, result{Round: round, Side: s.name, Figures: figures})
			}
		}
	}
	fmt.Fprintf(os.Stderr, "\r%60s\r", "")
	rows := summarize(results)
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	return printTable(os.Stdout, rows)
}
