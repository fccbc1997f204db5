// SPDX-License-Identifier: MIT

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/gateway"
	"example.com/wgnet/internal/netns"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

const patience = 20 * time.Second

// open has a Net's flows served by a gateway, which is closed when the test ends.
func open(t *testing.T, n *wgnet.Net, cfg gateway.Config, rules string) *gateway.Gateway {
	t.Helper()
	var err error
	if cfg.Rules, err = gateway.ParseRules(rules); err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.HandleFlows(func(f *wgnet.Flow) { g.Serve(f) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// lan is a network of hosts that know nothing of WireGuard: a namespace with a web server and a name server of sorts.
type lan struct {
	ns       *netns.Namespace
	web, udp int // ports
}

func newLAN(t *testing.T) *lan {
	l := &lan{ns: netns.New(t)}
	listener := l.ns.Listen("tcp", ":0")
	l.web = listener.Addr().(*net.TCPAddr).Port
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello, lan\n") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with server
	pc := l.ns.ListenPacket("udp", ":0")
	l.udp = pc.LocalAddr().(*net.UDPAddr).Port
	echoed := make(chan struct{})
	go func() { // ends with pc
		defer close(echoed)
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
		pc.Close()
		<-echoed
	})
	return l
}

// TestIntoLAN is scene 2: a Net reaches a LAN that another one's host is in, by TCP, UDP and ping. To it, the other one is
// an exit, to which all goes.
func TestIntoLAN(t *testing.T) {
	l := newLAN(t)
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"laptop", "door"}})
	n.Nodes[0].Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	n.Start()
	laptop := n.Nodes[0].Net
	g := open(t, n.Nodes[1].Net, gateway.Config{RawPing: true}, fmt.Sprintf("deny to %v,%v port 1\nallow from laptop", l.ns.Inside4, l.ns.Inside6))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, host := range []netip.Addr{l.ns.Inside4, l.ns.Inside6} {
		t.Run(host.String(), func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{DialContext: laptop.DialContext, DisableKeepAlives: true}}
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+netip.AddrPortFrom(host, uint16(l.web)).String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) != "hello, lan\n" || err != nil {
				t.Errorf("TCP: %q, %v", got, err)
			}

			c, err := laptop.DialContext(ctx, "udp", netip.AddrPortFrom(host, uint16(l.udp)).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			buf := make([]byte, 65535)
			for _, size := range []int{1, 1200, 9000} { // fault 67
				if _, err := c.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if n, err := c.Read(buf); n != size || err != nil {
					t.Errorf("UDP: %d bytes came back as %d, %v", size, n, err)
				}
			}

			if reply, err := laptop.Ping(ctx, host.String()); err != nil || reply.Addr != host {
				t.Errorf("ping: %+v, %v", reply, err)
			}

			// Fault 68. A port that nobody listens on, and one that is forbidden.
			if _, err := laptop.DialContext(ctx, "tcp", netip.AddrPortFrom(host, 9).String()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port: %v, want ECONNREFUSED", err)
			}
			if c, err = laptop.DialContext(ctx, "udp", netip.AddrPortFrom(host, 9).String()); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := refusedUDP(c); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a closed port of UDP: %v, want ECONNREFUSED", err)
			}
			if c, err := laptop.DialContext(ctx, "tcp", netip.AddrPortFrom(host, 1).String()); err == nil || ctx.Err() != nil {
				if err == nil {
					c.Close()
				}
				t.Errorf("a forbidden port: %v, want an error at once", err)
			}
		})
	}
	// The host's own address on that network is denied.
	if c, err := laptop.DialContext(ctx, "tcp", netip.AddrPortFrom(l.ns.Outside4, 9).String()); err == nil || ctx.Err() != nil {
		if err == nil {
			c.Close()
		}
		t.Errorf("the host's own address: %v, want an error at once", err)
	}
	s := g.Status()
	if s.Accepted != 8 || s.Refused != 4 || s.Denied < 3 {
		t.Errorf("status %+v", s.Counters)
	}
}

// refusedUDP sends a datagram and returns what comes of it.
func refusedUDP(c net.Conn) (err error) {
	// Routers and hosts limit how many ICMP errors they send (RFC 1812, section 4.3.2.8), so it is asked more than once.
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		if err = c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err = c.Write([]byte("?")); err != nil {
			return err
		}
		if _, err = c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

// TestHub: three phones reach each other by a Net in the middle, under its rules.
func TestHub(t *testing.T) {
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"hub", "a", "b", "c"}, Topology: wgnettest.Star})
	for _, phone := range n.Nodes[1:] {
		phone.Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00::/64")}
	}
	n.Start()
	a, b, c := n.Nodes[1], n.Nodes[2], n.Nodes[3]
	g := open(t, n.Nodes[0].Net, gateway.Config{}, "deny tcp from c\nallow to 10.0.0.0/16,fd00::/64")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := b.Net.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, from := range []*wgnettest.Node{a, c} {
		if _, err := from.Net.Ping(ctx, b.Addr().String()); err != nil {
			t.Errorf("ping from %s: %v", from.Name, err)
		}
		conn, err := from.Net.DialContext(ctx, "tcp", netip.AddrPortFrom(b.Addr(), 80).String())
		if (err == nil) != (from == a) || ctx.Err() != nil {
			t.Errorf("TCP from %s: %v", from.Name, err)
		}
		if err == nil {
			conn.Close()
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			accepted.Close()
		}
	}
	if s := g.Status(); s.Forwarded < 3 || s.Denied < 1 || s.Accepted != 0 {
		t.Errorf("status %+v", s.Counters)
	}
}
