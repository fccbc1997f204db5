// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/netstack"
)

// fault 30: no peer serves the address.
func TestNoRoute(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	a.SetRoutes([]netstack.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Peer: 1}, {Prefix: netip.MustParsePrefix("fd00::/64"), Peer: 1}})
	pc := must[*netstack.UDPConn](t)(a.ListenUDP("udp", netip.AddrPort{}))
	defer pc.Close()
	ctx := testContext(t)
	for _, dst := range []string{"10.0.1.1", "192.168.1.1", "fd00:1::1", "255.255.255.255", "::ffff:10.0.1.1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(dst), 9)
		_, dialErr := a.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		_, udpErr := a.DialUDP(ctx, "udp", netip.AddrPort{}, to)
		_, writeErr := pc.WriteToUDPAddrPort([]byte("x"), to)
		_, pingErr := a.Ping(ctx, to.Addr(), 1, 8)
		for call, err := range map[string]error{"DialTCP": dialErr, "DialUDP": udpErr, "WriteTo": writeErr, "Ping": pingErr} {
			if e := (*net.OpError)(nil); !errors.Is(err, syscall.ENETUNREACH) || !errors.As(err, &e) {
				t.Errorf("%s to %s: %v, want ENETUNREACH", call, to, err)
			}
		}
		if peer, ok := a.PeerFor(to.Addr()); ok {
			t.Errorf("PeerFor(%s) = %d", to.Addr(), peer)
		}
	}
	// A connected socket ends with its route; one that is not connected sends again when there is another.
	c := must[*netstack.UDPConn](t)(a.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 9)))
	defer c.Close()
	a.SetRoutes(nil)
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("Write without a route: %v", err)
	}
	a.SetRoutes([]netstack.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}})
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write with a route again: %v", err)
	}
	if _, err := pc.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addrB4, 9)); err != nil {
		t.Errorf("WriteTo with a route again: %v", err)
	}
	if n := a.LinkQueue(); n.Datagram != 1 || n.Stream+n.Ack+n.Control != 0 {
		t.Errorf("packets without a route: %+v", n)
	}
}

// Without an address of the family there is no source for it.
func TestNoAddressOfFamily(t *testing.T) {
	for _, own := range []string{"10.0.0.1/24", "fd00::1/64"} {
		a := newStack(t, netstack.Config{Addresses: prefixes(own)})
		dst := addrB4
		if netip.MustParsePrefix(own).Addr().Is4() {
			dst = addrB6
		}
		if _, err := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(dst, 9)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("from %s to %s: %v", own, dst, err)
		}
	}
}

func TestPeerFor(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	if peer, ok := a.PeerFor(netip.MustParseAddr("8.8.8.8")); !ok || peer != 0 {
		t.Errorf("before SetRoutes: %d, %v; want peer 0", peer, ok)
	}
	var routes []netstack.Route
	for i, p := range prefixes("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.7/32", "::/0", "fd00::/8", "fd00::9/128") {
		routes = append(routes, netstack.Route{Prefix: p, Peer: netstack.PeerID(i)})
	}
	routes = append(routes,
		netstack.Route{Prefix: netip.MustParsePrefix("10.1.2.3/16"), Peer: 10}, // host bits do not count
		netstack.Route{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Peer: 11},
		netstack.Route{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Peer: 12}, // the last one counts
		netstack.Route{}, // is nobody's
	)
	a.SetRoutes(routes)
	tests := []struct {
		addr string
		want netstack.PeerID
		ok   bool
	}{
		{"8.8.8.8", 0, true},
		{"10.2.0.1", 1, true},
		{"10.0.0.8", 2, true},
		{"10.0.0.7", 3, true},
		{"::ffff:10.0.0.7", 3, true},
		{"2001:db8::1", 4, true},
		{"fd00::8", 5, true},
		{"fd00::9", 6, true},
		{"fd00::9%eth0", 6, true},
		{"10.1.200.1", 10, true},
		{"10.9.1.1", 12, true},
		{"10.0.0.1", 0, false}, // the stack's own
		{"fd00::1", 0, false},
		{"127.0.0.1", 0, false},
		{"127.1.2.3", 0, false},
		{"::1", 0, false},
		{"0.0.0.0", 0, false}, // the loopback by another name
	}
	for _, test := range tests {
		if got, ok := a.PeerFor(netip.MustParseAddr(test.addr)); got != test.want || ok != test.ok {
			t.Errorf("PeerFor(%s) = %d, %v; want %d, %v", test.addr, got, ok, test.want, test.ok)
		}
	}
}

// fault 34: what is pending ends within 50 ms, with the right error, and nothing is left.
func TestPendingDialEnds(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	routed := []netstack.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/24")}, {Prefix: netip.MustParsePrefix("fd00::/64")}}
	dials := map[string]func(context.Context, netip.Addr) error{
		"DialTCP": func(ctx context.Context, dst netip.Addr) error {
			_, err := a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(dst, 80))
			return err
		},
		"Ping": func(ctx context.Context, dst netip.Addr) error {
			_, err := a.Ping(ctx, dst, 1, 8)
			return err
		},
	}
	for name, dial := range dials {
		for _, dst := range []netip.Addr{addrB4, addrB6} {
			got := make(chan error)
			var ctx context.Context
			var cancel context.CancelFunc
			pending := func() {
				t.Helper()
				ctx, cancel = context.WithCancel(context.Background())
				t.Cleanup(cancel)
				go func() { got <- dial(ctx, dst) }() // ended below
				if !eventually(func() bool { return a.PendingDials() == 1 && a.Endpoints() == 1 }) {
					t.Fatalf("%s to %s does not wait", name, dst)
				}
			}
			// A busy machine may let one wake-up take longer; it does not do so three times in a row.
			ends := func(why string, want error, end func()) {
				t.Helper()
				shortest := time.Hour
				for range 3 {
					a.SetRoutes(routed)
					pending()
					start := time.Now()
					end()
					err := <-got
					shortest = min(shortest, time.Since(start))
					if !errors.Is(err, want) {
						t.Errorf("%s to %s, %s: %v", name, dst, why, err)
					}
					if a.PendingDials() != 0 || a.Endpoints() != 0 {
						t.Errorf("%s to %s, %s: %d dials and %d endpoints are left", name, dst, why, a.PendingDials(), a.Endpoints())
					}
				}
				if shortest > 50*time.Millisecond {
					t.Errorf("%s to %s, %s: ended after %v", name, dst, why, shortest)
				}
			}
			ends("route removed", syscall.ENETUNREACH, func() {
				a.SetRoutes(append([]netstack.Route{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}}, routed...)) // is not of its concern
				a.SetRoutes(nil)
			})
			ends("canceled after the start", context.Canceled, func() { cancel() })
			a.SetRoutes(routed)
			if err := dial(ctx, dst); !errors.Is(err, context.Canceled) || a.Endpoints() != 0 {
				t.Errorf("%s to %s, canceled before the start: %v", name, dst, err)
			}
			ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			err := dial(ctx, dst)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s to %s, deadline: %v (fault 29: it is both kinds)", name, dst, err)
			}
			if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
				t.Errorf("%s to %s, deadline: %v is no time-out", name, dst, err)
			}
		}
	}
}

// The source is the address whose subnet contains the destination, the longest one first, else the first address.
func TestSourceAddress(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes(
		"10.0.0.1/24", "10.1.0.1/16", "10.1.2.1/24", "192.168.7.1/32",
		"fd00:1::1/64", "fd00:2::1/64", "fd00:2:0:0:1::1/80", "fd00:2:1::1/128",
	)})
	tests := []struct{ dst, want string }{
		{"10.0.0.2", "10.0.0.1"},
		{"10.1.9.2", "10.1.0.1"},
		{"10.1.2.2", "10.1.2.1"},
		{"10.77.0.2", "10.0.0.1"},   // in no subnet; 10.1.0.1 shares as many bits
		{"192.168.7.2", "10.0.0.1"}, // nearer to 192.168.7.1, and not in its /32
		{"fd00:1::2", "fd00:1::1"},
		{"fd00:2::2", "fd00:2::1"},
		{"fd00:2:0:0:1::2", "fd00:2:0:0:1::1"},
		{"fd00:2:1::2", "fd00:1::1"}, // RFC 6724 would take fd00:2:1::1
		{"2001:db8::2", "fd00:1::1"},
		{"fe80::2", "fd00:1::1"},
	}
	var theirs []netip.Prefix
	for _, test := range tests {
		addr := netip.MustParseAddr(test.dst)
		theirs = append(theirs, netip.PrefixFrom(addr, addr.BitLen()))
	}
	b := newStack(t, netstack.Config{Addresses: theirs})
	join(t, a, b)
	ctx := testContext(t)
	l := must[*netstack.TCPListener](t)(b.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, 80)))
	defer l.Close()
	pc := must[*netstack.UDPConn](t)(b.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, 80)))
	defer pc.Close()
	sender := must[*netstack.UDPConn](t)(a.ListenUDP("udp", netip.AddrPort{}))
	defer sender.Close()
	for _, test := range tests {
		t.Run(test.dst, func(t *testing.T) {
			dst, want := netip.MustParseAddr(test.dst), netip.MustParseAddr(test.want)
			to := netip.AddrPortFrom(dst, 80)
			check := func(what string, ap netip.AddrPort) {
				t.Helper()
				if ap.Addr() != want {
					t.Errorf("%s: from %s, want %s", what, ap.Addr(), want)
				}
			}
			addrPort := func(a net.Addr) netip.AddrPort {
				return a.(interface{ AddrPort() netip.AddrPort }).AddrPort()
			}
			for _, laddr := range []netip.AddrPort{{}, netip.AddrPortFrom(netip.Addr{}, 4000+uint16(dst.As16()[15]))} {
				c, err := a.DialTCP(ctx, "tcp", laddr, to)
				if err != nil {
					t.Fatal(err)
				}
				s := must[*netstack.TCPConn](t)(l.AcceptTCP())
				check("dialed TCP", addrPort(s.RemoteAddr()))
				check("dialed TCP's own view", addrPort(c.LocalAddr()))
				if laddr.Port() != 0 && addrPort(s.RemoteAddr()).Port() != laddr.Port() {
					t.Errorf("from port %d, want %d", addrPort(s.RemoteAddr()).Port(), laddr.Port())
				}
				_ = c.SetLinger(0)
				c.Close()
				s.Close()
			}
			u, err := a.DialUDP(ctx, "udp", netip.AddrPort{}, to)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if _, err := u.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			_, from, err := pc.ReadFromUDPAddrPort(make([]byte, 1))
			if err != nil {
				t.Fatal(err)
			}
			check("connected UDP", from)
			if _, err := sender.WriteToUDPAddrPort([]byte("x"), to); err != nil {
				t.Fatal(err)
			}
			if _, from, err = pc.ReadFromUDPAddrPort(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			check("unconnected UDP", from)
			if _, err := pc.WriteToUDPAddrPort([]byte("y"), from); err != nil {
				t.Fatal(err)
			}
			if _, _, err := sender.ReadFromUDPAddrPort(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Ping(ctx, dst, 1, 8); err != nil {
				t.Error(err)
			}
		})
	}
	// An address that was asked for is kept.
	own := netip.MustParseAddr("192.168.7.1")
	c := must[*netstack.TCPConn](t)(a.DialTCP(ctx, "tcp", netip.AddrPortFrom(own, 0), netip.MustParseAddrPort("10.0.0.2:80")))
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != own {
		t.Errorf("asked for %s, got %s", own, got)
	}
}
