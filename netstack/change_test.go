// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/wgnet/netstack"
)

func routes(peer netstack.PeerID, list ...string) (r []netstack.Route) {
	for _, p := range prefixes(list...) {
		r = append(r, netstack.Route{Prefix: p, Peer: peer})
	}
	return r
}

// fault 39: what is connected to an address is reset when the address is not the same peer's any more, and nothing else.
func TestResetWithRoute(t *testing.T) {
	before := append(routes(1, "10.0.0.2/32"), routes(2, "fd00::/64")...)
	tests := []struct {
		name  string
		after []netstack.Route
		want  bool // the connection to 10.0.0.2 is reset
	}{
		{"same", before, false},
		{"other routes come", append(routes(3, "10.9.0.0/16", "10.0.0.0/24"), before...), false},
		{"a longer prefix of the same peer", append(routes(1, "10.0.0.0/8"), before...), false},
		{"gone", before[1:], true},
		{"another peer's", append(routes(3, "10.0.0.2/32"), before[1:]...), true},
		{"another peer's by a shorter prefix", append(routes(3, "10.0.0.0/24"), before[1:]...), true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := newPair(t)
			a.SetRoutes(before)
			c4, _ := tcpPair(t, a, b, addrB4)
			c6, accepted6 := tcpPair(t, a, b, addrB6)
			u4, err := a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 9))
			if err != nil {
				t.Fatal(err)
			}
			defer u4.Close()
			local, localAccepted := tcpPair(t, a, a, addrA4)
			reading := make(chan error, 2)
			if test.want {
				for _, c := range []net.Conn{c4, u4} {
					go func() { // ends with the reset
						_, err := c.Read(make([]byte, 1))
						reading <- err
					}()
				}
			}
			a.SetRoutes(test.after)
			if test.want {
				for range cap(reading) {
					if err := <-reading; !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("Read: %v, want ECONNRESET", err)
					}
				}
				for _, c := range []net.Conn{c4, u4} {
					if _, err := c.Write([]byte("x")); err == nil {
						t.Errorf("Write to a %T that was reset succeeds", c)
					}
				}
			} else {
				exchange(t, c4, nil)
			}
			exchange(t, c6, accepted6)
			exchange(t, local, localAccepted)
		})
	}
}

// exchange writes a byte to c, and reads it at the other end unless that is nil.
func exchange(t *testing.T, c, other net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("Write to %s: %v", c.RemoteAddr(), err)
		return
	}
	if other == nil || other == (*netstack.TCPConn)(nil) {
		return
	}
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Errorf("Read from %s: %v", other.RemoteAddr(), err)
	}
}

// A dial that is under way when its address becomes another peer's does not end up with that one.
func TestPendingDialMoved(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	a.SetRoutes(routes(1, "10.0.0.2/32"))
	got := make(chan error, 1)
	go func() { // ends with the change of routes
		_, err := a.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 80))
		got <- err
	}()
	if !eventually(func() bool { return a.PendingDials() == 1 && a.Endpoints() == 1 }) {
		t.Fatal("the dial does not wait")
	}
	a.SetRoutes(routes(2, "10.0.0.0/24"))
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// fault 39: connections on an address that goes are reset, and the other side is told; all others live on.
func TestSetAddresses(t *testing.T) {
	a, b := newPair(t)
	c4, accepted4 := tcpPair(t, a, b, addrB4)
	c6, accepted6 := tcpPair(t, a, b, addrB6)
	on4 := listenAt(t, a, addrA4)
	l, err := a.ListenTCP("tcp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()

	// Errors leave everything as it was.
	for _, bad := range [][]netip.Prefix{nil, prefixes("127.0.0.1/8"), {netip.Prefix{}}} {
		if err := a.SetAddresses(bad); err == nil {
			t.Errorf("SetAddresses(%v) succeeds", bad)
		}
	}
	exchange(t, c4, accepted4)

	if err := a.SetAddresses(prefixes("10.0.0.7/24", "fd00::1/64")); err != nil {
		t.Fatal(err)
	}
	exchange(t, c6, accepted6)
	for name, c := range map[string]net.Conn{"our": c4, "the other": accepted4} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s end: %v, want ECONNRESET", name, err)
		}
	}
	if _, err := on4.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addrB4, 9)); err == nil {
		t.Error("a datagram from an address that is gone")
	}
	// The new address serves what listens on all, and is the source of what is dialed.
	in, err := b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), port))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, accepted := tcpPair(t, a, b, addrB4)
	exchange(t, out, accepted)
	if got := out.LocalAddr().String(); netip.MustParseAddrPort(got).Addr() != netip.MustParseAddr("10.0.0.7") {
		t.Errorf("the source is %s", got)
	}
	// It comes back, and with it what listens on it.
	if err := a.SetAddresses(prefixes("10.0.0.1/24")); err != nil {
		t.Fatal(err)
	}
	if _, err := on4.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addrB4, 9)); err != nil {
		t.Errorf("a datagram from an address that is back: %v", err)
	}
	if _, err := c6.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without IPv6: %v", err)
	}
	if _, err := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB6, port)); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dial without IPv6: %v", err)
	}
}
