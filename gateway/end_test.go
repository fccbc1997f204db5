// SPDX-License-Identifier: MIT

package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/gateway"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// echoes sends back what comes over the connections of a listener, one after the other.
func echoes(t *testing.T, l net.Listener) {
	done, conns := make(chan struct{}), make(chan net.Conn, 10)
	go func() { // ends with the listener and its last connection
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			_, _ = io.Copy(c, c) // the test sees what comes back
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		for len(conns) > 0 {
			(<-conns).Close() // one whose other end is gone for good would notice by its keepalive alone
		}
		<-done
	})
}

// exchange sends a byte and waits for its echo.
func exchange(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// TestRuleGoesAway: what a rule has let through ends with the rule, to another peer as well as into the host's network, and
// what another one allows goes on.
func TestRuleGoesAway(t *testing.T) {
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"hub", "a", "b"}, Topology: wgnettest.Star})
	for _, phone := range n.Nodes[1:] {
		phone.Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	}
	n.Start()
	hub, a, b := n.Nodes[0].Net, n.Nodes[1], n.Nodes[2]
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, web)
	l, err := b.Net.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	echoes(t, l)
	rules, err := gateway.ParseRules("allow from a\nallow from a,b to 127.0.0.1 special")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ended := make(chan struct{}, 10)
	err = hub.HandleFlows(func(f *wgnet.Flow) {
		defer func() { ended <- struct{}{} }()
		if f.ToPeer() {
			g.Serve(f)
		} else {
			g.Serve(mappedFlow{f, web.Addr().(*net.TCPAddr).AddrPort()})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dial := func(from *wgnettest.Node, to netip.Addr) net.Conn {
		c, err := from.Net.DialContext(ctx, "tcp", netip.AddrPortFrom(to, 80).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	toPeer, other := dial(a, b.Addr()), netip.MustParseAddr("192.168.1.123")
	outside := dial(a, other)
	for _, step := range []struct {
		rules string
		c     net.Conn // that ends
		open  int      // flows that go on
	}{
		{"allow from a,b to 127.0.0.1 special", toPeer, 1},
		{"allow from b", outside, 0},
	} {
		rules, err := gateway.ParseRules(step.rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.SetRules(rules); err != nil {
			t.Fatal(err)
		}
		<-ended
		if s := g.Status(); s.Open != step.open || hub.Status().Flows.Open != step.open {
			t.Errorf("after the rules %q %d flows are open, and of the Net %s, want %d", step.rules, s.Open, hub.Status().Flows, step.open)
		}
		if err := exchange(step.c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the rules %q: %v, want ECONNRESET", step.rules, err)
		}
		if step.open > 0 {
			if err := exchange(outside); err != nil {
				t.Errorf("what is still allowed: %v", err)
			}
		}
	}
}

// TestCloseWithSilentPeer: a peer begins a connection and is not heard from any more. Close does not wait for it.
func TestCloseWithSilentPeer(t *testing.T) {
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"laptop", "door"}})
	n.Nodes[0].Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	n.Start()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	rules, err := gateway.ParseRules("allow to 127.0.0.1 special")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{
		Rules: rules,
		Control: func(string, string, syscall.RawConn) error {
			n.Cut(n.Nodes[0])
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	to := web.Addr().(*net.TCPAddr).AddrPort()
	if err := n.Nodes[1].Net.HandleFlows(func(f *wgnet.Flow) { g.Serve(mappedFlow{f, to}) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dialed := make(chan error, 1)
	go func() { // ends with ctx
		_, err := n.Nodes[0].Net.DialContext(ctx, "tcp", "192.168.1.123:80")
		dialed <- err
	}()
	c, err := web.Accept() // the gateway is about to answer the laptop
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("Close took %v", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to the target lives")
	}
	c.Close()
	cancel()
	if err := <-dialed; err == nil {
		t.Error("the laptop has a connection")
	}
}
