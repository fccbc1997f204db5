// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

func TestPing(t *testing.T) {
	n, up := newUpstream(t, nil)
	var seq uint16
	for _, c := range []struct{ host, addr string }{
		{"10.0.0.2", "10.0.0.2"},
		{"fd00::2", "fd00::2"},
		{"UP.", "10.0.0.2"},
		{"10.0.0.1", "10.0.0.1"},
		{"fd00::1", "fd00::1"},
		{"localhost", "127.0.0.1"},
		{"::1", "::1"},
	} {
		start := time.Now()
		r, err := n.Ping(testContext(t), c.host)
		if err != nil {
			t.Errorf("%s: %v", c.host, err)
			continue
		}
		seq++
		if r.Addr.String() != c.addr || r.Seq != seq || r.TTL != 64 || r.RTT <= 0 || r.RTT > time.Since(start) {
			t.Errorf("%s: %+v, want address %s and number %d", c.host, r, c.addr, seq)
		}
	}
	// The other way round: we answer.
	for _, addr := range []string{"10.0.0.1", "fd00::1"} {
		if _, err := up.Ping(testContext(t), netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
	}
	// At once: none takes another's answer.
	var pings sync.WaitGroup
	seen := make(chan uint16, 50)
	for range cap(seen) {
		pings.Go(func() {
			r, err := n.Ping(testContext(t), "up")
			if err != nil {
				t.Error(err)
			}
			seen <- r.Seq
		})
	}
	pings.Wait()
	close(seen)
	numbers := map[uint16]bool{}
	for s := range seen {
		numbers[s] = true
	}
	if len(numbers) != cap(seen) {
		t.Errorf("%d numbers for %d pings", len(numbers), cap(seen))
	}
}

func TestPingErrors(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "silent", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.3/32")
	addPeer(cfg, "laptop", wgnet.NewPrivateKey().Public(), "", "10.0.0.4/32")
	n := newNet(t, cfg)
	for _, c := range []struct {
		name, host string
		is         error
		text       string
	}{
		{"no route", "10.0.0.9", syscall.ENETUNREACH, "ping ip 10.0.0.9: connect: network is unreachable: no peer's AllowedIPs contain 10.0.0.9"},
		{"no family", "fd00::2", syscall.ENETUNREACH, "ping ip fd00::2: connect: network is unreachable: this host has no IPv6 address"},
		{"no endpoint", "laptop", syscall.EHOSTUNREACH, "ping ip 10.0.0.4: peer laptop has no endpoint and has not been heard from: give it an Endpoint, or wait for it with WaitPeer"},
		{"unknown name", "db.example", nil, "ping ip: lookup db.example: no DNS server is configured: set DNS in the tunnel's configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.Ping(testContext(t), c.host)
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "ping" {
				t.Fatalf("%#v is no *net.OpError of a ping", err)
			}
			if c.is != nil && !errors.Is(err, c.is) || err.Error() != c.text {
				t.Errorf("got %v", err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(testContext(t), 10*time.Millisecond)
	defer cancel()
	for range 3 { // fault 38: with time left, and with none
		_, err := n.Ping(ctx, "silent")
		checkTimeout(t, err)
	}
	ctx, cancel = context.WithCancel(testContext(t))
	cancel()
	if _, err := n.Ping(ctx, "silent"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	if _, err := n.Ping(ctx, "laptop"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, no endpoint: got %v", err)
	}
}
