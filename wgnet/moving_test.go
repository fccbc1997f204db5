// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// nameServer is a Config.ResolveEndpoint whose answer can be changed.
type nameServer struct {
	mu    sync.Mutex // guards what follows
	addrs []netip.Addr
	err   error
	asked int
}

func (s *nameServer) set(err error, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs, s.err = addrs, err
}

func (s *nameServer) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if host != "b.example" {
		return nil, errors.New("asked for " + host)
	}
	return slices.Clone(s.addrs), s.err
}

// newNamedNetwork makes a and b, not started. a finds b by a name, and b waits for a.
func newNamedNetwork(t *testing.T) (n *wgnettest.Network, a, b *wgnettest.Node, names *nameServer) {
	n = wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}, NoWait: true})
	a, b, names = n.Nodes[0], n.Nodes[1], &nameServer{}
	a.Config.Peers[0].Endpoint = "b.example:51820"
	a.Config.ResolveEndpoint = names.resolve
	b.Config.Peers[0].Endpoint = ""
	names.set(nil, b.Endpoint().Addr())
	return n, a, b, names
}

// eventOf reads events until one of a kind.
func eventOf(t *testing.T, next func() (wgnet.Event, bool), kind wgnet.EventKind) wgnet.Event {
	t.Helper()
	for {
		e, ok := next()
		if !ok {
			t.Fatalf("the events have ended, want %q", kind)
		}
		if e.Kind == kind {
			return e
		}
	}
}

// They wait for the protocol's timers most of the time, and do it together.
func TestMoving(t *testing.T) {
	t.Run("all addresses are tried", testAllAddressesAreTried)
	t.Run("Faults 53 and 56: the name leads elsewhere", testNameLeadsElsewhere)
	t.Run("fault 53: pinned", testPinEndpoint)
}

// The first addresses of a name are of no use: one that nobody is at, and one of a family that the outer network lacks.
func testAllAddressesAreTried(t *testing.T) {
	t.Parallel()
	n, a, b, names := newNamedNetwork(t)
	names.set(nil, netip.MustParseAddr("198.18.99.99"), netip.MustParseAddr("2001:2::99"), b.Endpoint().Addr())
	n.Start()
	next, stop := iter.Pull(a.Net.Events(testContext(t)))
	defer stop()
	if err := a.Net.WaitPeer(testContext(t), b.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if e := eventOf(t, next, wgnet.PeerUp); e.Endpoint != b.Endpoint() {
		t.Errorf("got %v", e)
	}
	if p := a.Net.Status().Peers[0]; p.Endpoint != b.Endpoint() {
		t.Errorf("at %s, want %s", p.Endpoint, b.Endpoint())
	}
}

// Faults 53 and 56: in the middle of a connection the peer is at another address, and says nothing. Its name leads there
// after a while.
func testNameLeadsElsewhere(t *testing.T) {
	t.Parallel()
	n, a, b, names := newNamedNetwork(t)
	n.Start()
	l, _ := listen(t, b.Net, ":7")
	serveEcho(t, l)
	next, stop := iter.Pull(a.Net.Events(testContext(t)))
	defer stop()
	c, err := a.Net.DialContext(testContext(t), "tcp", "b:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c); err != nil {
		t.Fatal(err)
	}
	before := b.Endpoint()
	n.Move(b)
	n.SetLink(b, a, wgnettest.Link{Down: true}) // what it has to repeat would tell us where it is
	// First the look-up fails: what is known is kept, and it is told once.
	names.set(errors.New("the name server is down"))
	echoed := make(chan error, 1)
	go func() { echoed <- roundTripIn(testContext(t), c) }() // its context ends it
	e := eventOf(t, next, wgnet.EndpointUnresolved)
	if e.Endpoint != before || !strings.HasSuffix(e.Text, "b.example:51820, cannot be resolved, trying on: the name server is down") {
		t.Errorf("got %+v", e)
	}
	if p := a.Net.Status().Peers[0]; p.Endpoint != before {
		t.Errorf("at %s, want %s", p.Endpoint, before)
	}
	names.set(nil, b.Endpoint().Addr())
	for {
		e, ok := next()
		if !ok || e.Kind == wgnet.EndpointUnresolved {
			t.Fatalf("got %v, %v", e, ok)
		}
		if e.Kind == wgnet.EndpointResolved {
			if e.Endpoint != b.Endpoint() {
				t.Errorf("got %+v", e)
			}
			break
		}
	}
	n.SetLink(b, a, wgnettest.Link{})
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	if e := eventOf(t, next, wgnet.EndpointChanged); e.Endpoint != b.Endpoint() || !strings.Contains(e.Text, " is looked for at ") {
		t.Errorf("got %+v", e)
	}
}

// roundTripIn is roundTrip with as much time as ctx has.
func roundTripIn(ctx context.Context, c interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
},
) error {
	const word = "hello again"
	if _, err := c.Write([]byte(word)); err != nil {
		return err
	}
	buf := make([]byte, len(word))
	for n := 0; n < len(word); {
		m, err := c.Read(buf[n:])
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		n += m
	}
	return ctx.Err()
}

// fault 53: a pinned peer gets what is sent to it at its endpoint, wherever it sends from; others are followed.
func testPinEndpoint(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"net"}, NoWait: true})
	node := n.Nodes[0]
	us := testpeer.Remote{
		PublicKey: testpeer.Key(node.PublicKey()), Endpoint: node.Endpoint().String(), AllowedIPs: []string{node.Addr().String() + "/32"},
	}
	var ups [3]*testpeer.Peer
	var members [3]*wgnettest.Node
	for i, name := range []string{"free", "pinned", "named"} {
		key := testpeer.GenerateKey()
		members[i] = n.Join(name, wgnet.PublicKey(key.Public()))
		ups[i] = testpeer.New(t, testpeer.Options{
			PrivateKey: key, Addresses: []string{members[i].Addr().String()}, ListenPort: members[i].Endpoint().Port(),
			ListenPacket: members[i].ListenPacket,
		})
		if err := ups[i].AddPeer(us); err != nil {
			t.Fatal(err)
		}
	}
	looked := make(chan struct{})
	old := members[2].Endpoint()
	node.Config.ResolveEndpoint = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		select {
		case <-looked:
			return []netip.Addr{old.Addr()}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	node.Config.Peers[1].PinEndpoint, node.Config.Peers[2].PinEndpoint = true, true
	node.Config.Peers[2].Endpoint = "b.example:51820"
	n.Start()
	ping := func(timeout time.Duration, from *testpeer.Peer) error {
		ctx, cancel := context.WithTimeout(testContext(t), timeout)
		defer cancel()
		_, err := from.Ping(ctx, node.Addr())
		return err
	}
	// A pinned peer is not answered before its name is known.
	if err := ping(time.Second, ups[2]); err == nil || n.Stats(node, members[2]).Sent != 0 {
		t.Errorf("%v, %d datagrams", err, n.Stats(node, members[2]).Sent)
	}
	close(looked)
	for i, up := range ups {
		// Upstream waits for 5 s before it tries a handshake again.
		if err := errors.Join(up.Handshake(testContext(t), us.PublicKey), ping(20*time.Second, up)); err != nil {
			t.Fatalf("%s: %v", members[i].Name, err)
		}
	}
	statuses := func() (at [3]netip.AddrPort) {
		for i, p := range node.Net.Status().Peers {
			at[i] = p.Endpoint
		}
		return at
	}
	before := statuses()
	for _, m := range members {
		n.Move(m)
	}
	for i, up := range ups {
		timeout := 20 * time.Second
		if i > 0 {
			timeout = 500 * time.Millisecond
		}
		if err := ping(timeout, up); (err == nil) != (i == 0) {
			t.Errorf("%s: ping after the move: %v", members[i].Name, err)
		}
		p := node.Net.Status().Peers[i]
		if received := p.PacketsReceived; received < 2 {
			t.Errorf("%s: %d packets received, want the pings from both places", p.Name, received)
		}
		if sent := n.Stats(node, members[i]).Sent; (sent > 0) != (i == 0) {
			t.Errorf("%s: %d datagrams to the new place", members[i].Name, sent)
		}
		at, want := p.Endpoint, before[i]
		if i == 0 {
			want = members[i].Endpoint()
		}
		if at != want {
			t.Errorf("%s: at %s, want %s", p.Name, at, want)
		}
	}
	// A new key makes a new device, in which they are pinned as well.
	cfg := node.Config.Clone()
	cfg.PrivateKey = wgnet.NewPrivateKey()
	if err := node.Net.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	us.PublicKey = testpeer.Key(node.Net.PublicKey())
	if err := ups[1].AddPeer(us); err != nil {
		t.Fatal(err)
	}
	if err := ping(500*time.Millisecond, ups[1]); err == nil || n.Stats(node, members[1]).Sent != 0 {
		t.Errorf("with another key: %v, %d datagrams", err, n.Stats(node, members[1]).Sent)
	}

	cfg.Peers[1].PinEndpoint = false
	const want = "PinEndpoint: peer pinned: it cannot be changed while the peer is one: remove the peer and add it again"
	if err := node.Net.Apply(cfg); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Apply: %v", err)
	}
	if err := node.Net.RemovePeer(cfg.Peers[1].PublicKey); err != nil {
		t.Fatal(err)
	}
	if err := node.Net.AddPeer(cfg.Peers[1]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ups[1].Handshake(testContext(t), us.PublicKey), ping(20*time.Second, ups[1])); err != nil {
		t.Errorf("not pinned any more: %v", err)
	}
}
