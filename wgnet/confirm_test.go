// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/internal/memnet"
)

// deafConn does not hear the answers to handshakes while deaf is set.
type deafConn struct {
	net.PacketConn
	deaf *atomic.Bool
}

func (c deafConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || n == 0 || b[0] != 2 || !c.deaf.Load() {
			return n, from, err
		}
	}
}

// The peer's first packet under the new keys makes a session of a handshake that we have answered (WireGuard paper,
// section 5.4.6), and neither data nor a keepalive under the old ones does. Here a second process with the peer's key
// begins a handshake and does not hear our answer, while the first one goes on.
func TestConfirmation(t *testing.T) {
	network := memnet.New(memnet.Options{Seed: 1})
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	var deaf atomic.Bool
	deaf.Store(true)
	keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
	start := func(outer, inner, other string, key PrivateKey, peer PublicKey, endpoint string, deaf *atomic.Bool) *Net {
		t.Helper()
		host, err := network.NewHost(netip.MustParseAddr(outer))
		if err != nil {
			t.Fatal(err)
		}
		n, err := New(&Config{
			PrivateKey: key, ListenPort: 51820, Addresses: []netip.Prefix{netip.MustParsePrefix(inner + "/24")},
			Peers: []PeerConfig{{PublicKey: peer, Endpoint: endpoint, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(other + "/32")}}},
			ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
				pc, err := host.ListenPacket(ctx, network, address)
				return deafConn{pc, deaf}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	const at = "10.1.0.1:51820"
	a := start("10.1.0.1", "10.0.0.1", "10.0.0.2", keys[0], keys[1].Public(), "", new(atomic.Bool))
	first := start("10.1.0.2", "10.0.0.2", "10.0.0.1", keys[1], keys[0].Public(), at, new(atomic.Bool))
	in, err := a.ListenPacket("udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := first.Dial("udp", "10.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	pass := func() { // lets a datagram through the first session
		t.Helper()
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := in.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := in.ReadFrom(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	p := a.peers().all[0]
	session := p.session.Load()
	if session == 0 || p.confirming.Load() != nil {
		t.Fatalf("after the first packet of a session: since %d, to be confirmed: %v", session, p.confirming.Load())
	}

	second := start("10.1.0.3", "10.0.0.2", "10.0.0.1", keys[1], keys[0].Public(), at, &deaf)
	await(t, "the second handshake", func() bool { return p.confirming.Load() != nil })
	pass()
	if p.session.Load() != session || p.confirming.Load() == nil {
		t.Error("data under the old keys confirmed the new session")
	}
	accepted := a.tunnel.accepted.Load()
	first.tunnel.engine.Load().dev.SendKeepalivesToPeersWithCurrentKeypair()
	pass()
	if now := a.tunnel.accepted.Load(); now < accepted+2 {
		t.Fatalf("%d messages were accepted, want a keepalive and a datagram", now-accepted)
	}
	if p.session.Load() != session || p.confirming.Load() == nil {
		t.Error("a keepalive under the old keys confirmed the new session")
	}

	deaf.Store(false)
	begun := time.Time{}
	await(t, "the session", func() bool {
		if time.Since(begun) > 300*time.Millisecond { // one that comes too soon after another is refused
			begun = time.Now()
			second.tunnel.initiateNow(second.peers().all[0])
		}
		return p.session.Load() > session && p.confirming.Load() == nil
	})
}

// await polls until a condition holds that nothing announces.
func await(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}

// A session that comes up while the old one is given up is none, if its handshake began before: the device has just
// forgotten its keys. The stack must not send into it then.
func TestSessionOfAnOldHandshake(t *testing.T) {
	network := memnet.New(memnet.Options{})
	t.Cleanup(func() { network.Close() }) // returns nil
	outer, err := network.NewHost(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	a := onePeer(t, outer.ListenPacket, NewPrivateKey().Public(), "", "10.0.0.1", "10.0.0.2", NewPrivateKey())
	p := a.peers().all[0]
	before := a.tunnel.now()
	p.handshake.Store(before)
	a.tunnel.up(p, before)
	if _, ok := a.tunnel.sessionAge(p); !ok {
		t.Fatal("no session after a handshake")
	}
	a.tunnel.initiateNow(p)
	a.tunnel.up(p, before)
	if _, ok := a.tunnel.sessionAge(p); ok {
		t.Error("a session of a handshake that was given up")
	}
	a.tunnel.up(p, a.tunnel.now())
	if _, ok := a.tunnel.sessionAge(p); !ok {
		t.Error("no session after a handshake that began later")
	}
}
