// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// newHub makes a Net at 10.0.0.1 and fd00::1 with two peers that are upstream's own code, each with an echo server on
// port 7: "one" at 10.0.0.2 and "two" at 10.0.0.3. All are in memory. cfg is the Net's.
func newHub(tb testing.TB) (n *wgnet.Net, cfg *wgnet.Config, one, two *testpeer.Peer) {
	tb.Helper()
	cfg = newConfig("10.0.0.1/24", "fd00::1/64")
	cfg.ListenPacket = inMemory(tb)
	one = newSpoke(tb, cfg, "one", "10.0.0.2")
	two = newSpoke(tb, cfg, "two", "10.0.0.3")
	return newNet(tb, cfg), cfg, one, two
}

func newSpoke(tb testing.TB, cfg *wgnet.Config, name, addr string) *testpeer.Peer {
	tb.Helper()
	up := testpeer.New(tb, testpeer.Options{Addresses: []string{addr}, ListenPacket: cfg.ListenPacket})
	addPeer(cfg, name, wgnet.PublicKey(up.PublicKey()), up.Endpoint(), addr+"/32")
	befriended := testpeer.Remote{PublicKey: testpeer.Key(cfg.PrivateKey.Public()), AllowedIPs: []string{"10.0.0.0/24", "fd00::/64"}}
	if err := up.AddPeer(befriended); err != nil {
		tb.Fatal(err)
	}
	l, err := up.Listen(":7")
	if err != nil {
		tb.Fatal(err)
	}
	serveEcho(tb, l)
	return up
}

// dialEcho connects to an echo server and uses it.
func dialEcho(tb testing.TB, n *wgnet.Net, address string) net.Conn {
	tb.Helper()
	c, err := n.DialContext(testContext(tb), "tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() }) // it may be closed already
	if err := roundTrip(c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// lives checks that a connection to an echo server works.
func lives(tb testing.TB, name string, c net.Conn) {
	tb.Helper()
	if err := roundTrip(c); err != nil {
		tb.Errorf("%s: %v", name, err)
	}
}

// isReset checks that a connection was reset.
func isReset(tb testing.TB, name string, c net.Conn) {
	tb.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		tb.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		tb.Errorf("%s: %v, want ECONNRESET", name, err)
	}
}

func handshakeTime(tb testing.TB, up *testpeer.Peer, n *wgnet.Net) time.Time {
	tb.Helper()
	s, err := up.Status(testpeer.Key(n.PublicKey()))
	if err != nil {
		tb.Fatal(err)
	}
	return s.LastHandshake
}

func keyOf(up *testpeer.Peer) wgnet.PublicKey { return wgnet.PublicKey(up.PublicKey()) }

func TestAddAndRemovePeer(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	toOne := dialEcho(t, n, "one:7")
	session := handshakeTime(t, one, n)

	three := newSpoke(t, cfg, "three", "10.0.0.4")
	added := cfg.Peers[2]
	if err := n.AddPeer(added); err != nil {
		t.Fatal(err)
	}
	toThree := dialEcho(t, n, "Three:7")
	// The other way round too.
	l, port := listen(t, n, ":0")
	serveEcho(t, l)
	fromThree, err := three.DialContext(testContext(t), "tcp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer fromThree.Close()
	lives(t, "from the new peer", fromThree)

	waiting := make(chan error, 1)
	stranger := wgnet.PeerConfig{PublicKey: wgnet.NewPrivateKey().Public()}
	if err := n.AddPeer(stranger); err != nil {
		t.Fatal(err)
	}
	go func() { waiting <- n.WaitPeer(context.Background(), stranger.PublicKey) }() // ends with the peer's removal
	waitFor(t, "WaitPeer to wait", func() bool { return hasGoroutine(".waitPeer(") })
	for _, key := range []wgnet.PublicKey{added.PublicKey, stranger.PublicKey} {
		if err := n.RemovePeer(key); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-waiting; err == nil || !strings.Contains(err.Error(), "removed") {
		t.Errorf("WaitPeer for a peer that is removed: %v", err)
	}
	isReset(t, "the connection to the removed peer", toThree)
	if _, err := n.Dial("tcp", "10.0.0.4:7"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dial after the removal: %v", err)
	}
	if _, err := n.Dial("tcp", "three:7"); err == nil {
		t.Error("the name of the removed peer is known")
	}
	if err := n.WaitPeer(testContext(t), added.PublicKey); err == nil {
		t.Error("WaitPeer finds the removed peer")
	}
	// It is back with a new session.
	if err := n.AddPeer(added); err != nil {
		t.Fatal(err)
	}
	dialEcho(t, n, "three:7")

	lives(t, "the connection to the peer that stayed", toOne)
	if got := handshakeTime(t, one, n); !got.Equal(session) {
		t.Error("the peer that stayed has a new session")
	}
}

func TestChangePeersErrors(t *testing.T) {
	n, cfg, one, two := newHub(t)
	unknown := wgnet.NewPrivateKey().Public()
	tests := []struct {
		name string
		do   func() error
		want string
	}{
		{"add one that is there", func() error { return n.AddPeer(cfg.Peers[0]) }, "UpdatePeer"},
		{"fault 7: add another's prefix", func() error {
			return n.AddPeer(wgnet.PeerConfig{PublicKey: unknown, AllowedIPs: prefixes("10.0.0.9/32", "10.0.0.3/32")})
		}, "belongs to peer two"},
		{"fault 7: update to another's prefix", func() error {
			p := cfg.Peers[0]
			p.AllowedIPs = prefixes("10.0.0.3/32")
			return n.UpdatePeer(p)
		}, "belongs to peer"},
		{"add another's name", func() error { return n.AddPeer(wgnet.PeerConfig{PublicKey: unknown, Name: "ONE"}) }, "name of peer one"},
		{"fault 12: add a zero key", func() error { return n.AddPeer(wgnet.PeerConfig{}) }, "zeros"},
		{"fault 13: add ourselves", func() error { return n.AddPeer(wgnet.PeerConfig{PublicKey: n.PublicKey()}) }, "our own key"},
		{"update an unknown one", func() error { return n.UpdatePeer(wgnet.PeerConfig{PublicKey: unknown}) }, unknown.String()},
		{"remove an unknown one", func() error { return n.RemovePeer(unknown) }, unknown.String()},
		{"apply nothing", func() error { return n.Apply(nil) }, "nil"},
	}
	c1, c2 := dialEcho(t, n, "one:7"), dialEcho(t, n, "two:7")
	session1, session2 := handshakeTime(t, one, n), handshakeTime(t, two, n)
	for _, test := range tests {
		if err := test.do(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want a word of %q", test.name, err, test.want)
		}
	}
	lives(t, "one", c1)
	lives(t, "two", c2)
	if !handshakeTime(t, one, n).Equal(session1) || !handshakeTime(t, two, n).Equal(session2) {
		t.Error("there are new sessions")
	}
}

// fault 11: with one thing wrong in many, nothing is applied.
func TestApplyAllOrNothing(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	taken, err := cfg.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	takenPort := taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	tests := []struct {
		name   string
		change func(*wgnet.Config)
		want   error // nil means any
	}{
		{"fault 11: a bad peer among good ones", func(c *wgnet.Config) { addPeer(c, "bad", wgnet.PublicKey{}, "") }, nil},
		{"fault 7: a prefix twice", func(c *wgnet.Config) {
			addPeer(c, "bad", wgnet.NewPrivateKey().Public(), "", "10.0.0.3/32")
		}, nil},
		{"fault 13: ourselves", func(c *wgnet.Config) { addPeer(c, "bad", c.PrivateKey.Public(), "") }, nil},
		{"fault 22: a port that is taken", func(c *wgnet.Config) { c.ListenPort = takenPort }, syscall.EADDRINUSE},
		{"another MTU", func(c *wgnet.Config) { c.MTU = 1400 }, nil},
		{"no address", func(c *wgnet.Config) { c.Addresses = nil }, nil},
	}
	c1, c2 := dialEcho(t, n, "one:7"), dialEcho(t, n, "two:7")
	session := handshakeTime(t, one, n)
	key, port := n.PublicKey(), n.ListenPort()
	for _, test := range tests {
		next := cfg.Clone()
		// All that can change, changes.
		next.PrivateKey = wgnet.NewPrivateKey()
		next.Addresses = prefixes("10.0.0.8/24")
		next.Peers = next.Peers[1:]
		next.Peers[0].Name = "zwei"
		addPeer(next, "good", wgnet.NewPrivateKey().Public(), "", "10.0.0.7/32")
		test.change(next)
		if err := n.Apply(next); err == nil || !errors.Is(err, test.want) && test.want != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if n.PublicKey() != key || n.ListenPort() != port || n.Addresses()[0] != cfg.Addresses[0] {
			t.Errorf("%s: the Net is another", test.name)
		}
		lives(t, test.name+": one", c1)
		lives(t, test.name+": two", c2)
		for name, known := range map[string]bool{"one": true, "two": true, "zwei": false, "good": false} {
			if _, err := n.LookupHost(testContext(t), name); (err == nil) != known {
				t.Errorf("%s: look-up of %s: %v", test.name, name, err)
			}
		}
		if _, err := n.Dial("udp", "10.0.0.7:9"); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("%s: a route of the failed change: %v", test.name, err)
		}
	}
	if !handshakeTime(t, one, n).Equal(session) {
		t.Error("there is a new session")
	}
}

// Peers come, go and change at once; the one that does not keeps its session and its connection.
func TestApplyPeers(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	c1, c2 := dialEcho(t, n, "one:7"), dialEcho(t, n, "two:7")
	session := handshakeTime(t, one, n)
	next := cfg.Clone()
	next.Peers = next.Peers[:1]
	newSpoke(t, next, "three", "10.0.0.4")
	for range 2 { // the second time, there is nothing to change
		if err := n.Apply(next); err != nil {
			t.Fatal(err)
		}
	}
	isReset(t, "two", c2)
	lives(t, "one", c1)
	c3 := dialEcho(t, n, "three:7")

	next.Peers[1].Name = "drei"
	next.Peers[1].PersistentKeepalive = 5 * time.Second
	next.Peers[1].AllowedIPs = append(next.Peers[1].AllowedIPs, prefixes("10.1.0.0/16", "fd01::/64")...)
	if err := n.Apply(next); err != nil {
		t.Fatal(err)
	}
	lives(t, "three", c3)
	dialEcho(t, n, "drei:7")
	if _, err := n.Dial("udp", "10.1.2.3:9"); err != nil {
		t.Errorf("the new route: %v", err)
	}
	next.Peers[1].AllowedIPs = prefixes("10.0.0.4/32", "fd01::/64")
	if err := n.UpdatePeer(next.Peers[1]); err != nil {
		t.Fatal(err)
	}
	lives(t, "three", c3)
	if _, err := n.Dial("udp", "10.1.2.3:9"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("the old route: %v", err)
	}
	if !handshakeTime(t, one, n).Equal(session) {
		t.Error("there is a new session")
	}
}

// An address moves from one peer to another: the connection is reset, and the next one is to the other.
func TestApplyMovesPrefix(t *testing.T) {
	n, cfg, _, two := newHub(t)
	cfg.Peers[1].AllowedIPs = append(cfg.Peers[1].AllowedIPs, prefixes("10.0.0.4/32")...)
	if err := n.UpdatePeer(cfg.Peers[1]); err != nil {
		t.Fatal(err)
	}
	stays := dialEcho(t, n, "10.0.0.3:7")
	l, port := listen(t, n, ":0")
	serveEcho(t, l)
	other := testpeer.New(t, testpeer.Options{Addresses: []string{"10.0.0.4"}, ListenPacket: cfg.ListenPacket})
	if err := other.AddPeer(remote(n, "10.0.0.1/32")); err != nil {
		t.Fatal(err)
	}
	addPeer(cfg, "other", keyOf(other), other.Endpoint(), "10.0.0.4/32")
	cfg.Peers[1].AllowedIPs = prefixes("10.0.0.3/32")

	// Two has nobody at 10.0.0.4, so a dial waits.
	dialed := make(chan error, 1)
	go func() { // ends with the change
		_, err := n.Dial("tcp", "10.0.0.4:7")
		dialed <- err
	}()
	if err := two.WaitHandshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the dial", func() bool { return hasGoroutine(".(*Stack).connect(") })
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if err := <-dialed; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the dial that was pending: %v", err)
	}
	lives(t, "two", stays)
	c, err := other.DialContext(testContext(t), "tcp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lives(t, "the new owner", c)

	// And from the peer that is removed to the one that stays, with a connection of its own making.
	cfg.Peers = cfg.Peers[:2]
	cfg.Peers[1].AllowedIPs = prefixes("10.0.0.3/32", "10.0.0.4/32")
	accepted := make(chan net.Conn, 1)
	own, ownPort := listen(t, n, ":0")
	go func() { // ends with own
		if c, err := own.Accept(); err == nil {
			accepted <- c
		}
	}()
	c2, err := other.DialContext(testContext(t), "tcp", "10.0.0.1:"+ownPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	in := <-accepted
	defer in.Close()
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	isReset(t, "the connection from the old owner", in)
}

// fault 17: another preshared key ends the old sessions at once, in both directions.
func TestUpdatePresharedKey(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	c := dialEcho(t, n, "one:7")
	toTwo := dialEcho(t, n, "two:7")
	pc, port := listenPacket(t, n, ":0")
	send := func(word string) {
		t.Helper()
		u, err := one.DialContext(testContext(t), "udp", "10.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if _, err := io.WriteString(u, word); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		if err := pc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if got, _, err := pc.ReadFrom(buf); err != nil || string(buf[:got]) != want {
			t.Fatalf("got %q, %v; want %q", buf[:got], err, want)
		}
	}
	send("before")
	receive("before")

	p := cfg.Peers[0]
	p.PresharedKey = wgnet.NewPresharedKey()
	if err := n.UpdatePeer(p); err != nil {
		t.Fatal(err)
	}
	send("in the old session") // to it, the peer still has one
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := n.WaitPeer(short, p.PublicKey); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a session with different preshared keys: %v", err)
	}
	us := remote(n, "10.0.0.0/24")
	var err error
	if us.PresharedKey, err = testpeer.ParseKey(p.PresharedKey.Reveal()); err != nil {
		t.Fatal(err)
	}
	us.Endpoint = localhost(n.ListenPort())
	if err := one.AddPeer(us); err != nil {
		t.Fatal(err)
	}
	if err := one.Handshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
		t.Fatal(err)
	}
	send("after")
	receive("after")
	lives(t, "the connection, in the new session", c)
	lives(t, "the other peer", toTwo)

	// Back to none.
	p.PresharedKey = wgnet.PresharedKey{}
	if err := n.UpdatePeer(p); err != nil {
		t.Fatal(err)
	}
	us.PresharedKey = testpeer.Key{}
	if err := one.AddPeer(us); err != nil {
		t.Fatal(err)
	}
	lives(t, "the connection, without a preshared key", c)
}

// A new private key: connections live on in new sessions, as soon as the peers know it.
func TestApplyPrivateKey(t *testing.T) {
	n, cfg, one, two := newHub(t)
	// One is where it was configured to be, two where it was heard last.
	if err := n.WaitPeer(testContext(t), keyOf(two)); err != nil {
		t.Fatal(err)
	}
	cfg.Peers[1].Endpoint = ""
	if err := n.UpdatePeer(cfg.Peers[1]); err != nil {
		t.Fatal(err)
	}
	c1, c2 := dialEcho(t, n, "one:7"), dialEcho(t, n, "two:7")
	port := n.ListenPort()
	next := cfg.Clone()
	next.PrivateKey = wgnet.NewPrivateKey()
	for _, up := range []*testpeer.Peer{one, two} {
		if err := up.RemovePeer(testpeer.Key(n.PublicKey())); err != nil {
			t.Fatal(err)
		}
		us := testpeer.Remote{PublicKey: testpeer.Key(next.PrivateKey.Public()), AllowedIPs: []string{"10.0.0.0/24"}}
		if err := up.AddPeer(us); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Apply(next); err != nil {
		t.Fatal(err)
	}
	if n.PublicKey() != next.PrivateKey.Public() || n.ListenPort() != port {
		t.Error("the Net is not what it should be")
	}
	lives(t, "one", c1)
	lives(t, "two", c2)
	dialEcho(t, n, "one:7")
	if err := n.RemovePeer(next.Peers[0].PublicKey); err != nil {
		t.Fatal(err)
	}
	isReset(t, "one", c1)
	if err := n.AddPeer(next.Peers[0]); err != nil {
		t.Fatal(err)
	}
	dialEcho(t, n, "one:7")
}

// Another port: sessions and connections live on, and the other side finds us.
func TestApplyListenPort(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	c := dialEcho(t, n, "one:7")
	session, before := handshakeTime(t, one, n), n.ListenPort()
	l, inner := listen(t, n, ":0")
	serveEcho(t, l)
	cfg.ListenPort = 51820
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if n.ListenPort() != cfg.ListenPort {
		t.Errorf("port %d, want %d", n.ListenPort(), cfg.ListenPort)
	}
	waitFor(t, "the peer to follow", func() bool {
		s, err := one.Status(testpeer.Key(n.PublicKey()))
		return err == nil && s.Endpoint == localhost(cfg.ListenPort)
	})
	from, err := one.DialContext(testContext(t), "tcp", "10.0.0.1:"+inner)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	lives(t, "from the peer", from)
	lives(t, "to the peer", c)
	if !handshakeTime(t, one, n).Equal(session) {
		t.Error("there is a new session")
	}
	if pc, err := cfg.ListenPacket(t.Context(), "udp", localhost(before)); err != nil {
		t.Errorf("the old port is not free: %v", err)
	} else {
		pc.Close()
	}
	// 0 keeps what there is.
	port := cfg.ListenPort
	cfg.ListenPort = 0
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if n.ListenPort() != port {
		t.Errorf("port %d, want %d", n.ListenPort(), port)
	}
}

// fault 39: connections on an address that goes are reset.
func TestApplyAddresses(t *testing.T) {
	n, cfg, one, _ := newHub(t)
	c := dialEcho(t, n, "one:7")
	l, port := listen(t, n, ":0")
	serveEcho(t, l)
	cfg.Addresses = prefixes("10.0.0.9/24", "fd00::1/64")
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	isReset(t, "on the old address", c)
	c = dialEcho(t, n, "one:7")
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("dialed from %s", got)
	}
	from, err := one.DialContext(testContext(t), "tcp", "10.0.0.9:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	lives(t, "to the new address", from)
	if got := n.Addresses(); len(got) != 2 || got[0] != cfg.Addresses[0] {
		t.Errorf("addresses %v", got)
	}
}

// A peer is looked for at another endpoint, by address and by name.
func TestUpdateEndpoint(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	cfg.ResolveEndpoint = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	up := newSpoke(t, cfg, "up", "10.0.0.2")
	cfg.Peers[0].Endpoint = newInitiations(t).endpoint // nobody
	n := newNet(t, cfg)
	p := cfg.Peers[0]
	for _, endpoint := range []string{up.Endpoint(), newInitiations(t).endpoint, strings.Replace(up.Endpoint(), "127.0.0.1", "vpn.example", 1)} {
		p.Endpoint = endpoint
		if err := n.UpdatePeer(p); err != nil {
			t.Fatal(err)
		}
	}
	dialEcho(t, n, "up:7")
}

// fault 19: the hooks that Apply calls may use the Net, and close it.
func TestApplyCallsHooks(t *testing.T) {
	var hook func() error
	cfg := newConfig("10.0.0.1/24")
	cfg.Control = func(string, string, syscall.RawConn) error {
		if hook == nil {
			return nil
		}
		return hook()
	}
	n := newNet(t, cfg)
	stranger := wgnet.PeerConfig{PublicKey: wgnet.NewPrivateKey().Public(), AllowedIPs: prefixes("10.0.0.2/32")}
	hook = func() error { return n.AddPeer(stranger) }
	cfg.Peers = []wgnet.PeerConfig{stranger}
	cfg.ListenPort = freePort(t)
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if n.ListenPort() != cfg.ListenPort {
		t.Errorf("port %d, want %d", n.ListenPort(), cfg.ListenPort)
	}

	// A hook's error leaves the port as it was.
	port := n.ListenPort()
	refused := errors.New("not on this network")
	hook = func() error { return refused }
	cfg.ListenPort = freePort(t)
	if err := n.Apply(cfg); !errors.Is(err, refused) || n.ListenPort() != port {
		t.Errorf("%v, port %d; had %d", err, n.ListenPort(), port)
	}

	hook = n.Close
	if err := n.Apply(cfg); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Apply during which the Net was closed: %v", err)
	}
	checkLeaks(t)
}
