// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

func TestPair(t *testing.T) {
	t.Parallel()
	a, b := wgnettest.Pair(t)
	serveHTTP(t, listen(t, b, ":80"))
	serveHTTP(t, listen(t, a, ":80"))
	for _, c := range []struct {
		n   *wgnet.Net
		url string
	}{{a, "http://b/"}, {a, "http://10.0.0.2/"}, {a, "http://[fd00::2]/"}, {b, "http://a/"}, {b, "http://10.0.0.1/"}, {b, "http://[fd00::1]/"}} {
		if got := get(t, c.n, c.url); got != "hello, wireguard\n" {
			t.Errorf("%s: %q", c.url, got)
		}
	}
}

func TestTopologies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		cfg   wgnettest.Config
		peers []int // of each node
	}{
		{"two by default", wgnettest.Config{}, []int{1, 1}},
		{"one", wgnettest.Config{Nodes: 1}, []int{0}},
		{"mesh", wgnettest.Config{Nodes: 4, Names: []string{"x"}}, []int{3, 3, 3, 3}},
		{"star", wgnettest.Config{Nodes: 4, Topology: wgnettest.Star}, []int{3, 1, 1, 1}},
		{"mesh over IPv6", wgnettest.Config{Nodes: 3, IPv6: true}, []int{2, 2, 2}},
		{"without waiting", wgnettest.Config{Nodes: 3, NoWait: true}, []int{2, 2, 2}},
		{"a long way", wgnettest.Config{Nodes: 3, Links: wgnettest.Link{Latency: 100 * time.Millisecond}}, []int{2, 2, 2}},
		{"a lossy way", wgnettest.Config{Nodes: 3, Links: wgnettest.Link{Loss: 0.3}}, []int{2, 2, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := wgnettest.NewNetwork(t, c.cfg)
			if len(n.Nodes) != len(c.peers) {
				t.Fatalf("%d nodes, want %d", len(n.Nodes), len(c.peers))
			}
			for i, node := range n.Nodes {
				if got := len(node.Config.Peers); got != c.peers[i] {
					t.Errorf("%s has %d peers, want %d", node.Name, got, c.peers[i])
				}
				if node.Endpoint().Addr().Is6() != c.cfg.IPv6 {
					t.Errorf("%s is at %v", node.Name, node.Endpoint())
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				for _, p := range node.Config.Peers {
					err := node.Net.WaitPeer(ctx, p.PublicKey)
					if err == nil && c.cfg.Links.Loss == 0 {
						_, err = node.Net.Ping(ctx, p.Name)
					}
					if err != nil {
						t.Errorf("%s to %s: %v", node.Name, p.Name, err)
					}
				}
			}
		})
	}
}

// The test fails, and says why, if it has left something open.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		test func(t *testing.T, n *wgnettest.Network)
		want string
	}{
		{"nothing", func(*testing.T, *wgnettest.Network) {}, ""},
		{"what was closed", func(t *testing.T, n *wgnettest.Network) {
			l, err := n.Nodes[1].Net.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			c, err := n.Nodes[0].Net.Dial("tcp", "b:80")
			if err != nil {
				t.Fatal(err)
			}
			d, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range []io.Closer{d, c, l} {
				if err := one.Close(); err != nil {
					t.Error(err)
				}
			}
		}, ""},
		{"a listener", func(t *testing.T, n *wgnettest.Network) {
			if _, err := n.Nodes[1].Net.Listen("tcp", ":80"); err != nil {
				t.Fatal(err)
			}
		}, "node b: tcp listener :80"},
		{"a packet conn", func(t *testing.T, n *wgnettest.Network) {
			if _, err := n.Nodes[0].Net.ListenPacket("udp", "10.0.0.1:53"); err != nil {
				t.Fatal(err)
			}
		}, "node a: udp 10.0.0.1:53"},
		{"a connection", func(t *testing.T, n *wgnettest.Network) {
			l := n.Nodes[1]
			lis, err := l.Net.Listen("tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.Nodes[0].Net.Dial("tcp", "b:80"); err != nil {
				t.Fatal(err)
			}
			if _, err := lis.Accept(); err != nil {
				t.Fatal(err)
			}
			lis.Close()
		}, "to 10.0.0.2:80"},
		{"a member's socket", func(t *testing.T, n *wgnettest.Network) {
			if _, err := n.Join("stranger", wgnet.PublicKey{}).ListenPacket(t.Context(), "udp", ":7"); err != nil {
				t.Fatal(err)
			}
		}, "node stranger: outer socket 198.18.0.3:7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tb := &scope{TB: t}
			c.test(t, wgnettest.NewNetwork(tb, wgnettest.Config{Names: []string{"a", "b"}, Seed: 42}))
			tb.end()
			got := strings.Join(tb.errors, "\n")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("failures are %q, want %q", got, c.want)
			}
			if logged := strings.Contains(strings.Join(tb.logs, "\n"), "seed was 42"); logged == (c.want == "") {
				t.Errorf("the seed is logged: %v", logged)
			}
		})
	}
}

// A goroutine that carries a Net's label is found, whatever else runs in parallel.
func TestGoroutineLeftBehind(t *testing.T) {
	t.Parallel()
	tb := &scope{TB: t}
	n := wgnettest.NewUnstartedNetwork(tb, wgnettest.Config{Nodes: 1})
	end, ended := make(chan struct{}), make(chan struct{})
	cfg := n.Nodes[0].Config
	listen := cfg.ListenPacket
	cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		go func() { <-end; close(ended) }() // the test ends it
		return listen(ctx, network, address)
	}
	n.Start()
	tb.end()
	close(end)
	<-ended
	if got := strings.Join(tb.errors, "\n"); !strings.Contains(got, "goroutines") || !strings.Contains(got, "TestGoroutineLeftBehind") {
		t.Errorf("failures are %q", got)
	}
}

func TestCutAndHeal(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Nodes: 3})
	a, b, c := n.Nodes[0], n.Nodes[1], n.Nodes[2]
	reaches := func(from, to *wgnettest.Node) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := from.Net.Ping(ctx, to.Name)
		return err == nil
	}
	for _, step := range []struct {
		name       string
		do         func()
		ab, ac, bc bool
	}{
		{"at first", func() {}, true, true, true},
		{"c cut from b", func() { n.Cut(c, b) }, true, true, false},
		{"c cut from all", func() { n.Cut(c) }, true, false, false},
		{"c moved, and still cut", func() { n.Move(c) }, true, false, false},
		{"c healed with a", func() { n.Heal(c, a) }, true, true, false},
	} {
		step.do()
		for _, link := range []struct {
			from, to *wgnettest.Node
			want     bool
		}{{a, b, step.ab}, {c, a, step.ac}, {c, b, step.bc}} {
			if link.want {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if _, err := link.from.Net.Ping(ctx, link.to.Name); err != nil {
					t.Errorf("%s: %v", step.name, err)
				}
				cancel()
			} else if reaches(link.from, link.to) {
				t.Errorf("%s: %s reaches %s", step.name, link.from.Name, link.to.Name)
			}
		}
	}
	if s := n.Stats(c, b); s.Cut == 0 {
		t.Errorf("nothing was cut: %+v", s)
	}
}

// What weather does shows in the counters, and not in what a connection carries.
func TestWeather(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		link wgnettest.Link
		did  func(wgnettest.Stats) uint64
	}{
		{"loss", wgnettest.Link{Loss: 0.05}, func(s wgnettest.Stats) uint64 { return s.Lost }},
		{"corruption", wgnettest.Link{Corrupt: 0.05}, func(s wgnettest.Stats) uint64 { return s.Corrupted }},
		{"duplication", wgnettest.Link{Duplicate: 0.2, Copies: 3}, func(s wgnettest.Stats) uint64 { return s.Duplicated }},
		{"reordering", wgnettest.Link{Reorder: 0.2}, func(s wgnettest.Stats) uint64 { return s.Reordered }},
		{"a short queue", wgnettest.Link{Bandwidth: 20_000_000, Queue: 10_000}, func(s wgnettest.Stats) uint64 { return s.QueueDrops }},
		{"jitter", wgnettest.Link{Latency: time.Millisecond, Jitter: time.Millisecond}, func(s wgnettest.Stats) uint64 { return s.Delivered }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, Seed: 1})
			n.SetLink(n.Nodes[0], n.Nodes[1], c.link)
			const size = 200_000
			if got := transfer(t, connect(t, n.Nodes[0].Net, n.Nodes[1].Net, 1), size, func(int) {}); got < size {
				t.Errorf("%d bytes arrived", got)
			}
			if s := n.Stats(n.Nodes[0], n.Nodes[1]); c.did(s) == 0 {
				t.Errorf("nothing of it happened: %+v", s)
			}
		})
	}
}

// A path with a smaller MTU takes small packets and swallows large ones, or refuses them where the sender can tell.
func TestMTU(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	pc, err := b.Net.ListenPacket("udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn := dial(t, a.Net, "udp", "b:9")
	for _, refuse := range []bool{false, true} {
		n.SetLink(a, b, wgnettest.Link{MTU: 1300, RefuseTooBig: refuse})
		before := n.Stats(a, b).TooBig
		if _, err := conn.Write(make([]byte, 1300)); err != nil { // 28 bytes of headers more inside, and 60 outside
			t.Error(err)
		}
		// What is sent in one go with a datagram that is refused is lost with it.
		for end := time.Now().Add(patience); n.Stats(a, b).TooBig == before; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("refused %v: %+v", refuse, n.Stats(a, b))
			}
		}
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Error(err)
		}
		if err := pc.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := pc.ReadFrom(make([]byte, 2000)); got != 1000 || err != nil {
			t.Errorf("refused %v: %d bytes came, %v; want the small datagram only", refuse, got, err)
		}
	}
}

// A node behind a NAT connects, and goes on when the NAT forgets it.
func TestNAT(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"home", "server"}})
	home, server := n.Nodes[0], n.Nodes[1]
	nat := n.AddNAT(0, home)
	n.Start()
	serve(t, listen(t, server.Net, ":7"), echo)
	c := dial(t, home.Net, "tcp", "server:7")
	exchange(t, c)
	nat.Reset()
	exchange(t, c)
	if s := n.Stats(home, server); s.Delivered == 0 {
		t.Errorf("nothing went through the NAT: %+v", s)
	}
}

// Faults 25 and 26 on this network: a node that is killed and started again is reached within a second.
func TestRestart(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"client", "server"}})
	client, server := n.Nodes[0], n.Nodes[1]
	serve(t, listen(t, server.Net, ":7"), echo)
	exchange(t, dial(t, client.Net, "tcp", "server:7"))
	n.Restart(server)
	serve(t, listen(t, server.Net, ":7"), echo)
	start := time.Now()
	exchange(t, dial(t, client.Net, "tcp", "server:7"))
	if took := time.Since(start); took > 5*time.Second { // a busy machine gets its share
		t.Errorf("it took %v", took)
	}
}

// Upstream's implementation as a member, in both directions.
func TestJoin(t *testing.T) {
	t.Parallel()
	_, node, up, peer := newUpstream(t, nil)
	l, err := peer.Listen(":7")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, echo)
	exchange(t, dial(t, node.Net, "tcp", "up:7"))
	exchange(t, dial(t, node.Net, "tcp", net.JoinHostPort(up.Addr6().String(), "7")))

	serve(t, listen(t, node.Net, ":7"), echo)
	for _, addr := range []netip.Addr{node.Addr(), node.Addr6()} {
		c, err := peer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(addr, 7).String())
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	status, err := peer.Status(testpeer.Key(node.PublicKey()))
	if err != nil || status.Endpoint != node.Endpoint().String() {
		t.Errorf("upstream has the node at %q (%v), want %v", status.Endpoint, err, node.Endpoint())
	}
}

// What is wrong is said, and nothing is done.
func TestMistakes(t *testing.T) {
	t.Parallel()
	tb := &scope{TB: t}
	n := wgnettest.NewNetwork(tb, wgnettest.Config{})
	a, b := n.Nodes[0], n.Nodes[1]
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"loss of 2", func() { n.SetLink(a, b, wgnettest.Link{Loss: 2}) }, "Loss is 2"},
		{"latency of -1", func() { n.SetLinks(wgnettest.Link{Latency: -1}) }, "Latency is -1"},
		{"twice behind a NAT", func() { n.AddNAT(0, a); n.AddNAT(0, a) }, "another NAT"},
		{"Restart of no Net", func() { n.Restart(n.Join("x", wgnet.PublicKey{})) }, "x has no Net"},
	} {
		tb.errors = nil
		c.do()
		if got := strings.Join(tb.errors, "\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	tb.errors = nil
	n.SetLink(a, b, wgnettest.Link{})
	tb.must()
}

// exchange sends a word to an echo server and expects it back.
func exchange(tb testing.TB, c net.Conn) {
	tb.Helper()
	const word = "hello, wireguard"
	_, err := io.WriteString(c, word)
	buf := make([]byte, len(word))
	_, readErr := io.ReadFull(c, buf)
	if err := errors.Join(err, readErr); err != nil {
		tb.Fatal(err)
	}
	if string(buf) != word {
		tb.Fatalf("got %q back", buf)
	}
}
