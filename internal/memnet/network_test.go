// SPDX-License-Identifier: MIT

package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestListenAddresses(t *testing.T) {
	n := newNetwork(t, Options{})
	for _, tc := range []struct{ network, address, want string }{
		{"udp", "10.0.0.1:51820", "10.0.0.1:51820"},
		{"udp4", "10.0.0.2:0", "10.0.0.2:49152"},
		{"udp", "10.0.0.2:0", "10.0.0.2:49153"},
		{"udp", "[::ffff:10.0.0.3]:7", "10.0.0.3:7"},
		{"udp6", "[fd00::1]:0", "[fd00::1]:49152"},
		{"udp", ":0", "198.18.0.1:49152"},
		{"udp", ":51820", "198.18.0.2:51820"},
		{"udp4", "0.0.0.0:51820", "198.18.0.3:51820"},
		{"udp6", "[::]:51820", "[2001:2::4]:51820"},
	} {
		pc, err := n.ListenPacket(t.Context(), tc.network, tc.address)
		if err != nil {
			t.Errorf("%s %s: %v", tc.network, tc.address, err)
			continue
		}
		if got := pc.LocalAddr(); got.String() != tc.want || got.Network() != "udp" {
			t.Errorf("%s %s: at %v, want %s", tc.network, tc.address, got, tc.want)
		}
	}
}

func TestListenErrors(t *testing.T) {
	n := newNetwork(t, Options{})
	listen(t, n, "10.0.0.1:1000")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		ctx              context.Context
		network, address string
		want             error // nil: any
	}{
		{t.Context(), "udp", "10.0.0.1:1000", syscall.EADDRINUSE},
		{t.Context(), "tcp", "10.0.0.2:1000", net.UnknownNetworkError("tcp")},
		{t.Context(), "udp", "10.0.0.2", nil},
		{t.Context(), "udp", "example.com:1000", nil},
		{t.Context(), "udp", "10.0.0.2:http", nil},
		{t.Context(), "udp", "10.0.0.2:65536", nil},
		{t.Context(), "udp6", "10.0.0.2:1000", nil},
		{t.Context(), "udp4", "[fd00::1]:1000", nil},
		{t.Context(), "udp", "224.0.0.1:1000", errAddress},
		{cancelled, "udp", "10.0.0.2:1000", context.Canceled},
	} {
		pc, err := n.ListenPacket(tc.ctx, tc.network, tc.address)
		var op *net.OpError
		if pc != nil || !errors.As(err, &op) || op.Op != "listen" || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s %s: %v, %v; want an OpError with %v", tc.network, tc.address, pc, err, tc.want)
		}
	}
	if len(n.hosts) != 1 {
		t.Errorf("%d hosts: a failed ListenPacket leaves one behind", len(n.hosts))
	}
}

func TestPortsAreFreedAndUsedUp(t *testing.T) {
	n := newNetwork(t, Options{})
	h, err := n.NewHost(addrA)
	if err != nil {
		t.Fatal(err)
	}
	open := func(address string) (*Conn, error) {
		pc, err := h.ListenPacket(t.Context(), "udp", address)
		if err != nil {
			return nil, err
		}
		return pc.(*Conn), nil
	}
	var conns []*Conn
	for range 1<<16 - firstEphemeral {
		c, err := open(":0")
		if err != nil {
			t.Fatalf("after %d: %v", len(conns), err)
		}
		conns = append(conns, c)
	}
	_, err = open(":0")
	wantError(t, err, syscall.EADDRINUSE)
	port := addrPort(conns[1234]).Port()
	conns[1234].Close()
	c, err := open(":0")
	if err != nil || addrPort(c).Port() != port {
		t.Errorf("%v, want the free port %d", err, port)
	}
}

// TestDualStack: an endpoint at all the addresses of its host, and its conflicts.
func TestDualStack(t *testing.T) {
	n := newNetwork(t, Options{})
	four, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	h, err := n.NewHost(four, six, four)
	if err != nil || !slices.Equal(h.Addrs(), []netip.Addr{four, six}) {
		t.Fatalf("%v, %v", h.Addrs(), err)
	}
	pc, err := h.ListenPacket(t.Context(), "udp", ":51820")
	if err != nil {
		t.Fatal(err)
	}
	c := pc.(*Conn)
	for _, tc := range []struct{ from, to string }{{"10.0.0.9:9", "10.0.0.1:51820"}, {"[fd00::9]:9", "[fd00::1]:51820"}} {
		p := listen(t, n, tc.from)
		write(t, p, mustAddrPort(tc.to), "in")
		wantRead(t, c, "in", addrPort(p))
		write(t, c, addrPort(p), "out")
		wantRead(t, p, "out", mustAddrPort(tc.to))
	}
	// A mapped destination is IPv4.
	write(t, c, mustAddrPort("[::ffff:10.0.0.9]:9"), "mapped")
	if s := n.Stats(four, netip.MustParseAddr("::ffff:10.0.0.9")); s.Sent != 2 {
		t.Errorf("%+v", s)
	}
	for _, tc := range []struct {
		network, address string
		want             error
	}{
		{"udp", ":51820", syscall.EADDRINUSE},
		{"udp4", ":51820", syscall.EADDRINUSE},
		{"udp6", "[fd00::1]:51820", syscall.EADDRINUSE},
		{"udp", "10.0.0.2:51820", syscall.EADDRNOTAVAIL},
		{"udp4", ":7", nil},
		{"udp6", ":7", nil}, // the families' ports are apart
		{"udp", "[fd00::1]:8", nil},
		{"udp", "10.0.0.1:8", nil},
		{"udp", ":8", syscall.EADDRINUSE},
	} {
		_, err := h.ListenPacket(t.Context(), tc.network, tc.address)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s %s: %v, want %v", tc.network, tc.address, err, tc.want)
		}
	}
	// A host of one family reaches that one only.
	only4 := listen(t, n, "10.0.0.5:5")
	_, err = only4.WriteToUDPAddrPort(nil, mustAddrPort("[fd00::1]:51820"))
	wantError(t, err, syscall.ENETUNREACH)
	_, err = only4.WriteToUDPAddrPort(nil, mustAddrPort("224.0.0.1:9"))
	wantError(t, err, syscall.ENETUNREACH)
	_, err = n.NewHost(addrA, six)
	wantError(t, err, syscall.EADDRINUSE)
	if _, err := n.NewHost(addrA); err != nil {
		t.Errorf("the NewHost that failed has kept an address: %v", err)
	}
}

// TestHostsGoAway: a host that ListenPacket has made goes with its last endpoint, one of NewHost with its Close.
func TestHostsGoAway(t *testing.T) {
	n := newNetwork(t, Options{})
	for range 3 {
		a, b := listen(t, n, "10.0.0.1:1"), listen(t, n, "10.0.0.1:2")
		a.Close()
		_, err := n.NewHost(netip.MustParseAddr("10.0.0.1"))
		wantError(t, err, syscall.EADDRINUSE)
		b.Close()
		listen(t, n, ":0").Close()
	}
	h, err := n.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if len(n.hosts) != len(h.Addrs()) || len(h.Addrs()) != 2 {
		t.Errorf("hosts %v, want that of NewHost", n.hosts)
	}
	c, err = h.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = c.ReadFrom(nil)
	wantError(t, err, net.ErrClosed)
	if err := c.Close(); err != nil {
		t.Errorf("the first Close of an endpoint: %v", err)
	}
	_, err = h.ListenPacket(t.Context(), "udp", ":0")
	wantError(t, err, syscall.EADDRNOTAVAIL)
	_, err = h.ListenPacket(t.Context(), "tcp", ":0")
	wantError(t, err, net.UnknownNetworkError("tcp"))
	if len(n.hosts)+len(n.conns) != 0 {
		t.Errorf("%v and %v are left", n.hosts, n.conns)
	}
}

// TestPickedAddressesRunOut: addresses are used again only when all have been, and never those in use.
func TestPickedAddressesRunOut(t *testing.T) {
	n := newNetwork(t, Options{})
	first, err := n.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	n.nextHost = pickable - 3
	last, err := n.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	third, err := n.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(first.Addrs()[0], last.Addrs()[0], third.Addrs()[0])
	if got != "198.18.0.1 198.19.255.254 198.18.0.2" {
		t.Errorf("picked %s", got)
	}
}

func TestUnreachable(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{})
	b.Close()
	for _, to := range []string{"10.1.0.2:2000", "10.1.0.2:9", "10.9.9.9:9", "[fd00::9]:9"} {
		_, err := a.WriteToUDPAddrPort([]byte("x"), mustAddrPort(to))
		if err != nil && !strings.HasPrefix(to, "[") {
			t.Errorf("%s: %v: nothing is known of it on the internet either", to, err)
		}
	}
	if s := n.TotalStats(); s.Unreachable != 3 {
		t.Errorf("%+v, want 3 unreachable", s)
	}
}

// TestMove is the network's half of fault 53: an endpoint goes on at another address.
func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{}, Link{})
		setLink(t, n, addrB, addrA, Link{Latency: time.Second})
		write(t, b, addrPort(a), "too late")
		moved := netip.MustParseAddr("203.0.113.7")
		if err := n.Move(addrA, moved); err != nil {
			t.Fatal(err)
		}
		if got := addrPort(a); got != netip.AddrPortFrom(moved, 1000) {
			t.Errorf("LocalAddr is %v", got)
		}
		write(t, a, addrPort(b), "from the new one")
		wantRead(t, b, "from the new one", addrPort(a))
		write(t, b, addrPort(a), "to the new one")
		wantRead(t, a, "to the new one", addrPort(b))
		time.Sleep(2 * time.Second)
		wantNothing(t, a)
		if s := n.Stats(addrB, addrA); s.Unreachable != 1 {
			t.Errorf("%+v: what was under way to the old address", s)
		}
		c := listen(t, n, addrA.String()+":1000") // the old address is free
		for _, tc := range []struct {
			name     string
			from, to netip.Addr
			want     error
		}{
			{"taken", moved, addrB, syscall.EADDRINUSE},
			{"itself", moved, moved, syscall.EADDRINUSE},
			{"nobody", addrC, netip.MustParseAddr("10.7.7.7"), nil},
			{"other family", moved, netip.MustParseAddr("fd00::1"), nil},
			{"multicast", moved, netip.MustParseAddr("224.0.0.1"), errAddress},
		} {
			err := n.Move(tc.from, tc.to)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
		}
		c.Close()
	})
}

// TestMoveDualStack: the endpoint of a host with two addresses keeps the other one.
func TestMoveDualStack(t *testing.T) {
	n := newNetwork(t, Options{})
	h, err := n.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	pc, err := h.ListenPacket(t.Context(), "udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	old := h.Addrs()
	if err := n.Move(old[0], addrA); err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{addrA, old[1]}; !slices.Equal(h.Addrs(), want) {
		t.Errorf("addresses %v, want %v", h.Addrs(), want)
	}
	for _, tc := range []struct {
		from string
		to   netip.Addr
	}{{"10.0.0.9:9", addrA}, {"[fd00::9]:9", old[1]}} {
		p := listen(t, n, tc.from)
		write(t, p, netip.AddrPortFrom(tc.to, 7), "x")
		wantRead(t, pc.(*Conn), "x", addrPort(p))
	}
	if len(n.conns) != 4 {
		t.Errorf("%d conns, want 4: the old address is still known", len(n.conns))
	}
}

// TestClose: a closed network has ended every read, delivers nothing more and is closed for everything.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{}, Link{Latency: time.Second, Reorder: 0.5, Hold: time.Hour})
		h, err := n.NewHost()
		if err != nil {
			t.Fatal(err)
		}
		errs := make(chan error, 1)
		go func() { // ends with n
			_, _, err := b.ReadFrom(nil)
			errs <- err
		}()
		for i := range 100 {
			write(t, a, addrPort(b), number(i))
		}
		var closers sync.WaitGroup
		for range 5 {
			closers.Go(func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		closers.Wait()
		wantError(t, <-errs, net.ErrClosed)
		if n.inFlight.Load() != 0 || n.TotalStats().InFlight != 0 {
			t.Errorf("%d bytes are under way", n.inFlight.Load())
		}
		time.Sleep(2 * time.Hour)
		s := n.TotalStats()
		if s.Delivered != 0 {
			t.Errorf("%d delivered after Close", s.Delivered)
		}
		checkSum(t, s)

		_, err = a.WriteToUDPAddrPort(nil, addrPort(b))
		wantError(t, err, net.ErrClosed)
		_, err = n.ListenPacket(t.Context(), "udp", ":0")
		wantError(t, err, net.ErrClosed)
		_, err = n.NewHost()
		wantError(t, err, net.ErrClosed)
		_, err = h.ListenPacket(t.Context(), "udp", ":0")
		wantError(t, err, net.ErrClosed)
		wantError(t, n.SetLink(addrC, addrA, Link{}), net.ErrClosed)
		wantError(t, n.SetDefault(Link{}), net.ErrClosed)
		wantError(t, n.Cut(addrC, addrA), net.ErrClosed)
		if err := a.Close(); err != nil {
			t.Errorf("the first Close of an endpoint: %v", err)
		}
		wantError(t, a.Close(), net.ErrClosed)
	})
}

// TestCloseWaits: Close returns after a delivery that is in progress.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Options{})
		n.timers.Add(1) // a timer has fired
		closed := false
		go func() { // ends with the delivery
			n.Close()
			closed = true
		}()
		synctest.Wait()
		if closed {
			t.Error("Close has not waited")
		}
		n.timers.Done()
		synctest.Wait()
		if !closed {
			t.Error("Close still waits")
		}
	})
}

// TestCloseUnderTraffic closes and changes everything while datagrams fly, on a real clock. At its end nothing is left.
func TestCloseUnderTraffic(t *testing.T) {
	before := runtime.NumGoroutine()
	for round := range uint64(10) {
		n, a, b := couple(t, Options{Seed: round}, Link{})
		weathers := []Link{{}, {Latency: 50 * time.Microsecond}, storm, {Bandwidth: 1e8}, {Down: true}}
		var all sync.WaitGroup
		for _, dir := range []struct{ from, to *Conn }{{a, b}, {b, a}} {
			all.Go(func() { // ends with n
				for {
					if _, err := dir.from.WriteBatch(make([][]byte, 16), addrPort(dir.to)); err != nil {
						return
					}
				}
			})
			all.Go(func() { // ends with n
				for {
					if _, _, err := dir.from.ReadFromUDPAddrPort(nil); err != nil && !isTimeout(err) {
						return
					}
				}
			})
		}
		all.Go(func() {
			for i := range 100 {
				w := weathers[i%len(weathers)]
				err := errors.Join(n.SetLink(addrA, addrB, w), n.SetDefault(w), n.Cut(addrA, addrB), n.Heal(addrA, addrB),
					a.SetDeadline(time.Now().Add(time.Millisecond)), a.SetDeadline(time.Time{}))
				if err != nil {
					t.Error(err)
				}
				if err := errors.Join(n.Move(addrB, addrC), n.Move(addrC, addrB)); err != nil {
					t.Error(err)
				}
				checkSum(t, n.TotalStats())
			}
			n.Close()
		})
		within(t, all.Wait)
		checkSum(t, n.TotalStats())
		if n.inFlight.Load() != 0 {
			t.Errorf("%d bytes under way", n.inFlight.Load())
		}
	}
	// Timers' goroutines that Close does not wait for, those of deadlines, have a lock to take and end.
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
