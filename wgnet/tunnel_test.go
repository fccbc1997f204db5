// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

func TestWaitPeer(t *testing.T) {
	t.Run("as initiator", func(t *testing.T) {
		n, up := newUpstream(t, nil)
		for range 2 { // the second time, there is a session
			if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
				t.Fatal(err)
			}
		}
		// A session with both sides: the other one has our packet under the new keys.
		if err := up.WaitHandshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
			t.Error(err)
		}
	})

	t.Run("as responder", func(t *testing.T) {
		n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].Endpoint = "" })
		waiting := make(chan error, 1)
		go func() { waiting <- n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())) }() // its context ends it
		waitFor(t, "WaitPeer to wait", func() bool { return hasGoroutine(".waitPeer(") })
		us := remote(n, "10.0.0.1/32")
		us.Endpoint = localhost(n.ListenPort())
		if err := up.AddPeer(us); err != nil {
			t.Fatal(err)
		}
		if _, err := up.Ping(testContext(t), n.Addresses()[0].Addr()); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
			t.Error(err)
		}
		// Now it can be dialed.
		if _, err := n.Ping(testContext(t), "up"); err != nil {
			t.Error(err)
		}
	})

	t.Run("errors", func(t *testing.T) {
		silent := newInitiations(t)
		key, passive := wgnet.NewPrivateKey().Public(), wgnet.NewPrivateKey().Public()
		cfg := newConfig("10.0.0.1/24")
		addPeer(cfg, "db", key, silent.endpoint, "10.0.0.2/32")
		addPeer(cfg, "laptop", passive, "", "10.0.0.3/32")
		n := newNet(t, cfg)
		if err := n.WaitPeer(testContext(t), n.PublicKey()); err == nil ||
			err.Error() != "wgnet: WaitPeer: no peer has the public key "+n.PublicKey().String() {
			t.Errorf("unknown key: got %v", err)
		}
		ctx, cancel := context.WithTimeout(testContext(t), 10*time.Millisecond)
		defer cancel()
		const want = "wgnet: WaitPeer: context deadline exceeded: peer laptop has no endpoint and has not been heard from"
		if err := n.WaitPeer(ctx, passive); err == nil || err.Error() != want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("passive: got %v", err)
		}
		ctx, cancel = context.WithCancel(testContext(t))
		cancel()
		if err := n.WaitPeer(ctx, key); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})
}

// Both sides begin a handshake at the same moment.
func TestBothInitiate(t *testing.T) {
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	cfgA.ListenPacket = inMemory(t)
	cfgB.ListenPacket = cfgA.ListenPacket
	cfgA.ListenPort, cfgB.ListenPort = 1, 2
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), localhost(cfgB.ListenPort), "10.0.0.2/32")
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), localhost(cfgA.ListenPort), "10.0.0.1/32")
	a, b := newNet(t, cfgA), newNet(t, cfgB)
	var waits sync.WaitGroup
	for _, c := range []struct {
		n    *wgnet.Net
		key  wgnet.PublicKey
		ping string
	}{{a, b.PublicKey(), "b"}, {b, a.PublicKey(), "a"}} {
		waits.Go(func() {
			if err := c.n.WaitPeer(testContext(t), c.key); err != nil {
				t.Error(err)
			}
			if _, err := c.n.Ping(testContext(t), c.ping); err != nil {
				t.Error(err)
			}
		})
	}
	waits.Wait()
}

// freePort finds a UDP port that was free a moment ago.
func freePort(tb testing.TB) uint16 {
	tb.Helper()
	pc, err := net.ListenPacket("udp", ":0")
	if err != nil {
		tb.Fatal(err)
	}
	defer pc.Close()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// fault 25: a peer that is silent for 500 ms gets a handshake, and further ones with growing pauses.
func TestSilence(t *testing.T) {
	silent := newInitiations(t)
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "db", wgnet.NewPrivateKey().Public(), silent.endpoint, "10.0.0.2/32")
	n := newNet(t, cfg)
	// The greetings of a start: at once, after 0.3 s, after 1.3 s.
	for range 3 {
		silent.next(t)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	dialed := make(chan error, 1)
	start := time.Now()
	go func() { // cancel ends it
		_, err := n.DialContext(ctx, "tcp", "db:80")
		dialed <- err
	}()
	first := silent.next(t)
	if pause := first.Sub(start); pause < 300*time.Millisecond || pause > 4*time.Second {
		t.Errorf("a handshake %v after the SYN, want some 500 ms", pause)
	}
	silent.next(t)
	if pauses := silent.next(t).Sub(first); pauses < 2*time.Second { // 1 s and 2 s
		t.Errorf("the next two handshakes came within %v, want some back-off", pauses)
	}
	cancel()
	if err := <-dialed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// fault 25: UDP may be one-way, so its silence means nothing.
func TestSilenceOfUDP(t *testing.T) {
	silent := newInitiations(t)
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "db", wgnet.NewPrivateKey().Public(), silent.endpoint, "10.0.0.2/32")
	n := newNet(t, cfg)
	for range 3 {
		silent.next(t)
	}
	c, err := n.Dial("udp", "db:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-silent.came:
		t.Error("a handshake for one-way UDP")
	case <-time.After(900 * time.Millisecond): // the silence is over at 500 ms
	}
}

// fault 25: the server is restarted with its key and port, and does not know where we are.
func TestRestartedServer(t *testing.T) {
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	cfgA.ListenPacket = inMemory(t)
	cfgB.ListenPacket = cfgA.ListenPacket
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), "", "10.0.0.1/32")
	start := func() *wgnet.Net {
		b, err := wgnet.New(cfgB)
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.Listen("tcp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		serveEcho(t, l)
		return b
	}
	b := start()
	cfgB.ListenPort = b.ListenPort()
	addPeer(cfgA, "b", b.PublicKey(), localhost(b.ListenPort()), "10.0.0.2/32")
	a := newNet(t, cfgA)
	for i := range 3 {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(testContext(t), 10*time.Second)
		c, err := a.DialContext(ctx, "tcp", "b:7")
		cancel()
		if err != nil {
			t.Fatalf("restart %d: %v", i, err)
		}
		if err := roundTrip(c); err != nil {
			t.Errorf("restart %d: %v", i, err)
		}
		if took := time.Since(begin); took > 3*time.Second { // some 0.5 s; upstream's 15 s are what must not be
			t.Errorf("restart %d: traffic after %v", i, took)
		}
		_ = c.Close()
		closeNet(t, b)
		b = start()
	}
	if _, err := a.Ping(testContext(t), "b"); err != nil { // sent again as a SYN is
		t.Error(err)
	}
	closeNet(t, b)
}

// Faults 25 and 26: a client is restarted at once, with a new port: an initiation within 20 ms of the last one is refused.
func TestRestartedClient(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64")
	cfg.ListenPacket = inMemory(t)
	up := testpeer.New(t, testpeer.Options{ListenPacket: cfg.ListenPacket})
	if err := befriend(cfg, up); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		n, err := wgnet.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := n.Ping(testContext(t), "up"); err != nil {
			t.Error(err)
		}
		if _, err := up.Ping(testContext(t), n.Addresses()[0].Addr()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("restart %d: traffic after %v", i, took)
		}
		closeNet(t, n)
	}
}

// An endpoint's name is resolved after a dial has begun: the dial need not wait for WireGuard's 5 s.
func TestLateEndpoint(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64")
	cfg.ListenPacket = inMemory(t)
	up := testpeer.New(t, testpeer.Options{ListenPacket: cfg.ListenPacket})
	if err := befriend(cfg, up); err != nil {
		t.Fatal(err)
	}
	cfg.Peers[0].Endpoint = strings.Replace(up.Endpoint(), "127.0.0.1", "vpn.example", 1)
	resolve := make(chan struct{})
	cfg.ResolveEndpoint = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		select {
		case <-resolve:
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	n := newNet(t, cfg)
	pinged := make(chan error, 1)
	go func() { // its context ends it
		_, err := n.Ping(testContext(t), "up")
		pinged <- err
	}()
	waitFor(t, "the ping", func() bool { return hasGoroutine(".(*Stack).ping(") })
	begin := time.Now()
	close(resolve)
	if err := <-pinged; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("traffic %v after the endpoint was known", took)
	}
}

// On a path with a long round trip, an answer that takes more than 500 ms is no reason to give up a session each time.
func TestLongPath(t *testing.T) {
	book := &logBook{}
	network := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{
		Names: []string{"a", "b"}, Links: wgnettest.Link{Latency: 300 * time.Millisecond},
	})
	for _, node := range network.Nodes {
		node.Config.Logger = slog.New(book)
	}
	network.Start()
	initiations := func() int { return len(book.find("handshake initiation sent")) }
	before := initiations()
	for range 3 {
		r, err := network.Nodes[0].Net.Ping(testContext(t), "b")
		if err != nil || r.RTT < 600*time.Millisecond {
			t.Errorf("ping: %v, %v", r, err)
		}
	}
	if now := initiations(); now > before+1 {
		t.Errorf("%d handshakes for 3 pings", now-before)
	}
}
