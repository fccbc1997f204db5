// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// fault 19: whatever waits ends with net.ErrClosed, in the moment that the Net is closed.
func TestCloseEndsWaits(t *testing.T) {
	// A peer that never answers at one address, and one that does at 10.0.0.2.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silentKey := wgnet.NewPrivateKey().Public()

	for _, c := range []struct {
		name string
		in   string // a function that the wait is in
		wait func(t *testing.T, n *wgnet.Net) error
	}{
		{"Dial", ".dialTCP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "10.0.0.3:80")
			return err
		}},
		{"Dial of two addresses", ".dialTCP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "silent:80")
			return err
		}},
		{"Dial of a name", ".LookupNetIP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "db.example:80")
			return err
		}},
		{"Ping", ".ping", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.Ping(testContext(t), "10.0.0.3")
			return err
		}},
		{"WaitPeer", ".waitPeer", func(t *testing.T, n *wgnet.Net) error {
			return n.WaitPeer(testContext(t), silentKey)
		}},
		{"LookupHost", ".LookupNetIP", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.LookupHost(testContext(t), "db.example")
			return err
		}},
		{"LookupTXT", ".LookupTXT", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.LookupTXT(testContext(t), "db.example")
			return err
		}},
		{"LookupSRV", ".LookupSRV", func(t *testing.T, n *wgnet.Net) error {
			_, _, err := n.LookupSRV(testContext(t), "sip", "tcp", "db.example")
			return err
		}},
		{"Accept", ".AcceptTCP", func(_ *testing.T, n *wgnet.Net) error {
			l, err := n.Listen("tcp", ":80")
			if err != nil {
				return err
			}
			_, err = l.Accept()
			return err
		}},
		{"ReadFrom", ".ReadFrom", func(_ *testing.T, n *wgnet.Net) error {
			pc, err := n.ListenPacket("udp", ":80")
			if err != nil {
				return err
			}
			_, _, err = pc.ReadFrom(make([]byte, 9))
			return err
		}},
		{"Read", ".(*TCPConn).Read", func(_ *testing.T, n *wgnet.Net) error {
			c, err := n.Dial("tcp", "10.0.0.2:7")
			if err != nil {
				return err
			}
			_, err = c.Read(make([]byte, 9))
			return err
		}},
		{"fault 20: Write to a stalled reader", ".(*socket).await", func(_ *testing.T, n *wgnet.Net) error {
			c, err := n.Dial("tcp", "10.0.0.2:7")
			if err != nil {
				return err
			}
			_, err = c.Write(make([]byte, 64<<20))
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, up := newUpstream(t, func(cfg *wgnet.Config) {
				addPeer(cfg, "silent", silentKey, silent.LocalAddr().String(), "10.0.0.3/32", "fd00::3/128")
				cfg.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.3")}
			})
			l, err := up.Listen(":7") // whose connections nobody reads from
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			failed := make(chan error, 1)
			go func() { failed <- c.wait(t, n) }() // Close ends it
			waitFor(t, "the call to wait", func() bool { return hasGoroutine(c.in) })
			start := time.Now()
			var closing sync.WaitGroup
			for range 8 { // from many goroutines
				closing.Go(func() { closeNet(t, n) })
			}
			closing.Wait()
			if err := <-failed; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > soon {
				t.Errorf("it took %v", took)
			}
			closeNet(t, n) // once more
			if err := up.Close(); err != nil {
				t.Error(err)
			}
			checkLeaks(t)
		})
	}
}

// fault 28: every method of a closed Net, and of what came from it.
func TestClosed(t *testing.T) {
	a, b := newPair(t)
	l, port := listen(t, b, ":0")
	c, err := a.Dial("tcp", "b:"+port)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	udp, err := a.Dial("udp", "b:9")
	if err != nil {
		t.Fatal(err)
	}
	pc, _ := listenPacket(t, a, ":0")
	closeNet(t, a)
	closeNet(t, b)

	ctx, buf := testContext(t), make([]byte, 9)
	checks := map[string]func() error{
		"Dial":                   func() error { _, err := a.Dial("tcp", "10.0.0.2:80"); return err },
		"Dial UDP":               func() error { _, err := a.Dial("udp", "10.0.0.2:80"); return err },
		"Dial a peer's name":     func() error { _, err := a.Dial("tcp", "b:80"); return err },
		"Dial an unknown name":   func() error { _, err := a.Dial("tcp", "unknown:80"); return err },
		"Dial localhost":         func() error { _, err := a.Dial("tcp", "localhost:80"); return err },
		"Dial without a host":    func() error { _, err := a.Dial("tcp", ":80"); return err },
		"Dial without a route":   func() error { _, err := a.Dial("tcp", "10.9.9.9:80"); return err },
		"Dial with a Dialer":     func() error { _, err := (&wgnet.Dialer{Net: a}).Dial("tcp", "10.0.0.2:80"); return err },
		"Dial from the passive":  func() error { _, err := b.Dial("tcp", "10.0.0.1:80"); return err },
		"Listen":                 func() error { _, err := a.Listen("tcp", ":0"); return err },
		"ListenPacket":           func() error { _, err := a.ListenPacket("udp", ":0"); return err },
		"Ping":                   func() error { _, err := a.Ping(ctx, "10.0.0.2"); return err },
		"Ping a name":            func() error { _, err := a.Ping(ctx, "b"); return err },
		"Ping from the passive":  func() error { _, err := b.Ping(ctx, "10.0.0.1"); return err },
		"WaitPeer":               func() error { return a.WaitPeer(ctx, b.PublicKey()) },
		"WaitPeer of a stranger": func() error { return a.WaitPeer(ctx, a.PublicKey()) },
		"LookupHost":             func() error { _, err := a.LookupHost(ctx, "unknown"); return err },
		"LookupHost of a peer":   func() error { _, err := a.LookupHost(ctx, "b"); return err },
		"LookupNetIP":            func() error { _, err := a.LookupNetIP(ctx, "ip4", "localhost"); return err },
		"LookupTXT":              func() error { _, err := a.LookupTXT(ctx, "unknown"); return err },
		"LookupSRV":              func() error { _, _, err := a.LookupSRV(ctx, "x", "tcp", "unknown"); return err },
		"Accept":                 func() error { _, err := l.Accept(); return err },
		"listener.SetDeadline":   func() error { return l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Time{}) },
		"PacketConn.ReadFrom":    func() error { _, _, err := pc.ReadFrom(buf); return err },
		"PacketConn.WriteTo": func() error {
			_, err := pc.WriteTo(buf, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 9})
			return err
		},
		"PacketConn.SetDeadline": func() error { return pc.SetDeadline(time.Time{}) },
	}
	for name, c := range map[string]net.Conn{"dialed": c, "accepted": accepted, "UDP": udp} {
		checks[name+" Read"] = func() error { _, err := c.Read(buf); return err }
		checks[name+" Read of nothing"] = func() error { _, err := c.Read(nil); return err }
		checks[name+" Write"] = func() error { _, err := c.Write(buf); return err }
		checks[name+" SetDeadline"] = func() error { return c.SetDeadline(time.Time{}) }
		checks[name+" SetReadDeadline"] = func() error { return c.SetReadDeadline(time.Time{}) }
		checks[name+" SetWriteDeadline"] = func() error { return c.SetWriteDeadline(time.Time{}) }
		checks[name+" SetReadBuffer"] = func() error {
			return c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(1 << 16)
		}
	}
	for name, c := range map[string]net.Conn{"dialed": c, "accepted": accepted} {
		checks[name+" CloseWrite"] = func() error { return c.(interface{ CloseWrite() error }).CloseWrite() }
		checks[name+" CloseRead"] = func() error { return c.(interface{ CloseRead() error }).CloseRead() }
	}
	for name, check := range checks {
		if err := check(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if b.ListenPort() == 0 || b.MTU() == 0 || len(b.Addresses()) != 2 || b.PublicKey().IsZero() {
		t.Error("a closed Net has forgotten who it was")
	}
	if c.LocalAddr() == nil || c.RemoteAddr() == nil || l.Addr() == nil {
		t.Error("a closed connection has forgotten its addresses")
	}
}

// fault 19: from inside of a handler.
func TestCloseFromHandler(t *testing.T) {
	a, b := newPair(t)
	l, port := listen(t, b, ":0")
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { closeNet(t, b) })}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }() // the handler ends it
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://b:"+port, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() { // cancel ends it
		defer close(asked)
		client := http.Client{Transport: &http.Transport{DialContext: a.DialContext, DisableKeepAlives: true}}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			t.Error("an answer from a Net that was closed")
		}
	}()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	<-b.Done()
	cancel()
	<-asked
	if err := srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	closeNet(t, a)
	checkLeaks(t)
}

// fault 19: from inside of ResolveEndpoint, and while it waits.
func TestCloseFromResolveEndpoint(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	made := make(chan *wgnet.Net, 1)
	returned := make(chan error, 1)
	cfg.ResolveEndpoint = func(ctx context.Context, host string) ([]netip.Addr, error) {
		n := <-made
		err := n.Close()
		if err == nil && ctx.Err() == nil {
			err = errors.New("the context of a closed Net is not done")
		}
		returned <- err
		return nil, err
	}
	addPeer(cfg, "b", wgnet.NewPrivateKey().Public(), "vpn.example:51820", "10.0.0.2/32")
	n := newNet(t, cfg)
	made <- n
	if err := <-returned; err != nil {
		t.Error(err)
	}
	<-n.Done()

	// A resolver that ignores its context keeps nobody.
	cfg.ResolveEndpoint = func(context.Context, string) ([]netip.Addr, error) {
		<-made
		return nil, errors.New("too late")
	}
	n = newNet(t, cfg)
	closeNet(t, n)
	close(made)
	checkLeaks(t)
}

// fault 19: a handler of the log may begin a Close, if it does not wait for it.
func TestCloseFromLogger(t *testing.T) {
	made := make(chan *wgnet.Net, 1)
	var once sync.Once
	cfg := newConfig("10.0.0.1/24")
	cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte("handshake initiation sent")) {
			once.Do(func() {
				go func() { closeNet(t, <-made) }() // ends with Close, for which the test waits
			})
		}
		return len(b), nil
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	addPeer(cfg, "silent", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.2/32")
	n, err := wgnet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	made <- n
	select {
	case <-n.Done():
	case <-testContext(t).Done():
		t.Error("not closed")
	}
	checkLeaks(t)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// fault 20: Close while the outer socket's send buffer is full.
func TestCloseWithBlockedSend(t *testing.T) {
	hole := blackHole(t)
	cfg := newConfig("10.0.0.1/24")
	cfg.Control = smallSendBuffer
	for i := range 64 {
		addPeer(cfg, "", wgnet.NewPrivateKey().Public(), hole, fmt.Sprintf("10.0.1.%d/32", i))
	}
	n := newNet(t, cfg)
	limit := time.NewTimer(2 * time.Second)
	defer limit.Stop()
	for tick := time.NewTicker(time.Millisecond); !hasGoroutine("(*linuxSocket).wait("); {
		defer tick.Stop()
		select {
		case <-tick.C:
		case <-limit.C:
			t.Skip("sending to ", hole, " does not block here")
		}
	}
	start := time.Now()
	closeNet(t, n)
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	checkLeaks(t)
}
