// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
)

// star is a Net at 10.0.0.1, the hub, and others at 10.0.0.2 and so on, whom it knows the endpoints of, over an
// in-memory network in which they have the addresses 10.1.0.1 and so on.
type star struct {
	hub    *wgnet.Net
	others []*wgnet.Net // nil for one that is dead from the beginning
	net    *memnet.Network
}

func outerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) }
func innerAddr(i int) string     { return fmt.Sprintf("10.0.0.%d", i) }

// newStar makes as many others as there are names; the one named "dead" does not exist.
func newStar(tb testing.TB, names ...string) *star {
	tb.Helper()
	return newStarOf(tb, func(*wgnet.Config) {}, names...)
}

// newStarOf is newStar with a hub whose config may be changed.
func newStarOf(tb testing.TB, change func(hub *wgnet.Config), names ...string) *star {
	tb.Helper()
	s := &star{net: memnet.New(memnet.Options{Seed: 1})}
	tb.Cleanup(func() {
		if err := s.net.Close(); err != nil {
			tb.Error(err)
		}
	})
	config := func(i int) *wgnet.Config {
		host, err := s.net.NewHost(outerAddr(i))
		if err != nil {
			tb.Fatal(err)
		}
		cfg := newConfig(innerAddr(i) + "/24")
		cfg.ListenPort = 51820
		cfg.ListenPacket = host.ListenPacket
		return cfg
	}
	hub := config(1)
	for i, name := range names {
		cfg := config(i + 2)
		addPeer(cfg, "hub", hub.PrivateKey.Public(), "", innerAddr(1)+"/32")
		addPeer(hub, name, cfg.PrivateKey.Public(), netip.AddrPortFrom(outerAddr(i+2), 51820).String(), innerAddr(i+2)+"/32")
		if name == "dead" {
			s.others = append(s.others, nil)
			continue
		}
		s.others = append(s.others, newNet(tb, cfg))
	}
	change(hub)
	s.hub = newNet(tb, hub)
	return s
}

// bulk writes to a TCP address of the hub's peer, which reads, until the test or stop ends it.
func (s *star) bulk(tb testing.TB, peer int) (stop func()) {
	l, port := listen(tb, s.others[peer-2], ":0")
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the connection
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1<<16)
		for err == nil {
			_, err = c.Read(b)
		}
	})
	c, err := s.hub.DialContext(testContext(tb), "tcp", net.JoinHostPort(innerAddr(peer), port))
	if err != nil {
		tb.Fatal(err)
	}
	wg.Go(func() { // ends with the connection
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		_ = c.Close()
		_ = l.Close()
		wg.Wait()
	})
}

// flood sends datagrams to a peer until stop.
func (s *star) flood(tb testing.TB, peer int) (stop func()) {
	c, err := s.hub.Dial("udp", net.JoinHostPort(innerAddr(peer), "9"))
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the socket
		// 2,000 a second: what is measured is not who gets the processor.
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ; <-tick.C {
			for range 2 {
				if _, err := c.Write(make([]byte, 1200)); errors.Is(err, net.ErrClosed) {
					return
				}
			}
		}
	})
	return sync.OnceFunc(func() {
		_ = c.Close()
		wg.Wait()
	})
}

// A dead peer and a slow one, both with more to send to than they take, do not slow a fast one.
func TestDeadAndSlowPeers(t *testing.T) {
	s := newStar(t, "fast", "slow", "dead")
	if err := s.net.SetLink(outerAddr(1), outerAddr(3), memnet.Link{Bandwidth: 2_000_000, Latency: 5 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	transfer := func() time.Duration {
		begin := time.Now()
		transferHashed(t, s.hub, s.others[0], innerAddr(2), size)
		return time.Since(begin)
	}
	transfer() // past the handshake
	alone := min(transfer(), transfer())
	stopDead, stopSlow, stopSlowFlood := s.flood(t, 4), s.bulk(t, 3), s.flood(t, 3)
	beside := min(transfer(), transfer())
	stopSlowFlood()
	stopSlow()
	stopDead()
	t.Logf("%d MiB take %v alone, and %v beside a dead and a slow peer", size>>20, alone, beside)
	if beside > 20*alone {
		t.Errorf("%d MiB take %v beside a dead and a slow peer, %v alone", size>>20, beside, alone)
	}
}

// fault 70: datagrams to a peer that does not answer are dropped but for the last ones, before they cost 64 KiB each in
// the device; their writer never waits. A peer that was alive is one until its session ends: what is sent to it goes out
// as to any other.
func TestDatagramsToADeadPeer(t *testing.T) {
	const count = 40_000
	tests := []struct {
		name string
		kill func(t *testing.T, s *star)
	}{
		{"never alive", func(*testing.T, *star) {}},
		{"killed", func(t *testing.T, s *star) {
			transferHashed(t, s.hub, s.others[0], innerAddr(2), 1<<10)
			closeNet(t, s.others[0])
		}},
		{"killed and noticed", func(t *testing.T, s *star) {
			transferHashed(t, s.hub, s.others[0], innerAddr(2), 1<<10)
			closeNet(t, s.others[0])
			// A SYN without an answer ends the session after 500 ms.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if _, err := s.hub.DialContext(ctx, "tcp", innerAddr(2)+":1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name := "b"
			if test.name == "never alive" {
				name = "dead"
			}
			s := newStar(t, name)
			test.kill(t, s)
			c, err := s.hub.Dial("udp", innerAddr(2)+":9")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			stop := peakHeap()
			b := make([]byte, 1200)
			for i := range count {
				if _, err := c.Write(b); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("the writer waits with datagram %d", i)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			grown := stop()
			t.Logf("the heap grew by %d KiB", grown>>10)
			if grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB, want 64 at most", grown>>20)
			}
		})
	}
}

// fault 69, at a small scale: readers that do not read cost no more than their buffers, and others keep their speed.
func TestSlowReaders(t *testing.T) {
	const slow, size = 100, 8 << 20
	s := newStar(t, "b")
	transfer := func() time.Duration {
		begin := time.Now()
		transferHashed(t, s.hub, s.others[0], innerAddr(2), size)
		return time.Since(begin)
	}
	transfer() // past the handshake
	alone := min(transfer(), transfer())

	stop := peakHeap()
	l, port := listen(t, s.others[0], ":0")
	var wg sync.WaitGroup
	defer wg.Wait()
	for range slow {
		c, err := s.hub.DialContext(testContext(t), "tcp", net.JoinHostPort(innerAddr(2), port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		reader, err := l.Accept() // and never reads
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { // ends with the deadline
			b := make([]byte, 1<<16)
			for {
				if _, err := c.Write(b); err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("writing to a slow reader: %v", err)
					}
					return
				}
			}
		})
	}
	wg.Wait()
	grown := stop()
	beside := min(transfer(), transfer())
	t.Logf("the heap grew by %d KiB for each; %d MiB take %v alone, %v beside them", grown/slow>>10, size>>20, alone, beside)
	if grown > slow*6<<20 {
		t.Errorf("the heap grew by %d KiB for each slow reader", grown/slow>>10)
	}
	if beside > 20*alone {
		t.Errorf("%d MiB take %v beside %d slow readers, %v alone", size>>20, beside, slow, alone)
	}
}
