// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"encoding/json"
	"iter"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// nextEvent waits for an event of a kind and fails the test if one of another kind comes before.
func nextEvent(tb testing.TB, next func() (wgnet.Event, bool), kind wgnet.EventKind) wgnet.Event {
	tb.Helper()
	e, ok := next()
	if !ok {
		tb.Fatalf("the events have ended, want %q", kind)
	}
	if e.Kind != kind || e.Time.IsZero() || e.Text == "" || e.Missed != 0 {
		tb.Fatalf("got %+v, want %q", e, kind)
	}
	return e
}

// fault 53: a peer that nobody knew the place of comes up, and moves.
func TestEvents(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].Endpoint = "" })
	next, stop := iter.Pull(n.Events(testContext(t)))
	defer stop()
	us := remote(n, "10.0.0.1/32")
	us.Endpoint = localhost(n.ListenPort())
	if err := up.AddPeer(us); err != nil {
		t.Fatal(err)
	}
	if err := up.Handshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
		t.Fatal(err)
	}
	first := up.Endpoint()
	e := nextEvent(t, next, wgnet.PeerUp)
	if e.Peer != "up" || e.PublicKey != wgnet.PublicKey(up.PublicKey()) || e.Endpoint.String() != first ||
		e.Text != "peer up is up at "+first {
		t.Errorf("got %+v", e)
	}
	if err := up.Rebind(); err != nil {
		t.Fatal(err)
	}
	if _, err := up.Ping(testContext(t), netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	second := up.Endpoint()
	e = nextEvent(t, next, wgnet.EndpointChanged)
	if e.Endpoint.String() != second || e.Text != "peer up has moved from "+first+" to "+second {
		t.Errorf("got %+v", e)
	}
	closeNet(t, n)
	if e, ok := next(); ok {
		t.Errorf("after Close: %v", e)
	}
	for e := range n.Events(context.Background()) {
		t.Errorf("of a closed Net: %v", e)
	}
}

// A peer that is gone goes down when it owes an answer, not three minutes later.
func TestEventSilentPeer(t *testing.T) {
	n, up := newUpstream(t, nil)
	next, stop := iter.Pull(n.Events(testContext(t)))
	defer stop()
	nextEvent(t, next, wgnet.PeerUp)
	if err := up.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	dialed := make(chan error, 1)
	go func() { _, err := n.DialContext(ctx, "tcp", "10.0.0.2:80"); dialed <- err }() // cancel ends it
	e := nextEvent(t, next, wgnet.PeerDown)
	want := "no answer from peer up at " + up.Endpoint() + " to "
	if !strings.HasPrefix(e.Text, want) {
		t.Errorf("got %q, want %q", e.Text, want)
	}
	cancel()
	if err := <-dialed; err == nil {
		t.Error("dialed a peer that is gone")
	}
}

// twoFaced is a socket that can send from another port.
type twoFaced struct {
	net.PacketConn
	other    net.PacketConn
	useOther atomic.Bool
}

func (c *twoFaced) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.useOther.Load() {
		return c.other.WriteTo(b, to)
	}
	return c.PacketConn.WriteTo(b, to)
}

// fault 53: a peer moves, and moves back to where it was before.
func TestEventsMoveBack(t *testing.T) {
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	cfgA.ListenPacket = inMemory(t)
	var sockets [2]net.PacketConn
	for i := range sockets {
		pc, err := cfgA.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		sockets[i] = pc
	}
	conn := &twoFaced{PacketConn: sockets[0], other: sockets[1]}
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), "", "10.0.0.2/32")
	a := newNet(t, cfgA)
	next, stop := iter.Pull(a.Events(testContext(t)))
	defer stop()
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), localhost(a.ListenPort()), "10.0.0.1/32")
	cfgB.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) { return conn, nil }
	b := newNet(t, cfgB)
	nextEvent(t, next, wgnet.PeerUp)

	ours, _ := listenPacket(t, a, "10.0.0.1:5000")
	theirs, err := b.Dial("udp", "10.0.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for i := range 4 {
		at := (i + 1) % 2
		conn.useOther.Store(at == 1)
		if _, err := theirs.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, from, err := ours.ReadFrom(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.WriteTo([]byte("there you are"), from); err != nil {
			t.Fatal(err)
		}
		if e := nextEvent(t, next, wgnet.EndpointChanged); e.Endpoint.String() != sockets[at].LocalAddr().String() {
			t.Errorf("move %d: got %+v", i, e)
		}
	}
}

func TestEventResolved(t *testing.T) {
	silent := newInitiations(t)
	cfg := newConfig("10.0.0.1/24")
	found := make(chan struct{})
	cfg.ResolveEndpoint = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		select {
		case <-found:
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	at := netip.MustParseAddrPort(silent.endpoint)
	name := strings.Replace(silent.endpoint, "127.0.0.1", "vpn.example", 1)
	addPeer(cfg, "", wgnet.NewPrivateKey().Public(), name, "10.0.0.2/32")
	n := newNet(t, cfg)
	events := n.Events(testContext(t))
	close(found)
	for e := range events {
		if e.Kind != wgnet.EndpointResolved || e.Endpoint != at || e.Peer != "" || !strings.HasSuffix(e.Text, name+", is "+silent.endpoint) {
			t.Errorf("got %+v", e)
		}
		break
	}
	for e := range events {
		t.Errorf("a second loop: %v", e)
	}
}

// Events end with their context, also when nobody has begun to read.
func TestEventsEnd(t *testing.T) {
	n := newNet(t, newConfig("10.0.0.1/24"))
	ctx, cancel := context.WithCancel(testContext(t))
	waiting, unread := n.Events(ctx), n.Events(ctx)
	ended := make(chan struct{})
	go func() { // cancel ends it
		defer close(ended)
		for e := range waiting {
			t.Errorf("got %v", e)
		}
	}()
	cancel()
	<-ended
	for e := range unread {
		t.Errorf("got %v", e)
	}
}

func TestEventJSON(t *testing.T) {
	text, err := json.Marshal(wgnet.Event{Kind: wgnet.PeerDown, Peer: "db", Text: "why"})
	// An event without a public key is about no peer.
	const want = `{"time":"0001-01-01T00:00:00Z","kind":"peer down","peer":"db","text":"why"}`
	if err != nil || string(text) != want {
		t.Errorf("got %s, %v\nwant %s", text, err, want)
	}
	text, err = json.Marshal(wgnet.Event{Kind: wgnet.PeerDown, PublicKey: wgnet.PublicKey{1}, Text: "why"})
	if err != nil || !strings.Contains(string(text), `"public_key":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`) {
		t.Errorf("got %s, %v", text, err)
	}
	var e wgnet.Event
	if err := json.Unmarshal(text, &e); err != nil || e.Kind != wgnet.PeerDown {
		t.Errorf("read back: %+v, %v", e, err)
	}
	if err := new(wgnet.EventKind).UnmarshalText([]byte("")); err == nil {
		t.Error("no error for a kind that there is none of")
	}
}

// A peer that is removed goes down, and one that takes its place begins from nothing.
func TestEventRemoved(t *testing.T) {
	n, up := newUpstream(t, nil)
	next, stop := iter.Pull(n.Events(testContext(t)))
	defer stop()
	nextEvent(t, next, wgnet.PeerUp)
	peer := wgnet.PeerConfig{
		Name: "again", PublicKey: wgnet.PublicKey(up.PublicKey()), Endpoint: up.Endpoint(), AllowedIPs: prefixes("10.0.0.2/32"),
	}
	if _, err := n.Ping(testContext(t), "up"); err != nil {
		t.Fatal(err)
	}
	if err := n.RemovePeer(peer.PublicKey); err != nil {
		t.Fatal(err)
	}
	if e := nextEvent(t, next, wgnet.PeerDown); e.Text != "peer up was removed" {
		t.Errorf("got %+v", e)
	}
	if s := n.Status(); len(s.Peers) != 0 {
		t.Errorf("got %+v", s)
	}
	if err := n.AddPeer(peer); err != nil {
		t.Fatal(err)
	}
	if p := status(n); p.Name != "again" || p.PacketsSent != 0 || p.BytesReceived > 1000 {
		t.Errorf("got %+v", p)
	}
}
