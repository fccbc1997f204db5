// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// The cases of the kernel's self-test in which something changes: see the list in netns_test.go.

// peerOf is what a node's config says of the one other node.
func peerOf(node *wgnettest.Node) wgnet.PeerConfig { return node.Config.Peers[0] }

// update changes a peer of a node.
func update(t *testing.T, node *wgnettest.Node, p wgnet.PeerConfig) {
	t.Helper()
	if err := node.Net.UpdatePeer(p); err != nil {
		t.Fatal(err)
	}
}

// setPort gives a node's Net another outer port.
func setPort(t *testing.T, node *wgnettest.Node, port uint16) {
	t.Helper()
	node.Config.ListenPort = port
	if err := node.Net.Apply(node.Config); err != nil {
		t.Fatal(err)
	}
}

// openUDP opens a packet conn on a node until the test ends.
func openUDP(t *testing.T, node *wgnettest.Node, address string) net.PacketConn {
	t.Helper()
	pc, err := node.Net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() }) // it may be closed already
	if err := pc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return pc
}

func send(t *testing.T, c net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, pc net.PacketConn, want string) {
	t.Helper()
	buf := make([]byte, 100)
	if n, _, err := pc.ReadFrom(buf); err != nil || string(buf[:n]) != want {
		t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
	}
}

// fault 53: another address and another port, which the other side learns from the first packet.
func TestRoamingEndpoint(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, IPv6: v6})
		a, b := n.Nodes[0], n.Nodes[1]
		for _, port := range []uint16{9999, 9998} {
			n.Move(a)
			setPort(t, a, port)
			ping(t, a, addrOf(b, !v6), 1)
			want := netip.AddrPortFrom(a.Endpoint().Addr(), port)
			if got := b.Net.Status().Peers[0].Endpoint; got != want {
				t.Errorf("b has a at %v, want %v", got, want)
			}
			ping(t, b, addrOf(a, v6), 1)
		}
	}
}

// fault 44: what a peer sends from an address that another peer has more specific allowed IPs for is dropped, and the peer
// has roamed all the same.
func TestSourceFilter(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	p := peerOf(b)
	p.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	update(t, b, p)
	pc := openUDP(t, b, ":1111")
	c := dial(t, a.Net, "udp", "b:1111")
	send(t, c, "from the peer's address")
	receive(t, pc, "from the peer's address")

	other := wgnet.PeerConfig{PublicKey: wgnet.NewPrivateKey().Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(a.Addr(), 32)}}
	if err := b.Net.AddPeer(other); err != nil {
		t.Fatal(err)
	}
	setPort(t, a, 9997)
	send(t, c, "from another peer's address")
	eventually(t, "the packet to be dropped", func() bool { return b.Net.Status().Peers[0].Disallowed == 1 })
	if got, want := b.Net.Status().Peers[0].Endpoint, netip.AddrPortFrom(a.Endpoint().Addr(), 9997); got != want {
		t.Errorf("b has a at %v, want %v", got, want)
	}
	if err := b.Net.RemovePeer(other.PublicKey); err != nil {
		t.Fatal(err)
	}
	send(t, c, "from the peer's address again")
	receive(t, pc, "from the peer's address again")
}

// fault 17: keys change under traffic, and the next packet is through.
func TestKeyChange(t *testing.T) {
	t.Parallel()
	t.Run("preshared key", func(t *testing.T) {
		t.Parallel()
		n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
		a, b := n.Nodes[0], n.Nodes[1]
		changes := 0
		total := transfer(t, connect(t, a.Net, b.Net, 1), 4<<20, func(received int) {
			if received <= (changes+1)<<20 {
				return
			}
			changes++
			pa, pb := peerOf(a), peerOf(b)
			pa.PresharedKey = wgnet.NewPresharedKey()
			pb.PresharedKey = pa.PresharedKey
			update(t, b, pb)
			update(t, a, pa)
		})
		if changes != 3 || total != 4<<20 {
			t.Errorf("%d changes, %d bytes", changes, total)
		}
	})
	t.Run("private key", func(t *testing.T) {
		t.Parallel()
		n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"b", "a"}})
		b, a := n.Nodes[0], n.Nodes[1]
		b.Config.Peers[0].Endpoint = "" // only a can begin
		n.Start()
		pc := openUDP(t, a, ":9")
		var flood sync.WaitGroup
		defer flood.Wait()
		stop := make(chan struct{})
		defer close(stop)
		flood.Go(func() { // stop ends it
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.Addr(), 9))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := pc.WriteTo(make([]byte, 1000), to); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for range 3 {
			a.Config.PrivateKey = wgnet.NewPrivateKey()
			b.Config.Peers[0].PublicKey = a.Config.PrivateKey.Public()
			if err := errors.Join(a.Net.Apply(a.Config), b.Net.Apply(b.Config)); err != nil {
				t.Fatal(err)
			}
			ping(t, a, b.Addr(), 1)
			before := b.Net.Status().Peers[0].PacketsReceived
			eventually(t, "the flood to go on", func() bool { return b.Net.Status().Peers[0].PacketsReceived > before })
		}
	})
}

// What a Net sends outside of the tunnel never enters it, so a default route may have the peer's endpoint in it.
func TestDefaultRoute(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	behind := []netip.Addr{netip.MustParseAddr("192.168.99.7"), netip.MustParseAddr("abab::1111")}
	for _, addr := range behind {
		b.Config.Addresses = append(b.Config.Addresses, netip.PrefixFrom(addr, addr.BitLen()))
	}
	a.Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	n.Start()
	before := n.Stats(a, b).Sent
	for _, addr := range behind {
		ping(t, a, addr, 100)
	}
	if sent := n.Stats(a, b).Sent - before; sent < 200 || sent > 300 {
		t.Errorf("%d datagrams for 200 pings", sent)
	}
}

// A peer's endpoint is an address inside of the tunnel, which nobody has outside: nothing goes round in circles, and what
// waits in vain is told why.
func TestRoutingLoop(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	tap := tapped(a)
	n.Start()
	size := func() (sum int) {
		for _, d := range tap.datagrams() {
			sum += len(d)
		}
		return sum
	}
	p := peerOf(a)
	p.Endpoint = netip.AddrPortFrom(b.Addr(), 7).String()
	update(t, a, p)
	before := size()
	fail := func() error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := a.Net.Ping(ctx, "b")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping: %v", err)
		}
		return err
	}
	var pings sync.WaitGroup
	for range 10 {
		pings.Go(func() { _ = fail() })
	}
	pings.Wait()
	if sent := size() - before; sent >= 70_000 { // the script's bound
		t.Errorf("10 pings have become %d bytes", sent)
	}
	// Without a session, nothing is known to be right.
	if err := errors.Join(a.Net.RemovePeer(p.PublicKey), a.Net.AddPeer(p)); err != nil {
		t.Fatal(err)
	}
	if err := fail(); err == nil || !strings.Contains(err.Error(), "no answer from peer b at 10.0.0.2:7, an address inside of the tunnel, to ") {
		t.Errorf("ping: %v", err)
	}
	p.Endpoint = b.Endpoint().String()
	update(t, a, p)
	ping(t, a, b.Addr(), 1)
}

// Behind a NAT that forgets who is silent for two seconds, persistent keepalive keeps a host reachable. Without it, the host
// is not, until it speaks.
func TestNATKeepalive(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"home", "server"}})
	home, server := n.Nodes[0], n.Nodes[1]
	nat := n.AddNAT(timeout, home)
	home.Config.Peers[0].PersistentKeepalive = time.Second
	server.Config.Peers[0].Endpoint = ""
	n.Start()
	outside := func() netip.AddrPort { return server.Net.Status().Peers[0].Endpoint }
	for try := 1; ; try++ {
		ping(t, home, server.Addr(), 1)
		ping(t, server, home.Addr(), 1)
		at := outside()
		// Nothing but keepalives for longer than the NAT remembers.
		quiet, sent := time.Now(), n.Stats(home, server).Sent
		eventually(t, "keepalives", func() bool {
			return n.Stats(home, server).Sent > sent && time.Since(quiet) > timeout+timeout/4
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := server.Net.Ping(ctx, home.Addr().String())
		cancel()
		if err == nil && outside() == at {
			break
		}
		if try == 3 { // on a busy machine, a keepalive may be late
			t.Fatalf("home is at %v and was at %v: %v", outside(), at, err)
		}
	}
	// The ping has proved that the server's packets come through to where the NAT had it 2.5 s ago.
	p := peerOf(home)
	p.PersistentKeepalive = 0
	update(t, home, p)
	nat.Reset() // as after a time without a packet
	filtered := n.Stats(server, home).Filtered
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := server.Net.Ping(ctx, home.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping through a NAT that has forgotten home: %v", err)
	}
	if n.Stats(server, home).Filtered == filtered {
		t.Error("the NAT has dropped nothing")
	}
	ping(t, home, server.Addr(), 1)
	ping(t, server, home.Addr(), 1)
}

// fault 6: who has no allowed IPs sends and receives nothing. And prefixes of length zero take what no longer one takes.
func TestAllowedIPs(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "all", "some", "none"}})
	a, all, some, none := n.Nodes[0], n.Nodes[1], n.Nodes[2], n.Nodes[3]
	for _, s := range []string{"0.0.0.0/0", "::/0", "10.0.0.2/32", "192.168.0.0/16", "5000::/4"} {
		a.Config.Peers[0].AllowedIPs = append(a.Config.Peers[0].AllowedIPs, netip.MustParsePrefix(s))
	}
	a.Config.Peers[0].AllowedIPs = a.Config.Peers[0].AllowedIPs[2:] // without those that it has of itself
	for _, s := range []string{"10.0.0.0/8", "100.0.0.0/10", "192.168.7.0/24", "1700::/111", "e000::/37"} {
		a.Config.Peers[1].AllowedIPs = append(a.Config.Peers[1].AllowedIPs, netip.MustParsePrefix(s))
	}
	a.Config.Peers[2].AllowedIPs = nil
	n.Start()
	for addr, want := range map[string]string{
		"9.9.9.9": "all", "10.0.0.2": "all", "10.0.0.3": "some", "10.9.9.9": "some", "100.63.0.1": "some", "100.64.0.1": "all",
		"192.168.6.255": "all", "192.168.7.0": "some", "255.255.255.254": "all",
		"abcd::1": "all", "1700::1:0": "some", "1700::2:0": "all", "e000:0:7ff::": "some", "e000:0:800::": "all", "fd00::3": "some",
		"10.0.0.4": "some", "fd00::4": "all",
	} {
		if p, ok := a.Net.PeerFor(netip.MustParseAddr(addr)); !ok || p.Name != want {
			t.Errorf("%s is behind %q, want %s", addr, p.Name, want)
		}
	}
	for _, node := range []*wgnettest.Node{all, some} {
		ping(t, a, node.Addr(), 1)
		ping(t, node, a.Addr(), 1)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := none.Net.Ping(ctx, a.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ping from who has no allowed IPs: %v", err)
	}
	eventually(t, "its packet to be dropped", func() bool { return a.Net.Status().Peers[2].Disallowed == 1 })
}

// More allowed IPs than fit into one answer of the kernel: 130,560 of one peer, 52 of each of 40, none of 29.
func TestManyAllowedIPs(t *testing.T) {
	t.Parallel()
	peers := func(count, first, nets, subnets int, v6 bool) (list []wgnet.PeerConfig) {
		for i := range count {
			p := wgnet.PeerConfig{PublicKey: wgnet.NewPrivateKey().Public()}
			for a := first + i; a < first+i+nets; a++ {
				for b := range subnets {
					p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a), byte(b)}), 16))
					if v6 {
						p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom16([16]byte{1: byte(a), 15: byte(b)}), 128))
					}
				}
			}
			list = append(list, p)
		}
		return list
	}
	n := wgnettest.NewNetwork(t, wgnettest.Config{Nodes: 1})
	node := n.Nodes[0]
	for _, c := range []struct {
		name                  string
		peers                 []wgnet.PeerConfig
		addr, beyond          string
		owner, prefixesOfEach int
	}{
		{"one with very many", peers(1, 1, 255, 256, true), "255.255.1.1", "0.0.0.1", 0, 255 * 256 * 2},
		{"one with very many, IPv6", peers(1, 1, 255, 256, true), "ff::ff", "ff::100", 0, 255 * 256 * 2},
		{"many with many", peers(40, 1, 1, 52, false), "40.51.1.1", "40.52.1.1", 39, 52},
		{"many with none", peers(29, 1, 0, 0, false), "", "10.0.0.9", 0, 0},
	} {
		node.Config.Peers = c.peers
		if err := node.Net.Apply(node.Config); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		s := node.Net.Status()
		if len(s.Peers) != len(c.peers) {
			t.Fatalf("%s: %d peers, want %d", c.name, len(s.Peers), len(c.peers))
		}
		for i, p := range s.Peers {
			if p.PublicKey != c.peers[i].PublicKey || len(p.AllowedIPs) != c.prefixesOfEach {
				t.Errorf("%s: peer %d has %d allowed IPs, want %d", c.name, i, len(p.AllowedIPs), c.prefixesOfEach)
			}
		}
		if c.addr != "" {
			if p, _ := node.Net.PeerFor(netip.MustParseAddr(c.addr)); p.PublicKey != c.peers[c.owner].PublicKey {
				t.Errorf("%s: %s is behind %v", c.name, c.addr, p)
			}
		}
		if _, ok := node.Net.PeerFor(netip.MustParseAddr(c.beyond)); ok {
			t.Errorf("%s: %s is behind somebody", c.name, c.beyond)
		}
	}
}

// fault 70: what waits for a peer goes with it, and does not come to light when the peer is back.
func TestRemoveWaiting(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, NoWait: true})
	a, b := n.Nodes[0], n.Nodes[1]
	b.Config.Peers[0].Endpoint = ""
	n.Cut(a, b)
	n.Start()
	pc, sink := openUDP(t, a, ":9"), openUDP(t, b, ":9")
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.Addr(), 9))
	write := func(word string) {
		t.Helper()
		if _, err := pc.WriteTo([]byte(word), to); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		write("before")
	}
	waiting := make(chan error, 1)
	go func() { // ends with the peer's removal
		_, err := a.Net.Dial("tcp", "b:9")
		waiting <- err
	}()
	eventually(t, "the dial", func() bool {
		return slices.ContainsFunc(a.Net.Sockets(), func(s wgnet.Socket) bool { return s.Network == "tcp" })
	})
	if err := a.Net.RemovePeer(b.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("the dial: %v", err)
	}
	if _, err := pc.WriteTo([]byte("meanwhile"), to); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("a datagram to nobody: %v", err)
	}
	if err := a.Net.AddPeer(peerOf(a)); err != nil {
		t.Fatal(err)
	}
	n.Heal(a, b)
	write("after")
	receive(t, sink, "after")
}
