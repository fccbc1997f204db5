// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// The self-test of Linux's WireGuard, tools/testing/selftests/wireguard/netns.sh, goes through what an implementation must
// do. Its cases that need no privilege, and those that go with them, are all here:
//
//	pings, TCP, UDP, 4, 5 and 50 streams; IPv4 and IPv6 inside and outside; a big MTU   TestTraffic
//	counters to the byte, the time of the handshake                                     TestExactCounters
//	padding and the MTU                                                                 TestPadding
//	an MTU of the route                                                                 wgnet.TestPathMTU
//	roaming, to another address and port, over IPv4 and IPv6                            TestRoamingEndpoint
//	roaming in mid-transfer; what is not authentic does not roam                        TestRoaming, TestReplayDoesNotMove
//	the source filter                                                                   TestSourceFilter
//	another private key, another preshared key                                          TestKeyChange
//	WireGuard in WireGuard, onion routing                                               TestNested
//	routing loops                                                                       TestRoutingLoop
//	a default route, with the peer's endpoint in it                                     TestDefaultRoute
//	a NAT, with and without keepalive                                                   TestNATKeepalive
//	the source address that a peer was reached at                                       internal/outer.TestStickySource
//	zero-length prefixes, more specific ones beside them; no allowed IPs                TestAllowedIPs
//	very many allowed IPs, peers with many and with none                                TestManyAllowedIPs
//	allowed IPs that move, an endpoint given later                                      wgnet.TestApplyMovesPrefix, wgnet.TestUpdateEndpoint
//	a peer is removed with packets waiting for it                                       TestRemoveWaiting
//	our own key as a peer's, low-order keys: refused                                    wgnet.TestValidate, wgnet.TestPublicKeyCheck
//	a private key's bits are clamped                                                    wgnet.TestPublicMatchesRFC7748
//	a host behind a peer that is gone                                                   wgnet.TestHubLosesTarget
//	handshakes under load, with cookies                                                 TestCookie
//	nothing is left behind                                                              every test with a Network
//
// Moves between network namespaces, firewall marks and routes of interfaces have no counterpart on a Net.

// bigMTU is the script's.
const bigMTU = 34816 - 1500 + wgnet.DefaultMTU

func TestTraffic(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, mtu := range []int{wgnet.DefaultMTU, bigMTU} {
			t.Run(fmt.Sprintf("outer IPv%d, MTU %d", map[bool]int{false: 4, true: 6}[v6], mtu), func(t *testing.T) {
				t.Parallel()
				n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, IPv6: v6})
				for _, node := range n.Nodes {
					node.Config.MTU = mtu
				}
				n.Start()
				traffic(t, n.Nodes[0], n.Nodes[1])
			})
		}
	}
}

// traffic is what each transport has to carry.
func traffic(t *testing.T, a, b *wgnettest.Node) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		ping(t, b, addrOf(a, v6), 10)
		ping(t, a, addrOf(b, v6), 10)
		datagrams(t, a, b, v6)
		datagrams(t, b, a, v6)
	}
	streams(t, a, b, false, 1, 1<<20)
	streams(t, b, a, true, 1, 1<<20)
	for _, count := range []int{4, 5, 50} {
		streams(t, a, b, false, count, 64<<10)
	}
}

// addrOf is a node's address inside the tunnel.
func addrOf(node *wgnettest.Node, v6 bool) netip.Addr {
	if v6 {
		return node.Addr6()
	}
	return node.Addr()
}

// ping pings until a number of pings have been answered. One is lost when a handshake is repeated, as it is on a machine that
// is too busy to answer, or when others push it out of the queue of what waits for a session.
func ping(t *testing.T, from *wgnettest.Node, to netip.Addr, count int) {
	t.Helper()
	limit := time.Now().Add(patience)
	for count > 0 {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := from.Net.Ping(ctx, to.String())
		cancel()
		if err == nil {
			count--
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

// streams sends size bytes over each of some connections at a time, and compares hashes.
func streams(t *testing.T, from, to *wgnettest.Node, v6 bool, count, size int) {
	t.Helper()
	l := listen(t, to.Net, netip.AddrPortFrom(addrOf(to, v6), 0).String())
	pairs := make([]pair, count)
	for i := range pairs {
		pairs[i].from = dial(t, from.Net, "tcp", l.Addr().String())
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		pairs[i].to = c
	}
	if total := transfer(t, pairs, size, func(int) {}); total != count*size {
		t.Errorf("%d streams: %d bytes of %d arrived", count, total, count*size)
	}
	for _, p := range pairs {
		p.from.Close()
		p.to.Close()
	}
	l.Close()
}

// datagrams sends as many as wait for a reader in any case, of all lengths up to the MTU and over it, a few times. Those that
// are lost, as a ping may be, are sent again.
func datagrams(t *testing.T, from, to *wgnettest.Node, v6 bool) {
	t.Helper()
	pc, err := to.Net.ListenPacket("udp", netip.AddrPortFrom(addrOf(to, v6), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c := dial(t, from.Net, "udp", pc.LocalAddr().String())
	defer c.Close()
	content := make([]byte, from.Net.MTU()+1000)
	rand.Read(content) // never fails
	buf, step := make([]byte, len(content)+1), len(content)/160
	limit := time.Now().Add(patience)
	for size := 0; size < len(content); {
		missing := map[int]bool{}
		for ; len(missing) < 16 && size <= len(content); size += step {
			missing[size] = true
		}
		for len(missing) > 0 && time.Now().Before(limit) {
			for size := range missing {
				if _, err := c.Write(content[:size]); err != nil {
					t.Fatal(err)
				}
			}
			if err := pc.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
				t.Fatal(err)
			}
			for len(missing) > 0 {
				k, _, err := pc.ReadFrom(buf)
				if err != nil {
					break
				}
				if !bytes.Equal(buf[:k], content[:k]) {
					t.Fatalf("a datagram of %d bytes is not what was sent", k)
				}
				delete(missing, k)
			}
		}
		if len(missing) > 0 {
			t.Fatalf("datagrams of %v bytes do not come", slices.Sorted(maps.Keys(missing)))
		}
	}
}

// eventually polls for what nothing announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit, tick := time.After(patience), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// tapped records what a node's Net sends.
func tapped(node *wgnettest.Node) *recorder {
	tap := &recorder{listen: node.Config.ListenPacket}
	node.Config.ListenPacket = tap.ListenPacket
	return tap
}

// sizes are those of the messages of a type that were sent.
func (r *recorder) sizes(messageType byte) (list []int) {
	for _, d := range r.datagrams() {
		if d[0] == messageType {
			list = append(list, len(d))
		}
	}
	return list
}

// The messages of the protocol (WireGuard paper, section 5.4), and what a packet's message adds to it.
const (
	initiation  = 1
	response    = 2
	cookieReply = 3
	data        = 4

	initiationSize = 148
	responseSize   = 92
	overhead       = 32
)

// Ten pings make 1,372 bytes one way and 1,428 or 1,460 the other way, as they do with the kernel: a handshake, ten messages
// of a packet of 84 bytes that is padded to 96, and perhaps a keepalive that ends the handshake. Status says the same as the
// wire at both ends.
func TestExactCounters(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for try := 1; !exactCounters(t, v6); try++ {
			if try == 20 {
				t.Fatal("no handshake without repetitions in 20")
			}
		}
	}
}

// exactCounters reports false if the machine was so busy that the handshake or a ping was repeated.
func exactCounters(t *testing.T, v6 bool) bool {
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, IPv6: v6, NoWait: true})
	a, b := n.Nodes[0], n.Nodes[1]
	b.Config.Peers[0].Endpoint = ""
	tapA, tapB := tapped(a), tapped(b)
	n.Start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Net.WaitPeer(ctx, b.PublicKey()); err != nil {
		t.Fatal(err)
	}
	const count, message = 10, overhead + 96
	ping(t, a, b.Addr(), count)
	statusOf := func(node *wgnettest.Node) wgnet.PeerStatus { return node.Net.Status().Peers[0] }
	wire := func(from, to *wgnettest.Node) uint64 {
		headers := uint64(20 + 8)
		if v6 {
			headers = 40 + 8
		}
		s := n.Stats(from, to)
		return s.SentBytes - s.Sent*headers
	}
	var sa, sb wgnet.PeerStatus
	agree := func() bool {
		sa, sb = statusOf(a), statusOf(b)
		return sa.BytesSent == wire(a, b) && sb.BytesReceived == wire(a, b) && sb.BytesSent == wire(b, a) && sa.BytesReceived == wire(b, a)
	}
	once := func() bool {
		return len(tapA.sizes(initiation)) == 1 && len(tapB.sizes(initiation)) == 0 && len(tapB.sizes(response)) == 1 &&
			statusOf(a).PacketsSent == count
	}
	eventually(t, "the counters and the wire to agree", func() bool { return agree() || !once() })
	if !once() {
		return false
	}
	const fromB, fromA = responseSize + count*message, initiationSize + count*message
	if sb.BytesSent != fromB || sa.BytesSent != fromA && sa.BytesSent != fromA+overhead {
		t.Errorf("IPv6 %v: %d and %d bytes, want %d or %d, and %d", v6, sa.BytesSent, sb.BytesSent, fromA, fromA+overhead, fromB)
	}
	for _, s := range []wgnet.PeerStatus{sa, sb} {
		if s.PacketsSent != count || s.PacketsReceived != count || time.Since(s.LastHandshake).Abs() > time.Hour {
			t.Errorf("IPv6 %v: got %+v", v6, s)
		}
	}
	return true
}

// Packets are padded to multiples of 16 bytes (WireGuard paper, section 5.4.6), but never past the MTU: where exactly the
// largest message passes, all do.
func TestPadding(t *testing.T) {
	t.Parallel()
	const mtu = 1300 // is not one
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{
		Names: []string{"a", "b"}, Links: wgnettest.Link{MTU: mtu + overhead + 28},
	})
	a, b := n.Nodes[0], n.Nodes[1]
	a.Config.MTU, b.Config.MTU = mtu, mtu
	tap := tapped(a)
	n.Start()
	pc, err := b.Net.ListenPacket("udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	if err := pc.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	messages := func() []int {
		return slices.DeleteFunc(tap.sizes(data), func(size int) bool { return size == overhead }) // a keepalive
	}
	var want []int
	before := len(messages())
	buf := make([]byte, mtu)
	for _, v6 := range []bool{false, true} {
		headers := map[bool]int{false: 28, true: 48}[v6]
		c := dial(t, a.Net, "udp", netip.AddrPortFrom(addrOf(b, v6), 9).String())
		for size := range mtu - headers + 1 {
			if _, err := c.Write(buf[:size]); err != nil {
				t.Fatal(err)
			}
			if k, _, err := pc.ReadFrom(buf); k != size || err != nil {
				t.Fatalf("%d bytes of %d came: %v", k, size, err)
			}
			want = append(want, overhead+min((headers+size+15)/16*16, mtu))
		}
	}
	if got := messages()[before:]; !slices.Equal(got, want) {
		t.Errorf("messages of %d bytes, want %d", got, want)
	}
	streams(t, a, b, false, 2, 256<<10)
	for _, size := range messages() {
		if size > overhead+mtu || size%16 != 0 && size != overhead+mtu {
			t.Errorf("a message of %d bytes", size)
		}
	}
	for _, s := range []wgnettest.Stats{n.Stats(a, b), n.Stats(b, a)} {
		if s.TooBig != 0 {
			t.Errorf("%d messages were too big", s.TooBig)
		}
	}
}

// A Net is the transport of another one, which is that of a third one: each is a stranger to the others' addresses.
func TestNested(t *testing.T) {
	t.Parallel()
	below := wgnettest.NewNetwork(t, wgnettest.Config{
		Names: []string{"a", "b"}, Links: wgnettest.Link{MTU: wgnet.DefaultMTU + overhead + 28},
	})
	ground := below
	for _, layer := range []struct {
		mtu int
		v6  bool
	}{
		{wgnet.DefaultMTU - 48 - overhead, true}, // 1340, as in the script
		{wgnet.DefaultMTU - 48 - overhead - 28 - overhead, false},
	} {
		n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
		for i, node := range n.Nodes {
			carrier := below.Nodes[i].Net
			node.Config.MTU = layer.mtu
			node.Config.ListenPacket = func(_ context.Context, network, address string) (net.PacketConn, error) {
				return carrier.ListenPacket(network, address)
			}
			node.Config.Peers[0].Endpoint = netip.AddrPortFrom(addrOf(below.Nodes[1-i], layer.v6), node.Config.ListenPort).String()
		}
		n.Start()
		before := ground.Stats(ground.Nodes[0], ground.Nodes[1]).SentBytes
		if layer.v6 {
			traffic(t, n.Nodes[0], n.Nodes[1])
		} else {
			ping(t, n.Nodes[0], n.Nodes[1].Addr6(), 10)
			streams(t, n.Nodes[0], n.Nodes[1], true, 4, 256<<10)
		}
		if sent := ground.Stats(ground.Nodes[0], ground.Nodes[1]).SentBytes - before; sent < 1<<20 {
			t.Errorf("MTU %d: the outermost network has carried %d bytes", layer.mtu, sent)
		}
		if s := n.Stats(n.Nodes[0], n.Nodes[1]); s.Sent != 0 {
			t.Errorf("MTU %d: %d datagrams went another way", layer.mtu, s.Sent)
		}
		below = n
	}
	if s := ground.Stats(ground.Nodes[0], ground.Nodes[1]); s.TooBig != 0 {
		t.Errorf("%d messages were too big", s.TooBig)
	}
}

// fault 51: under load, a responder answers with cookies, and who sends one back is let in (WireGuard paper, section 5.3).
func TestCookie(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"server", "client"}, NoWait: true})
	server, client := n.Nodes[0], n.Nodes[1]
	server.Config.Peers[0].Endpoint = ""
	tapServer, tapClient := tapped(server), tapped(client)
	n.Start()
	stranger, err := n.Join("stranger", wgnet.PublicKey{}).ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	to := net.UDPAddrFromAddrPort(server.Endpoint())
	stop, load := make(chan struct{}), initiations(t, server.PublicKey(), 250)
	var flood sync.WaitGroup
	defer flood.Wait()
	defer close(stop)
	flood.Go(func() { // stop ends it
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, message := range load {
				if _, err := stranger.WriteTo(message, to); err != nil {
					t.Error(err)
					return
				}
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	// The load is there when strangers get cookies. The client may still slip through between two bursts: then it begins
	// again, as a process that is killed.
	for try := 1; ; try++ {
		cookies := len(tapServer.sizes(cookieReply))
		eventually(t, "the server to be under load", func() bool { return len(tapServer.sizes(cookieReply)) > cookies })
		n.Restart(client)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := client.Net.WaitPeer(ctx, server.PublicKey())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(tapClient.datagrams(), func(d []byte) bool {
			return d[0] == initiation && !bytes.Equal(d[initiationSize-16:], make([]byte, 16)) // with mac2
		}) {
			break
		}
		if try == 20 {
			t.Fatal("20 handshakes under load without a cookie")
		}
	}
	ping(t, client, server.Addr(), 1)
	for _, size := range tapServer.sizes(cookieReply) {
		if size != 64 {
			t.Fatalf("a cookie reply of %d bytes", size)
		}
	}
}
