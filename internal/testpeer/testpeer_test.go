// SPDX-License-Identifier: MIT

package testpeer

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// pair starts two peers that know each other; a has the endpoint, b learns it.
func pair(t *testing.T) (a, b *Peer) {
	t.Helper()
	a = New(t, Options{Addresses: []string{"10.0.0.1", "fd00::1"}})
	b = New(t, Options{})
	must(t, a.AddPeer(Remote{
		PublicKey: b.PublicKey(), Endpoint: b.Endpoint(), AllowedIPs: []string{"10.0.0.2/32", "fd00::2/128"},
	}))
	must(t, b.AddPeer(Remote{PublicKey: a.PublicKey(), AllowedIPs: []string{"10.0.0.1/32", "fd00::1/128"}}))
	return a, b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testContext is a generous bound for anything that waits.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func fetch(t *testing.T, p *Peer, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(testContext(t), http.MethodGet, url, nil)
	must(t, err)
	response, err := p.HTTPClient().Do(request)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return string(body)
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello, wireguard\n") }

func TestTwoPeers(t *testing.T) {
	a, b := pair(t)
	ctx := testContext(t)
	must(t, b.Serve(":9090", http.HandlerFunc(hello)))
	must(t, a.Handshake(ctx, b.PublicKey()))

	for _, host := range []string{"10.0.0.2", "[fd00::2]"} {
		if got := fetch(t, a, "http://"+host+":9090"); got != "hello, wireguard\n" {
			t.Errorf("GET from %s: %q", host, got)
		}
	}
	must(t, b.WaitHandshake(ctx, a.PublicKey()))

	for _, from := range []*Peer{a, b} {
		to := a
		if from == a {
			to = b
		}
		for _, addr := range to.Addresses() {
			if rtt, err := from.Ping(ctx, addr); err != nil || rtt <= 0 {
				t.Errorf("ping %v: %v, %v", addr, rtt, err)
			}
		}
	}

	for _, address := range []string{"10.0.0.2:53", "[fd00::2]:53"} {
		l, err := b.ListenUDP(address)
		must(t, err)
		c, err := a.DialContext(ctx, "udp", address)
		must(t, err)
		_, err = c.Write([]byte("question"))
		must(t, err)
		buf := make([]byte, 100)
		n, from, err := l.ReadFrom(buf)
		must(t, err)
		_, err = l.WriteTo(bytes.ToUpper(buf[:n]), from)
		must(t, err)
		n, err = c.Read(buf)
		if err != nil || string(buf[:n]) != "QUESTION" {
			t.Errorf("udp echo at %s: %q, %v", address, buf[:n], err)
		}
	}

	s, err := a.Status(b.PublicKey())
	must(t, err)
	if s.Endpoint != b.Endpoint() || s.RxBytes == 0 || s.TxBytes == 0 {
		t.Errorf("status %+v, want endpoint %s and traffic", s, b.Endpoint())
	}
}

func TestIPv6Outside(t *testing.T) {
	a, b := pair(t)
	must(t, a.AddPeer(Remote{PublicKey: b.PublicKey(), Endpoint: b.Endpoint6(), AllowedIPs: []string{"10.0.0.2/32"}}))
	if _, err := a.Ping(testContext(t), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Error(err)
	}
}

func TestPresharedKey(t *testing.T) {
	for _, tc := range []struct {
		name  string
		same  bool
		bound time.Duration
	}{
		{"same", true, 20 * time.Second},
		{"different", false, 500 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := pair(t)
			psk := GenerateKey()
			must(t, a.AddPeer(Remote{PublicKey: b.PublicKey(), Endpoint: b.Endpoint(), PresharedKey: psk}))
			if !tc.same {
				psk = GenerateKey()
			}
			must(t, b.AddPeer(Remote{PublicKey: a.PublicKey(), PresharedKey: psk}))
			ctx, cancel := context.WithTimeout(context.Background(), tc.bound)
			defer cancel()
			if err := a.Handshake(ctx, b.PublicKey()); (err == nil) != tc.same {
				t.Errorf("handshake: %v", err)
			}
		})
	}
}

func TestRestart(t *testing.T) {
	a, b := pair(t)
	ctx := testContext(t)
	to := netip.MustParseAddr("10.0.0.2")
	port := b.Port()
	_, err := a.Ping(ctx, to)
	must(t, err)
	for _, restart := range []func() error{b.Restart, b.RestartPassive} {
		must(t, restart())
		if b.Port() != port {
			t.Errorf("port %d after a restart, was %d", b.Port(), port)
		}
		if s, err := b.Status(a.PublicKey()); err != nil || !s.LastHandshake.IsZero() || s.Endpoint != "" {
			t.Errorf("after a restart: %+v, %v; want a peer without a session and endpoint", s, err)
		}
		// a's session means nothing to the new b, and a would only notice after 15 s: begin anew.
		must(t, a.Handshake(ctx, b.PublicKey()))
		_, err = a.Ping(ctx, to)
		must(t, err)
	}

	must(t, a.Restart())
	_, err = a.Ping(ctx, to)
	must(t, err)
	must(t, a.RestartPassive())
	if s, err := a.Status(b.PublicKey()); err != nil || s.Endpoint != "" {
		t.Errorf("after RestartPassive: %+v, %v; want no endpoint", s, err)
	}
}

func TestRemovePeer(t *testing.T) {
	a, b := pair(t)
	must(t, a.RemovePeer(b.PublicKey()))
	if _, err := a.Status(b.PublicKey()); err == nil {
		t.Error("the removed peer still has a status")
	}
	must(t, a.Restart())
	if _, err := a.Status(b.PublicKey()); err == nil {
		t.Error("the removed peer is back after a restart")
	}
}

// TestCloseUnderLoad is fault 18 for the peer itself: TCP and UDP flood both ways while one side closes.
func TestCloseUnderLoad(t *testing.T) {
	before := runtime.NumGoroutine()
	const cycles = 20
	b, err := Start(Options{})
	must(t, err)
	a, err := Start(Options{Addresses: []string{"10.0.0.1", "fd00::1"}})
	must(t, err)
	must(t, b.AddPeer(Remote{PublicKey: a.PublicKey(), AllowedIPs: []string{"10.0.0.1/32"}}))
	must(t, a.AddPeer(Remote{PublicKey: b.PublicKey(), Endpoint: b.Endpoint(), AllowedIPs: []string{"10.0.0.2/32"}}))

	for range cycles {
		l, err := b.Listen(":7")
		must(t, err)
		u, err := b.ListenUDP(":7")
		must(t, err)
		var users sync.WaitGroup
		users.Go(func() { // ends with the listener
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				users.Go(func() { io.Copy(c, c); c.Close() }) // ends with the connection
			}
		})
		users.Go(func() { // ends with u
			buf := make([]byte, 2000)
			for {
				n, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				u.WriteTo(buf[:n], from)
			}
		})
		ctx := testContext(t)
		must(t, a.Handshake(ctx, b.PublicKey()))
		for _, network := range []string{"tcp", "udp"} {
			c, err := a.DialContext(ctx, network, net.JoinHostPort(b.Addresses()[0].String(), "7"))
			must(t, err)
			users.Go(func() { // ends when a closes
				buf := make([]byte, 1200)
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			})
			got := make(chan bool)
			users.Go(func() { // ends when a closes
				n, _ := c.Read(make([]byte, 1200))
				got <- n > 0
				io.Copy(io.Discard, c)
			})
			if !<-got {
				t.Errorf("no echo over %s", network)
			}
		}
		must(t, a.Restart())
		must(t, b.Restart())
		users.Wait()
		// The next cycle floods the other way, and the other side closes first.
		a, b = b, a
		must(t, a.AddPeer(Remote{PublicKey: b.PublicKey(), Endpoint: b.Endpoint(), AllowedIPs: prefixes(b)}))
	}
	must(t, a.Close())
	must(t, b.Close())
	waitGoroutines(t, before)
}

func prefixes(p *Peer) (list []string) {
	for _, a := range p.Addresses() {
		list = append(list, netip.PrefixFrom(a, a.BitLen()).String())
	}
	return list
}

// waitGoroutines waits until no more goroutines run than before: what has logged its end may still be on its last
// instruction.
func waitGoroutines(t *testing.T, before int) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > before {
		select {
		case <-tick.C:
		case <-ctx.Done():
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before,
				stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	p, err := Start(Options{})
	must(t, err)
	must(t, p.Serve(":80", http.HandlerFunc(hello)))
	u, err := p.ListenUDP(":53")
	must(t, err)
	must(t, p.Close())
	must(t, p.Close())
	waitGoroutines(t, before)

	if _, err := u.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}); err == nil {
		t.Error("a datagram was sent after Close")
	}
	if _, err := p.DialContext(testContext(t), "tcp", "10.0.0.1:80"); err == nil {
		t.Error("a dial succeeded after Close")
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(p.Port())})
	if err != nil {
		t.Errorf("the port is not free after Close: %v", err)
	} else {
		c.Close()
	}
}

func TestStartFails(t *testing.T) {
	taken, err := net.ListenUDP("udp4", nil)
	must(t, err)
	defer taken.Close()
	for _, tc := range []struct {
		name string
		opts Options
	}{
		{"address with a prefix length", Options{Addresses: []string{"10.0.0.1/24"}}},
		{"name server by name", Options{DNS: []string{"dns"}}},
		{"port in use", Options{ListenPort: uint16(taken.LocalAddr().(*net.UDPAddr).Port)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			p, err := Start(tc.opts)
			if err == nil {
				p.Close()
				t.Fatal("no error")
			}
			waitGoroutines(t, before)
		})
	}
}

func TestConfigFor(t *testing.T) {
	p := New(t, Options{})
	us, psk := GenerateKey(), GenerateKey()
	got := p.ConfigFor(Local{
		PrivateKey: us, Addresses: []string{"10.0.0.1/24", "fd00::1"}, ListenPort: 51820, MTU: 1400,
		DNS: []string{"10.0.0.2"}, PresharedKey: psk, PersistentKeepalive: 25,
	})
	want := `[Interface]
PrivateKey = ` + us.String() + `
Address = 10.0.0.1/24, fd00::1
ListenPort = 51820
MTU = 1400
DNS = 10.0.0.2

[Peer]
PublicKey = ` + p.PublicKey().String() + `
PresharedKey = ` + psk.String() + `
Endpoint = ` + p.Endpoint() + `
AllowedIPs = 10.0.0.2/32, fd00::2/128
PersistentKeepalive = 25
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	least := p.ConfigFor(Local{PrivateKey: us, Endpoint: "none", AllowedIPs: []string{"0.0.0.0/0"}})
	for _, key := range []string{"Address", "ListenPort", "MTU", "DNS", "PresharedKey", "Endpoint", "Persistent"} {
		if strings.Contains(least, key+" ") {
			t.Errorf("a line for %s that was not asked for:\n%s", key, least)
		}
	}
}

func TestKeys(t *testing.T) {
	// RFC 7748 section 6.1, Alice's key pair.
	private := Key{
		0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
		0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
	}
	if got := private.Public().hex(); got != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Errorf("public key %s", got)
	}
	parsed, err := ParseKey(private.String())
	if err != nil || parsed != private {
		t.Errorf("ParseKey(String()): %v, %v", parsed, err)
	}
	for _, bad := range []string{"", "AAAA", private.hex(), private.String() + "=", private.String()[:43]} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("ParseKey(%q): no error", bad)
		}
	}
}
