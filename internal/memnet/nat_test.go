// SPDX-License-Identifier: MIT

package memnet

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var outsideAddr = netip.MustParseAddr("198.51.100.1")

// natted is a network with A and B behind a NAT, and C outside.
func natted(tb testing.TB, timeout time.Duration) (n *Network, nat *NAT, a, b, c *Conn) {
	tb.Helper()
	n = newNetwork(tb, Options{})
	nat, err := n.AddNAT(outsideAddr, timeout, addrA, addrB)
	if err != nil {
		tb.Fatal(err)
	}
	return n, nat, listen(tb, n, "10.1.0.1:1000"), listen(tb, n, "10.1.0.2:2000"), listen(tb, n, "10.1.0.3:3000")
}

// mappingOf writes from an inside endpoint to c and returns the source that c sees.
func mappingOf(tb testing.TB, from, c *Conn) netip.AddrPort {
	tb.Helper()
	write(tb, from, addrPort(c), "out")
	_, source := read(tb, c)
	return source
}

func TestNATMapping(t *testing.T) {
	n, nat, a, b, c := natted(t, 0)
	d := listen(t, n, "10.1.0.4:4000")
	first := mappingOf(t, a, c)
	if first.Addr() != outsideAddr || first.Port() < 1024 {
		t.Errorf("C sees %v", first)
	}
	write(t, c, first, "answer")
	wantRead(t, a, "answer", addrPort(c))
	if again := mappingOf(t, a, d); again != first {
		t.Errorf("to another host it is %v, want %v: the mapping is endpoint-independent (RFC 4787 REQ-1)", again, first)
	}
	if other := mappingOf(t, b, c); other.Addr() != outsideAddr || other == first {
		t.Errorf("another inside endpoint shows %v", other)
	}
	if got, ok := nat.Outside(addrPort(a)); got != first || !ok {
		t.Errorf("Outside = %v, %v", got, ok)
	}
	if _, ok := nat.Outside(addrPort(c)); ok {
		t.Error("an endpoint outside has a mapping")
	}
}

func TestNATFiltering(t *testing.T) {
	n, _, a, b, c := natted(t, 0)
	first := mappingOf(t, a, c)
	for _, tc := range []struct {
		name string
		from *Conn
		to   netip.AddrPort
	}{
		{"another host", listen(t, n, "10.1.0.4:3000"), first},
		{"another port of the host", listen(t, n, "10.1.0.3:3001"), first},
		{"a port without mapping", c, netip.AddrPortFrom(first.Addr(), first.Port()+1)},
		{"the inside address", c, addrPort(a)},
	} {
		before := n.Stats(addrPort(tc.from).Addr(), tc.to.Addr()).Filtered
		write(t, tc.from, tc.to, "knock")
		wantNothing(t, a)
		if got := n.Stats(addrPort(tc.from).Addr(), tc.to.Addr()).Filtered - before; got != 1 {
			t.Errorf("%s: %d filtered, want 1", tc.name, got)
		}
	}
	// Inside it is a plain network.
	write(t, b, addrPort(a), "neighbor")
	wantRead(t, a, "neighbor", addrPort(b))
	checkSum(t, n.TotalStats())
}

// TestNATHairpin: two inside endpoints that know each other's outside addresses (RFC 4787 section 6).
func TestNATHairpin(t *testing.T) {
	_, _, a, b, c := natted(t, 0)
	outA, outB := mappingOf(t, a, c), mappingOf(t, b, c)
	write(t, a, outB, "punch")
	wantNothing(t, b) // B has not written to A yet
	write(t, b, outA, "through")
	wantRead(t, a, "through", outB)
	write(t, a, outB, "and back")
	wantRead(t, b, "and back", outA)
}

func TestNATTimeout(t *testing.T) {
	for _, tc := range []struct{ timeout, want time.Duration }{{0, 5 * time.Minute}, {30 * time.Second, 30 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			_, nat, a, _, c := natted(t, tc.timeout)
			first := mappingOf(t, a, c)
			// Outbound traffic refreshes (RFC 4787 REQ-6).
			for range 3 {
				time.Sleep(tc.want - 1)
				if again := mappingOf(t, a, c); again != first {
					t.Fatalf("refreshed, it is %v instead of %v", again, first)
				}
			}
			time.Sleep(tc.want - 1)
			write(t, c, first, "in time")
			wantRead(t, a, "in time", addrPort(c))
			time.Sleep(time.Nanosecond) // inbound traffic has not refreshed
			write(t, c, first, "too late")
			wantNothing(t, a)
			if _, ok := nat.Outside(addrPort(a)); ok {
				t.Error("Outside knows a mapping that has expired")
			}
			if later := mappingOf(t, a, c); later == first {
				t.Error("a new mapping shows the old port")
			}
		})
	}
}

// TestNATFilterTimeout: each remote endpoint expires by itself.
func TestNATFilterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, a, _, c := natted(t, time.Minute)
		d := listen(t, n, "10.1.0.4:4000")
		out := mappingOf(t, a, c)
		time.Sleep(40 * time.Second)
		mappingOf(t, a, d)
		time.Sleep(40 * time.Second)
		write(t, c, out, "forgotten")
		wantNothing(t, a)
		write(t, d, out, "known")
		wantRead(t, a, "known", addrPort(d))
	})
}

func TestNATReset(t *testing.T) {
	_, nat, a, _, c := natted(t, 0)
	first := mappingOf(t, a, c)
	nat.Reset()
	write(t, c, first, "lost")
	wantNothing(t, a)
	second := mappingOf(t, a, c)
	if second == first {
		t.Error("the mapping has survived")
	}
	write(t, c, second, "found")
	wantRead(t, a, "found", addrPort(c))
}

// TestNATLinks: the weather outside is that of the outside address.
func TestNATLinks(t *testing.T) {
	n, _, a, b, c := natted(t, 0)
	setLink(t, n, outsideAddr, addrC, Link{Down: true})
	for _, from := range []*Conn{a, b} {
		write(t, from, addrPort(c), "x")
	}
	wantNothing(t, c)
	if s := n.Stats(outsideAddr, addrC); s.Cut != 2 {
		t.Errorf("%+v", s)
	}
	if s := n.Stats(addrA, addrC); s != (Stats{}) {
		t.Errorf("the inside address has a link to the outside: %+v", s)
	}
}

// TestNATMove: a machine goes from behind a NAT to outside of it, and back.
func TestNATMove(t *testing.T) {
	n, _, a, _, c := natted(t, 0)
	mappingOf(t, a, c)
	out := netip.MustParseAddr("203.0.113.1")
	if err := n.Move(addrA, out); err != nil {
		t.Fatal(err)
	}
	if got := mappingOf(t, a, c); got != netip.AddrPortFrom(out, 1000) {
		t.Errorf("outside, it shows %v", got)
	}
	if err := n.Move(out, addrA); err != nil {
		t.Fatal(err)
	}
	if got := mappingOf(t, a, c); got.Addr() != outsideAddr {
		t.Errorf("inside again, it shows %v", got)
	}
}

// TestNATBounds: full tables drop what is new, keep what is old, and make room for it as it expires.
func TestNATBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, nat, a, b, c := natted(t, time.Minute)
		out := mappingOf(t, a, c)
		for i := range maxRemotes + 10 {
			write(t, a, netip.AddrPortFrom(addrC, uint16(5000+i)), "x")
		}
		write(t, a, addrPort(c), "old")
		wantRead(t, c, "old", out)
		if s := n.Stats(outsideAddr, addrC); s.Filtered != 11 {
			t.Errorf("%+v, want 11 filtered for want of room", s)
		}
		for i := range maxMappings {
			nat.outbound(netip.AddrPortFrom(addrB, uint16(3000+i)), addrPort(c))
		}
		if len(nat.byInside) != maxMappings || len(nat.byPort) != maxMappings {
			t.Errorf("%d and %d mappings", len(nat.byInside), len(nat.byPort))
		}
		write(t, b, addrPort(c), "no room")
		wantNothing(t, c)
		checkSum(t, n.TotalStats())

		time.Sleep(time.Minute)
		mappingOf(t, b, c)
		for i := range 3 { // remotes of a mapping that lives
			mappingOf(t, b, c)
			for j := range 600 {
				write(t, b, netip.AddrPortFrom(addrC, uint16(10_000+1000*i+j)), "x")
			}
			time.Sleep(31 * time.Second)
		}
		if len(nat.byInside) != 1 {
			t.Errorf("%d mappings, want those that expired to be gone", len(nat.byInside))
		}
		nat.next = 60_000
		for i := range 20_000 { // the ports go round
			from := netip.AddrPortFrom(addrB, uint16(3000+i))
			if _, ok := nat.outbound(from, addrPort(c)); !ok {
				t.Fatalf("mapping %d: no room", i)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if len(nat.byInside) > maxMappings || len(nat.byInside) != len(nat.byPort) {
			t.Errorf("%d and %d mappings", len(nat.byInside), len(nat.byPort))
		}
	})
}

// TestNATPorts: the ports begin again after the last, and skip those in use.
func TestNATPorts(t *testing.T) {
	_, nat, a, b, c := natted(t, 0)
	if got := mappingOf(t, a, c).Port(); got != firstNATPort {
		t.Errorf("the first port is %d", got)
	}
	nat.next = 65535
	for i, want := range []uint16{65535, firstNATPort + 1} {
		from, _ := nat.outbound(netip.AddrPortFrom(addrB, uint16(i+1)), addrPort(c))
		if from.Port() != want {
			t.Errorf("the next port is %d, want %d", from.Port(), want)
		}
	}
	write(t, c, netip.AddrPortFrom(outsideAddr, firstNATPort), "still A's")
	wantRead(t, a, "still A's", addrPort(c))
	wantNothing(t, b)
}

func TestNATErrors(t *testing.T) {
	n, _, _, _, _ := natted(t, 0)
	six := netip.MustParseAddr("fd00::1")
	for _, tc := range []struct {
		name    string
		outside netip.Addr
		inside  []netip.Addr
		want    error
	}{
		{"outside is another NAT's", outsideAddr, nil, syscall.EADDRINUSE},
		{"outside is a host's", addrC, nil, syscall.EADDRINUSE},
		{"outside is inside another NAT", netip.MustParseAddr("10.1.0.2"), nil, syscall.EADDRINUSE},
		{"inside is inside another NAT", netip.MustParseAddr("198.51.100.2"), []netip.Addr{addrA}, syscall.EADDRINUSE},
		{"families differ", netip.MustParseAddr("198.51.100.2"), []netip.Addr{six}, nil},
		{"no address", netip.Addr{}, nil, errAddress},
	} {
		nat, err := n.AddNAT(tc.outside, 0, tc.inside...)
		if nat != nil || err == nil {
			t.Errorf("%s: no error", tc.name)
		} else if tc.want != nil {
			wantError(t, err, tc.want)
		}
	}
	_, err := n.NewHost(outsideAddr)
	wantError(t, err, syscall.EADDRINUSE)
	n.Close()
	_, err = n.AddNAT(netip.MustParseAddr("198.51.100.9"), 0)
	wantError(t, err, net.ErrClosed)
}
