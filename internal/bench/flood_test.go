// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestFlood is faults 65 to 67 at a small scale, through everything: one peer's SYNs and UDP tuples cost a bounded amount,
// another peer's connections are made meanwhile, and nothing is left.
func TestFlood(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a flood needs a port at which SYNs are lost, which takes a Unix system")
	}
	got, err := measureFlood(time.Second, 10_000, 2_000, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got.SYNs == 0 || got.UDP == 0 || got.Received == 0 || got.Tunnel.Accepted == 0 {
		t.Errorf("%d SYNs and %d datagrams, of which %d arrived and %v: want some of all", got.SYNs, got.UDP, got.Received, got.Tunnel)
	}
	if got.Tunnel.Open+got.Tunnel.Undecided > 4096+512 || got.Gateway.Open > 2048+10 || got.Gateway.Denied > 0 {
		t.Errorf("the tunnel has %v, the gateway %+v", got.Tunnel, got.Gateway)
	}
	if got.Under.Made == 0 || got.Idle.Failed > 0 {
		t.Errorf("another peer's connections: %+v, before the flood %+v", got.Under, got.Idle)
	}
	if got.After.Goroutines > got.Before.Goroutines+10 { // those of echoes may be about to end
		t.Errorf("%d goroutines are left of %d", got.After.Goroutines, got.Before.Goroutines)
	}
	var b bytes.Buffer
	if err := printFlood(&b, got); err != nil || !strings.Contains(b.String(), "| goroutines ") {
		t.Errorf("%v, and a table without goroutines:\n%s", err, b.String())
	}
}
