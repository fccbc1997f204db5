// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// newPhoneHub makes a hub and spokes that reach each other through it, if it lets them.
func newPhoneHub(t *testing.T, names ...string) (hub *wgnet.Net, spokes []*wgnettest.Node) {
	t.Helper()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: append([]string{"hub"}, names...), Topology: wgnettest.Star})
	for _, spoke := range n.Nodes[1:] {
		spoke.Config.Peers[0].AllowedIPs = prefixes("10.0.0.0/16", "fd00::/64")
	}
	n.Start()
	return n.Nodes[0].Net, n.Nodes[1:]
}

// addressOf is a node's address of the family that network names.
func addressOf(node *wgnettest.Node, v6 bool) string {
	if v6 {
		return node.Addr6().String()
	}
	return node.Addr().String()
}

// Scene: three phones on one hub reach each other when its handler allows it, and not otherwise.
func TestHub(t *testing.T) {
	hub, phones := newPhoneHub(t, "anne", "bob", "carl")
	handle(t, hub, func(f *wgnet.Flow) {
		name, key, ok := f.Target()
		switch {
		case !ok || key.IsZero():
			t.Errorf("%s to %s has no target", f.Network(), f.Destination())
		case name == "carl" && f.PeerName() == "anne":
			f.Refuse(syscall.ECONNREFUSED)
		default:
			if err := f.Forward(); err != nil {
				t.Errorf("Forward: %v", err)
			}
		}
	})
	for _, v6 := range []bool{false, true} {
		for i, to := range phones {
			l, err := to.Net.Listen("tcp", net.JoinHostPort(addressOf(to, v6), "80"))
			if err != nil {
				t.Fatal(err)
			}
			serveEcho(t, l)
			u, err := to.Net.ListenPacket("udp", net.JoinHostPort(addressOf(to, v6), "53"))
			if err != nil {
				t.Fatal(err)
			}
			echoed := make(chan struct{})
			go func() { // ends with u
				defer close(echoed)
				b := make([]byte, 1<<16)
				for {
					n, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					if _, err := u.WriteTo(b[:n], from); err != nil {
						t.Errorf("WriteTo: %v", err)
					}
				}
			}()
			for j, from := range phones {
				if i == j {
					continue
				}
				c, err := from.Net.DialContext(testContext(t), "tcp", net.JoinHostPort(addressOf(to, v6), "80"))
				if from.Name == "anne" && to.Name == "carl" {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("TCP from %s to %s: %v, want ECONNREFUSED", from.Name, to.Name, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("TCP from %s to %s: %v", from.Name, to.Name, err)
				}
				if err := roundTrip(c); err != nil {
					t.Error(err)
				}
				c.Close()
				if c, err = from.Net.DialContext(testContext(t), "udp", net.JoinHostPort(addressOf(to, v6), "53")); err != nil {
					t.Fatal(err)
				}
				for _, size := range []int{1, 1300, 9000} { // fault 67: in fragments on each side
					checkEcho(t, c, strings.Repeat("x", size))
				}
				c.Close()
				reply, err := from.Net.Ping(testContext(t), addressOf(to, v6))
				if err != nil || reply.TTL != 63 {
					t.Errorf("ping from %s to %s: TTL %d, %v, want 63", from.Name, to.Name, reply.TTL, err)
				}
			}
			l.Close()
			u.Close()
			<-echoed
		}
	}
	if s := hub.Status().Flows; s.Forwarded == 0 || s.Refused != 2 {
		t.Errorf("flows of the hub: %s", s)
	}
	// Nobody listens: the answer passes too.
	for _, v6 := range []bool{false, true} {
		_, err := phones[1].Net.DialContext(testContext(t), "tcp", net.JoinHostPort(addressOf(phones[2], v6), "81"))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial of a closed port: %v", err)
		}
		c, err := phones[1].Net.DialContext(testContext(t), "udp", net.JoinHostPort(addressOf(phones[2], v6), "81"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) { // by an ICMP error
			t.Errorf("Read after a datagram to a closed port: %v", err)
		}
		c.Close()
	}
	if err := hub.HandleFlows(nil); err != nil {
		t.Fatal(err)
	}
	if s := hub.Status().Flows; s.Open != 0 || s.Undecided != 0 {
		t.Errorf("without a handler: %s", s)
	}
}

// A lot of data passes whole both ways at once, in segments that are put together and cut again on the hub.
func TestHubTransfer(t *testing.T) {
	hub, phones := newPhoneHub(t, "anne", "bob")
	handle(t, hub, func(f *wgnet.Flow) {
		if err := f.Forward(); err != nil {
			t.Errorf("Forward: %v", err)
		}
	})
	for _, v6 := range []bool{false, true} {
		l, err := phones[1].Net.Listen("tcp", net.JoinHostPort(addressOf(phones[1], v6), "0"))
		if err != nil {
			t.Fatal(err)
		}
		serveEcho(t, l)
		c, err := phones[0].Net.DialContext(testContext(t), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 4<<20)
		for i := range data {
			data[i] = byte(i * i >> 8)
		}
		go func() { // ends with the deadline at the latest
			_, _ = c.Write(data)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, %v, want the %d that were sent", len(got), err, len(data))
		}
		c.Close()
		l.Close()
	}
}

// A peer that another one's flow goes to is removed: the flow ends, and the next one finds no target.
func TestHubLosesTarget(t *testing.T) {
	hub, phones := newPhoneHub(t, "anne", "bob")
	flows := make(chan *wgnet.Flow, 10)
	handle(t, hub, func(f *wgnet.Flow) {
		if err := f.Forward(); err != nil {
			f.Refuse(syscall.ENETUNREACH)
		}
		flows <- f
	})
	if _, err := phones[0].Net.Ping(testContext(t), phones[1].Addr().String()); err != nil {
		t.Fatal(err)
	}
	f := <-flows
	if err := hub.RemovePeer(phones[1].PublicKey()); err != nil {
		t.Fatal(err)
	}
	<-f.Context().Done()
	if cause := context.Cause(f.Context()); !errors.Is(cause, syscall.ECONNRESET) {
		t.Errorf("the flow ended by %v, want ECONNRESET", cause)
	}
	_, err := phones[0].Net.DialContext(testContext(t), "tcp", net.JoinHostPort(phones[1].Addr().String(), "80"))
	if !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("Dial of a peer that is gone: %v, want ENETUNREACH", err)
	}
	if _, _, ok := (<-flows).Target(); ok {
		t.Error("the flow to a peer that is gone has a target")
	}
	if names := statusNames(hub); !slices.Equal(names, []string{"anne"}) {
		t.Errorf("peers of the hub: %v", names)
	}
}

func statusNames(n *wgnet.Net) (names []string) {
	for _, p := range n.Status().Peers {
		names = append(names, p.Name)
	}
	return names
}

// A peer that nobody has heard of cannot be reached, and the client learns it at once.
func TestHubTargetNeverHeard(t *testing.T) {
	hub, phones := newPhoneHub(t, "anne")
	never := wgnet.PeerConfig{Name: "never", PublicKey: wgnet.NewPrivateKey().Public(), AllowedIPs: prefixes("10.0.9.9/32")}
	if err := hub.AddPeer(never); err != nil {
		t.Fatal(err)
	}
	handle(t, hub, func(f *wgnet.Flow) {
		err := f.Forward()
		if oe := new(net.OpError); !errors.Is(err, syscall.EHOSTUNREACH) || !errors.As(err, &oe) || !strings.Contains(err.Error(), "never") {
			t.Errorf("Forward: %v", err)
		}
		f.Refuse(err)
	})
	if _, err := phones[0].Net.DialContext(testContext(t), "tcp", "10.0.9.9:80"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("Dial: %v, want EHOSTUNREACH", err)
	}
}

// Upstream's own code is the client: what it begins with addresses that are not ours is ours to decide, and it sees what
// we say.
func TestFlowsOfUpstream(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64")
	up, far := testpeer.New(t, testpeer.Options{}), testpeer.New(t, testpeer.Options{Addresses: []string{"10.0.0.3", "fd00::3"}})
	for _, p := range []struct {
		name    string
		peer    *testpeer.Peer
		allowed []string
	}{{"up", up, []string{"10.0.0.2/32", "fd00::2/128"}}, {"far", far, []string{"10.0.0.3/32", "fd00::3/128"}}} {
		addPeer(cfg, p.name, wgnet.PublicKey(p.peer.PublicKey()), p.peer.Endpoint(), p.allowed...)
		err := p.peer.AddPeer(testpeer.Remote{
			PublicKey: testpeer.Key(cfg.PrivateKey.Public()), AllowedIPs: []string{"0.0.0.0/0", "::/0"}, // we are the exit
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	n := newNet(t, cfg)
	for _, key := range []wgnet.PublicKey{cfg.Peers[0].PublicKey, cfg.Peers[1].PublicKey} {
		if err := n.WaitPeer(testContext(t), key); err != nil {
			t.Fatal(err)
		}
	}
	err := far.Serve(":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "from far")
	}))
	if err != nil {
		t.Fatal(err)
	}
	echo := echoBack(t)
	handle(t, n, func(f *wgnet.Flow) {
		switch name, _, ok := f.Target(); {
		case ok && name == "far":
			if err := f.Forward(); err != nil {
				t.Errorf("Forward: %v", err)
			}
		case f.Destination().Port() == 443:
			f.Refuse(syscall.ECONNREFUSED)
		case f.Destination().Port() == 444:
			f.Refuse(syscall.EHOSTUNREACH)
		default:
			echo(f)
		}
	})
	for _, host := range []string{"203.0.113.5", "2001:db8::5"} {
		for _, network := range []string{"tcp", "udp"} {
			c, err := up.DialContext(testContext(t), network, net.JoinHostPort(host, "7"))
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{1, 1000, 9000} {
				checkEcho(t, c, strings.Repeat("u", size))
			}
			c.Close()
		}
		if _, err := up.Ping(testContext(t), netip.MustParseAddr(host)); err != nil {
			t.Error(err)
		}
		for port, want := range map[string]string{"443": "refused", "444": "no route|unreachable"} {
			_, err := up.DialContext(testContext(t), "tcp", net.JoinHostPort(host, port))
			if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
				t.Errorf("Dial of port %s: %v, want %q", port, err, want)
			}
		}
	}
	for _, host := range []string{"10.0.0.3", "fd00::3"} {
		response, err := up.HTTPClient().Get("http://" + net.JoinHostPort(host, "80"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "from far" {
			t.Errorf("%q, %v", body, err)
		}
		if _, err := up.Ping(testContext(t), netip.MustParseAddr(host)); err != nil {
			t.Error(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}
