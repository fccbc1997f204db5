// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// connect makes a connection from one Net to another and returns both ends.
func connect(tb testing.TB, from, to *wgnet.Net, host string) (dialed, accepted net.Conn) {
	tb.Helper()
	l, port := listen(tb, to, ":0")
	defer l.Close()
	dialed, err := from.DialContext(testContext(tb), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = dialed.Close() // they may be closed already
		_ = accepted.Close()
	})
	return dialed, accepted
}

func checkWho(tb testing.TB, name string, c net.Conn, want wgnet.Peer) {
	tb.Helper()
	if got, ok := wgnet.PeerOf(c); got != want || ok != (want != wgnet.Peer{}) {
		tb.Errorf("%s: peer %q %v, %v; want %q %v", name, got.Name, got.PublicKey, ok, want.Name, want.PublicKey)
	}
}

// A conn that wraps another one, and one that says that it wraps itself.
type wrapped struct {
	net.Conn
	inner net.Conn
}

func (w *wrapped) NetConn() net.Conn {
	if w.inner == nil {
		return w
	}
	return w.inner
}

func TestPeerOf(t *testing.T) {
	a, b := wgnettest.Pair(t)
	peerA, peerB := wgnet.Peer{Name: "a", PublicKey: a.PublicKey()}, wgnet.Peer{Name: "b", PublicKey: b.PublicKey()}
	dialed, accepted := connect(t, a, b, "10.0.0.2")
	dialed6, accepted6 := connect(t, a, b, "fd00::2")
	self, selfAccepted := connect(t, a, a, "10.0.0.1")
	local, localAccepted := connect(t, a, a, "localhost")
	udp, err := a.Dial("udp", "b:9")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	pipe, _ := net.Pipe()
	for _, test := range []struct {
		name string
		conn net.Conn
		want wgnet.Peer
	}{
		{"dialed", dialed, peerB},
		{"accepted", accepted, peerA},
		{"dialed over IPv6", dialed6, peerB},
		{"accepted over IPv6", accepted6, peerA},
		{"UDP", udp, peerB},
		{"TLS", tls.Server(accepted, &tls.Config{}), peerA},
		{"wrapped twice", &wrapped{inner: &wrapped{inner: dialed}}, peerB},
		{"wraps itself", &wrapped{}, wgnet.Peer{}},
		{"to its own address", self, wgnet.Peer{}},
		{"from its own address", selfAccepted, wgnet.Peer{}},
		{"to localhost", local, wgnet.Peer{}},
		{"from localhost", localAccepted, wgnet.Peer{}},
		{"not a Net's", pipe, wgnet.Peer{}},
		{"nil", nil, wgnet.Peer{}},
	} {
		checkWho(t, test.name, test.conn, test.want)
	}
	if got := peerA.String(); got != "a" {
		t.Errorf("String: %q", got)
	}
	// What the pin is put around has the methods of net.TCPConn and net.UDPConn.
	if _, ok := accepted.(interface{ CloseWrite() error }); !ok {
		t.Error("no CloseWrite")
	}
	if _, ok := udp.(net.PacketConn); !ok {
		t.Error("no ReadFrom")
	}
}

func TestPeerFor(t *testing.T) {
	a, b := wgnettest.Pair(t)
	peerB := wgnet.Peer{Name: "b", PublicKey: b.PublicKey()}
	for addr, want := range map[string]wgnet.Peer{
		"10.0.0.2": peerB, "fd00::2": peerB, "::ffff:10.0.0.2": peerB,
		"10.0.0.1": {}, "127.0.0.1": {}, "10.0.0.3": {}, "8.8.8.8": {}, "0.0.0.0": {},
	} {
		if got, ok := a.PeerFor(netip.MustParseAddr(addr)); got != want || ok != (want != wgnet.Peer{}) {
			t.Errorf("%s: %q, %v", addr, got.Name, ok)
		}
	}
	if _, ok := a.PeerFor(netip.Addr{}); ok {
		t.Error("the zero Addr is somebody's")
	}
	// Who has sent a datagram.
	pc, port := listenPacket(t, b, ":0")
	c, err := a.Dial("udp", "b:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	_, from, err := pc.ReadFrom(make([]byte, 1))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := b.PeerFor(from.(*net.UDPAddr).AddrPort().Addr()); !ok || p.PublicKey != a.PublicKey() {
		t.Errorf("the datagram is from %v, %v", p, ok)
	}
}

// fault 39: when an address moves to another peer, connections with the one who had it are reset and keep their peer's
// name; when a peer is renamed, they live. Against upstream's stack.
func TestPeerOfMoves(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(n *wgnet.Net, cfg *wgnet.Config) error
		reset  bool
		want   string // who serves the address then
	}{
		{"Apply", func(n *wgnet.Net, cfg *wgnet.Config) error {
			cfg.Peers[0].AllowedIPs, cfg.Peers[1].AllowedIPs = nil, prefixes("10.0.0.2/32", "10.0.0.3/32")
			return n.Apply(cfg)
		}, true, "two"},
		{"UpdatePeer twice", func(n *wgnet.Net, cfg *wgnet.Config) error {
			cfg.Peers[0].AllowedIPs, cfg.Peers[1].AllowedIPs = nil, prefixes("10.0.0.2/31")
			return errors.Join(n.UpdatePeer(cfg.Peers[0]), n.UpdatePeer(cfg.Peers[1]))
		}, true, "two"},
		{"RemovePeer", func(n *wgnet.Net, cfg *wgnet.Config) error { return n.RemovePeer(cfg.Peers[0].PublicKey) }, true, ""},
		{"another name", func(n *wgnet.Net, cfg *wgnet.Config) error {
			cfg.Peers[0].Name = "uno"
			return n.UpdatePeer(cfg.Peers[0])
		}, false, "uno"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, cfg, one, _ := newHub(t)
			peer := wgnet.Peer{Name: "one", PublicKey: keyOf(one)}
			out := dialEcho(t, n, "10.0.0.2:7")
			l, port := listen(t, n, ":0")
			in, err := one.DialContext(testContext(t), "tcp", "10.0.0.1:"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			if err := test.change(n, cfg); err != nil {
				t.Fatal(err)
			}
			for _, c := range []net.Conn{out, accepted} {
				if test.reset {
					isReset(t, test.name, c)
				}
				checkWho(t, test.name, c, peer)
			}
			if !test.reset {
				lives(t, test.name, out)
			}
			if got, _ := n.PeerFor(netip.MustParseAddr("10.0.0.2")); got.Name != test.want {
				t.Errorf("10.0.0.2 is served by %q now, want %q", got.Name, test.want)
			}
		})
	}
}

// The program's end of a flow is pinned, too; and Shutdown waits for the TCP ones.
func TestPeerOfFlow(t *testing.T) {
	client, gateway := gatewayPair(t)
	accepted := make(chan net.Conn, 1)
	handle(t, gateway, func(f *wgnet.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})
	peer := wgnet.Peer{Name: "client", PublicKey: client.PublicKey()}
	for _, network := range []string{"udp", "tcp"} {
		c, err := client.DialContext(testContext(t), network, "192.168.1.123:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		flow := <-accepted
		defer flow.Close()
		checkWho(t, network, flow, peer)
		if network == "tcp" {
			if _, err := flow.Read(make([]byte, 1)); err != nil {
				t.Error(err)
			}
			got := shutDown(t, gateway, testContext(t))
			select {
			case err := <-got:
				t.Fatalf("Shutdown does not wait for an accepted flow: %v", err)
			default:
			}
			if err := gateway.HandleFlows(func(*wgnet.Flow) {}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("HandleFlows: %v, want net.ErrClosed", err)
			}
			if err := flow.Close(); err != nil {
				t.Error(err)
			}
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAcceptAfterClose(t *testing.T) {
	a, _ := wgnettest.Pair(t)
	l, _ := listen(t, a, ":0")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); c != nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := a.Dial("tcp", "10.0.0.2:1"); c != nil || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, %v", c, err)
	}
}
