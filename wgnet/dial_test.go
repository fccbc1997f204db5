// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

func TestDial(t *testing.T) {
	a, b := newPair(t)
	for _, n := range []*wgnet.Net{a, b} {
		l, _ := listen(t, n, ":7")
		serveEcho(t, l)
	}
	for _, c := range []struct {
		network, address string
		remote           string
	}{
		{"tcp", "10.0.0.2:7", "10.0.0.2:7"},
		{"tcp4", "10.0.0.2:7", "10.0.0.2:7"},
		{"tcp", "[fd00::2]:7", "[fd00::2]:7"},
		{"tcp6", "[fd00::2]:7", "[fd00::2]:7"},
		{"tcp", "[::ffff:10.0.0.2]:7", "10.0.0.2:7"},
		{"tcp", "b:7", "10.0.0.2:7"},
		{"tcp4", "B:7", "10.0.0.2:7"},
		{"tcp6", "b.:7", "[fd00::2]:7"},
		// fault 37: the Net's own addresses, and its loopback.
		{"tcp", "10.0.0.1:7", "10.0.0.1:7"},
		{"tcp", "[fd00::1]:7", "[fd00::1]:7"},
		{"tcp", "127.0.0.1:7", "127.0.0.1:7"},
		{"tcp", "127.1.2.3:7", "127.1.2.3:7"},
		{"tcp", "[::1]:7", "[::1]:7"},
		{"tcp", "localhost:7", "127.0.0.1:7"},
		{"tcp", "db.LOCALHOST.:7", "127.0.0.1:7"},
		{"tcp6", "localhost:7", "[::1]:7"},
		{"tcp", ":7", "127.0.0.1:7"},
		{"tcp6", ":7", "[::1]:7"},
		{"tcp", "0.0.0.0:7", "127.0.0.1:7"},
		{"tcp", "[::]:7", "[::1]:7"},
	} {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			conn, err := a.DialContext(testContext(t), c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := conn.RemoteAddr().String(); got != c.remote {
				t.Errorf("remote address %s, want %s", got, c.remote)
			}
			if err := roundTrip(conn); err != nil {
				t.Error(err)
			}
			conn, err = a.DialContext(testContext(t), strings.Replace(c.network, "tcp", "udp", 1), c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := conn.RemoteAddr().String(); got != c.remote {
				t.Errorf("UDP: remote address %s, want %s", got, c.remote)
			}
		})
	}
}

// A name whose first address is silent: the second one is dialed 250 ms later (RFC 8305).
func TestDialHappyEyeballs(t *testing.T) {
	cfg, cfgB := newConfig("10.0.0.1/24", "fd00::1/64"), newConfig("10.0.0.2/24")
	cfg.ListenPacket = inMemory(t)
	cfgB.ListenPacket = cfg.ListenPacket
	addPeer(cfgB, "a", cfg.PrivateKey.Public(), "", "10.0.0.1/32", "fd00::1/128")
	b := newNet(t, cfgB)
	addPeer(cfg, "b", b.PublicKey(), localhost(b.ListenPort()), "fd00::2/128", "10.0.0.2/32") // b has no fd00::2
	a := newNet(t, cfg)
	l, port := listen(t, b, ":0")
	serveEcho(t, l)
	start := time.Now()
	c, err := a.DialContext(testContext(t), "tcp", "b:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := c.RemoteAddr().String(); got != "10.0.0.2:"+port {
		t.Errorf("connected to %s", got)
	}
	if err := roundTrip(c); err != nil {
		t.Error(err)
	}
	// With both silent, the error is the first address's.
	ctx, cancel := context.WithTimeout(testContext(t), 600*time.Millisecond)
	defer cancel()
	_, err = a.DialContext(ctx, "tcp6", "b:"+port)
	checkTimeout(t, err)
}

// fault 29: both errors of a deadline, and a net.Error that times out.
func checkTimeout(tb testing.TB, err error) {
	tb.Helper()
	var timeout net.Error
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) ||
		!errors.As(err, &timeout) || !timeout.Timeout() {
		tb.Errorf("want an error of a deadline, got %v", err)
	}
}

func TestDialer(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "10.0.0.11/24", "fd00::1/64")
	a, up := newUpstream(t, func(c *wgnet.Config) { c.Addresses = cfg.Addresses })
	if err := up.AddPeer(remote(a, "10.0.0.1/32", "10.0.0.11/32", "fd00::1/128")); err != nil {
		t.Fatal(err)
	}
	l, err := up.Listen(":7")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
	port := func(c net.Conn) string { _, p, _ := net.SplitHostPort(c.LocalAddr().String()); return p }

	for _, c := range []struct{ local, address, want string }{
		{"", "10.0.0.2:7", "10.0.0.1:"},
		{"10.0.0.11:0", "10.0.0.2:7", "10.0.0.11:"},
		{"10.0.0.11:4000", "10.0.0.2:7", "10.0.0.11:4000"},
		{"[fd00::1]:4001", "[fd00::2]:7", "[fd00::1]:4001"},
		{"0.0.0.0:4002", "10.0.0.2:7", "10.0.0.1:4002"},
		{"127.0.0.1:0", "127.0.0.1:8", "127.0.0.1:"},
	} {
		t.Run(c.local+" to "+c.address, func(t *testing.T) {
			own, _ := listen(t, a, ":8")
			serveEcho(t, own)
			d := wgnet.Dialer{Net: a, Timeout: 10 * time.Second}
			if c.local != "" {
				d.LocalAddr = netip.MustParseAddrPort(c.local)
			}
			conn, err := d.Dial("tcp", c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := conn.LocalAddr().String(); got != c.want && got != c.want+port(conn) {
				t.Errorf("local address %s, want %s", got, c.want)
			}
			if err := roundTrip(conn); err != nil {
				t.Error(err)
			}
		})
	}

	used, _ := listenPacket(t, a, "10.0.0.1:5000")
	for _, c := range []struct {
		name, network string
		d             wgnet.Dialer
		is            error
		text          string
	}{
		{"no Net", "tcp", wgnet.Dialer{}, nil, "dial tcp: the Dialer's Net is nil"},
		{
			"not ours", "tcp",
			wgnet.Dialer{Net: a, LocalAddr: netip.MustParseAddrPort("10.0.0.12:0")},
			syscall.EADDRNOTAVAIL, "",
		},
		{"taken", "udp", wgnet.Dialer{Net: a, LocalAddr: used.LocalAddr().(*net.UDPAddr).AddrPort()}, syscall.EADDRINUSE, ""},
		{
			"wrong family", "tcp",
			wgnet.Dialer{Net: a, LocalAddr: netip.MustParseAddrPort("[fd00::1]:0")},
			nil, "dial tcp [fd00::1]:0->10.0.0.2:7: address [fd00::1]:0: wrong address family for network tcp",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.d.Dial(c.network, "10.0.0.2:7")
			if err == nil || c.is != nil && !errors.Is(err, c.is) || c.text != "" && err.Error() != c.text {
				t.Errorf("got %v", err)
			}
		})
	}

	// Timeout and the context's deadline: the earlier one counts.
	cfg = newConfig("10.0.0.1/24")
	addPeer(cfg, "silent", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.3/32")
	n := newNet(t, cfg)
	_, err = (&wgnet.Dialer{Net: n, Timeout: 20 * time.Millisecond}).DialContext(testContext(t), "tcp", "10.0.0.3:7")
	checkTimeout(t, err)
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	_, err = (&wgnet.Dialer{Net: n, Timeout: time.Hour}).DialContext(ctx, "tcp", "10.0.0.3:7")
	checkTimeout(t, err)
}

func TestDialErrors(t *testing.T) {
	a, b := newPair(t)
	if err := a.WaitPeer(testContext(t), b.PublicKey()); err != nil {
		t.Fatal(err)
	}
	only4 := newConfig("10.0.0.1/24")
	addPeer(only4, "b", wgnet.NewPrivateKey().Public(), localhost(b.ListenPort()), "10.0.0.2/32", "fd00::2/128")
	n4 := newNet(t, only4)
	passive := newConfig("10.0.0.1/24")
	addPeer(passive, "laptop", wgnet.NewPrivateKey().Public(), "", "10.0.0.2/32")
	nameless := wgnet.NewPrivateKey().Public()
	addPeer(passive, "", nameless, "", "10.0.0.3/32")
	np := newNet(t, passive)

	for _, c := range []struct {
		name, network, address string
		n                      *wgnet.Net
		is                     error
		text                   string
	}{
		{"refused", "tcp", "10.0.0.2:81", a, syscall.ECONNREFUSED, "dial tcp 10.0.0.2:81: connect: connection refused"},
		{"refused over IPv6", "tcp", "[fd00::2]:81", a, syscall.ECONNREFUSED, "dial tcp [fd00::2]:81: connect: connection refused"},
		{"refused by a named peer", "tcp", "b:81", a, syscall.ECONNREFUSED, "dial tcp 10.0.0.2:81: connect: connection refused"},
		{"refused by our own loopback", "tcp", "localhost:81", a, syscall.ECONNREFUSED, "dial tcp 127.0.0.1:81: connect: connection refused"},
		{"fault 30: no route", "tcp", "10.0.0.9:80", a, syscall.ENETUNREACH, "dial tcp 10.0.0.9:80: connect: network is unreachable: no peer's AllowedIPs contain 10.0.0.9"},
		{"fault 30: no route for UDP", "udp", "[fd00::9]:80", a, syscall.ENETUNREACH, "dial udp [fd00::9]:80: connect: network is unreachable: no peer's AllowedIPs contain fd00::9"},
		{"no address of the family", "tcp", "[fd00::2]:80", n4, syscall.ENETUNREACH, "dial tcp [fd00::2]:80: connect: network is unreachable: this host has no IPv6 address"},
		{"no address of a name's family", "tcp6", "b:80", n4, syscall.ENETUNREACH, "dial tcp6 [fd00::2]:80: connect: network is unreachable: this host has no IPv6 address"},
		{"fault 31: no endpoint", "tcp", "10.0.0.2:80", np, syscall.EHOSTUNREACH, "dial tcp 10.0.0.2:80: peer laptop has no endpoint and has not been heard from: give it an Endpoint, or wait for it with WaitPeer"},
		{"fault 31: no endpoint for UDP", "udp4", "laptop:80", np, syscall.EHOSTUNREACH, "dial udp4 10.0.0.2:80: peer laptop has no endpoint and has not been heard from: give it an Endpoint, or wait for it with WaitPeer"},
		{"fault 31: no endpoint and no name", "tcp", "10.0.0.3:80", np, syscall.EHOSTUNREACH, "dial tcp 10.0.0.3:80: peer " + nameless.String()[:8] + "… has no endpoint and has not been heard from: give it an Endpoint, or wait for it with WaitPeer"},
		{"wrong family", "tcp4", "[fd00::2]:80", a, nil, "dial tcp4 [fd00::2]:80: address fd00::2: wrong address family for network tcp4"},
		{"unknown network", "sctp", "b:80", a, net.UnknownNetworkError("sctp"), "dial sctp: unknown network sctp"},
		{"no network", "", "b:80", a, net.UnknownNetworkError(""), "dial: unknown network "},
		{"no port", "tcp", "b", a, nil, "dial tcp: address b: missing port in address"},
		{"service name", "tcp", "b:http", a, nil, "dial tcp: address b:http: port is not a number from 0 to 65535"},
		{"large port", "tcp", "b:65536", a, nil, "dial tcp: address b:65536: port is not a number from 0 to 65535"},
		{"port 0", "tcp", "b:0", a, syscall.ECONNREFUSED, "dial tcp 10.0.0.2:0: connect: connection refused"},
		{"unknown name", "tcp", "db.example:80", a, nil, "dial tcp: lookup db.example: no DNS server is configured: set DNS in the tunnel's configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := c.n.DialContext(testContext(t), c.network, c.address)
			if err == nil {
				conn.Close()
				t.Fatal("no error")
			}
			if err.Error() != c.text {
				t.Errorf("got  %s\nwant %s", err, c.text)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "dial" || op.Net != c.network {
				t.Errorf("%#v is no *net.OpError of the dial", err)
			}
		})
	}
}

// fault 34: a dial ends when its context does, and leaves nothing.
func TestDialCancel(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64")
	addPeer(cfg, "silent", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.3/32", "fd00::3/128")
	n := newNet(t, cfg)

	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	for _, address := range []string{"10.0.0.3:80", "silent:80", "10.0.0.9:80"} {
		if _, err := n.DialContext(ctx, "tcp", address); !errors.Is(err, context.Canceled) {
			t.Errorf("dial %s with a cancelled context: got %v", address, err)
		}
	}
	for _, address := range []string{"10.0.0.3:80", "silent:80"} {
		t.Run(address, func(t *testing.T) {
			// 50 ms are the bound. A busy machine may miss it, but not five times.
			best := time.Hour
			for range 5 {
				ctx, cancel := context.WithCancel(testContext(t))
				failed := make(chan error, 1)
				go func() { // cancel ends it
					_, err := n.DialContext(ctx, "tcp", address)
					failed <- err
				}()
				waitFor(t, "the dial to wait", func() bool { return hasGoroutine(".(*Stack).connect(") })
				start := time.Now()
				cancel()
				err := <-failed
				best = min(best, time.Since(start))
				if !errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if want := fmt.Sprintf("dial tcp %s: operation was canceled", "10.0.0.3:80"); err.Error() != want {
					t.Errorf("got %q, want %q", err, want)
				}
			}
			if best > 50*time.Millisecond {
				t.Errorf("a cancelled dial returned after %v", best)
			}
		})
	}
	closeNet(t, n)
	checkLeaks(t)
}
