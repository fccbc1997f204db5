// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/netstack"
)

var (
	addrA4 = netip.MustParseAddr("10.0.0.1")
	addrB4 = netip.MustParseAddr("10.0.0.2")
	addrA6 = netip.MustParseAddr("fd00::1")
	addrB6 = netip.MustParseAddr("fd00::2")
)

// newStack makes a stack that is closed when the test ends.
func newStack(tb testing.TB, cfg netstack.Config) *netstack.Stack {
	tb.Helper()
	s, err := netstack.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// newPair makes two stacks, each the other's peer, joined by a wire without WireGuard.
func newPair(tb testing.TB) (a, b *netstack.Stack) {
	tb.Helper()
	a, b = newStacks(tb)
	join(tb, a, b)
	return a, b
}

// newStacks makes two stacks that nothing joins yet.
func newStacks(tb testing.TB) (a, b *netstack.Stack) {
	tb.Helper()
	a = newStack(tb, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrA4, 24), netip.PrefixFrom(addrA6, 64)}})
	b = newStack(tb, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrB4, 24), netip.PrefixFrom(addrB6, 64)}})
	return a, b
}

// join carries packets both ways between two stacks, over new facades, until the test ends or part is called.
func join(tb testing.TB, a, b *netstack.Stack) (part func()) {
	da, db := a.Device(), b.Device()
	var wg sync.WaitGroup
	wg.Go(func() { carry(tb, da, db) })
	wg.Go(func() { carry(tb, db, da) })
	part = func() {
		_ = da.Close() // never fails
		_ = db.Close()
		wg.Wait()
	}
	tb.Cleanup(part)
	return part
}

func carry(tb testing.TB, from, to *netstack.Device) {
	const offset = 16
	bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	out := make([][]byte, 0, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, offset)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				tb.Errorf("Read: %v", err)
			}
			return
		}
		out = out[:0]
		for i := range n {
			out = append(out, bufs[i][:offset+sizes[i]])
		}
		if _, err := to.Write(out, offset); err != nil && !errors.Is(err, os.ErrClosed) {
			tb.Errorf("Write: %v", err)
		}
	}
}

// testContext bounds a test that would hang otherwise.
func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// tcpPair returns the two ends of one connection from a to addr, which has to be b's.
func tcpPair(tb testing.TB, a, b *netstack.Stack, addr netip.Addr) (dialed, accepted *netstack.TCPConn) {
	tb.Helper()
	l, err := b.ListenTCP("tcp", netip.AddrPort{})
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	dialed, err = a.DialTCP(testContext(tb), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addr, port))
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err = l.AcceptTCP()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		dialed.Close()
		accepted.Close()
	})
	return dialed, accepted
}

// listenAt makes a packet conn on one address.
func listenAt(tb testing.TB, s *netstack.Stack, addr netip.Addr) *netstack.UDPConn {
	tb.Helper()
	pc, err := s.ListenUDP("udp", netip.AddrPortFrom(addr, 0))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { pc.Close() })
	return pc
}
