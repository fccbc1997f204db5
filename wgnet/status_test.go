// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// status is that of a Net's one peer.
func status(n *wgnet.Net) wgnet.PeerStatus { return n.Status().Peers[0] }

func TestStatusNever(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "laptop", wgnet.NewPrivateKey().Public(), "", "10.0.0.2/32")
	before := time.Now()
	n := newNet(t, cfg)
	s := n.Status()
	if s.PublicKey != n.PublicKey() || s.ListenPort != n.ListenPort() || s.MTU != wgnet.DefaultMTU ||
		fmt.Sprint(s.Addresses) != "[10.0.0.1/24]" || s.Started.Before(before) || s.Time.Before(s.Started) || s.NotAccepted != 0 {
		t.Errorf("the host's own: %+v", s)
	}
	p := s.Peers[0]
	const want = "peer laptop has no endpoint and has not been heard from"
	if p.Name != "laptop" || p.PublicKey != cfg.Peers[0].PublicKey || p.Session != wgnet.SessionNever || p.Text != want ||
		p.Endpoint.IsValid() || !p.LastHandshake.IsZero() || p.BytesSent != 0 || p.PacketsSent != 0 {
		t.Errorf("the peer: %+v", p)
	}
}

// fault 31: the status says what a dial's time-out says.
func TestStatusConnecting(t *testing.T) {
	silent := newInitiations(t)
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "db", wgnet.NewPrivateKey().Public(), silent.endpoint, "10.0.0.2/32")
	n := newNet(t, cfg)
	silent.next(t)
	p := status(n)
	want := "no answer from peer db at " + silent.endpoint + " to HANDSHAKES: check its address and port, both sides' keys, firewalls and clocks"
	if p.Session != wgnet.SessionConnecting || p.Endpoint.String() != silent.endpoint || p.UnansweredHandshakes == 0 ||
		!sameText(p.Text, want, 1) {
		t.Errorf("got %+v", p)
	}
}

// fault 50: a preshared key that differs is the first suspect when answers come that cannot be read.
func TestStatusPresharedKeysDiffer(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].PresharedKey = wgnet.NewPresharedKey() })
	want := "peer up at " + up.Endpoint() + " answered our handshake, or somebody in its place, and not with what we can read: " +
		"check that both sides have the same preshared key, or none"
	waitFor(t, "the answer to be refused", func() bool { return status(n).Text == want })
	if p := status(n); p.Session == wgnet.SessionUp || !p.HasPresharedKey {
		t.Errorf("got %+v", p)
	}
}

// The counters of both sides of an exchange of which every packet is known.
func TestStatusCounts(t *testing.T) {
	var listen func(ctx context.Context, network, address string) (net.PacketConn, error)
	n, up := newUpstream(t, func(cfg *wgnet.Config) { listen = cfg.ListenPacket })
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	theirs, err := up.ListenUDP("10.0.0.2:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	ours, port := listenPacket(t, n, "10.0.0.1:0")
	buf := make([]byte, 2000)
	const sent, answered = 7, 5
	for range sent {
		if _, err := ours.WriteTo(make([]byte, 100), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 5000}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := theirs.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	to, err := net.ResolveUDPAddr("udp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	for range answered {
		if _, err := theirs.WriteTo(make([]byte, 1000), to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ours.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	// What strangers send to our port: of the form of a data message, longer and shorter ones than those, and other.
	stranger, err := listen(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	us := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(localhost(n.ListenPort())))
	const forged = 3
	for i := range forged {
		if _, err := stranger.WriteTo(append([]byte{4, 0, 0, 0}, make([]byte, 28+16*i)...), us); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"", "hello", "\x04\x00\x00\x00", "\x05" + strings.Repeat("x", 100)} {
		if _, err := stranger.WriteTo([]byte(other), us); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "what was not accepted", func() bool { return n.Status().NotAccepted >= forged })
	s := n.Status()
	p := s.Peers[0]
	if s.NotAccepted != forged {
		t.Errorf("%d messages not accepted, want %d", s.NotAccepted, forged)
	}
	if p.PacketsSent != sent || p.PacketsReceived != answered || p.Disallowed != 0 || p.UnansweredHandshakes != 0 {
		t.Errorf("got %+v, want %d packets sent and %d received", p, sent, answered)
	}
	if p.Session != wgnet.SessionUp || time.Since(p.LastHandshake) > time.Minute || p.Endpoint.String() != up.Endpoint() {
		t.Errorf("got %+v", p)
	}
	// A keepalive may be on its way; both sides count it.
	var theirCount testpeer.Status
	waitFor(t, "both sides' counts to agree", func() bool {
		p = status(n)
		theirCount, err = up.Status(testpeer.Key(n.PublicKey()))
		return err != nil || p.BytesSent == uint64(theirCount.RxBytes) && p.BytesReceived == uint64(theirCount.TxBytes)
	})
	if err != nil {
		t.Error(err)
	}
	// 28 bytes of headers, in whole 16 bytes, and 32 of the message (WireGuard paper, section 5.4.6).
	if least := uint64(sent * (128 + 32)); p.BytesSent < least || p.BytesSent > least+1000 {
		t.Errorf("%d bytes sent, want %d and handshakes", p.BytesSent, least)
	}
}

// twice is a socket that sends every datagram twice, and counts the data messages.
type twice struct {
	net.PacketConn
	sent atomic.Uint64
}

func (c *twice) WriteTo(b []byte, to net.Addr) (int, error) {
	if b[0] == 4 { // WireGuard paper, section 5.4.6
		c.sent.Add(1)
	}
	if n, err := c.PacketConn.WriteTo(b, to); err != nil {
		return n, err
	}
	return c.PacketConn.WriteTo(b, to)
}

// fault 48: a replay counts as not accepted, once, and not as a packet.
func TestStatusReplay(t *testing.T) {
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	cfgA.ListenPacket = inMemory(t)
	pc, err := cfgA.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn := &twice{PacketConn: pc}
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), "", "10.0.0.2/32")
	a := newNet(t, cfgA)
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), localhost(a.ListenPort()), "10.0.0.1/32")
	cfgB.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) { return conn, nil }
	b := newNet(t, cfgB)
	ours, _ := listenPacket(t, a, "10.0.0.1:5000")
	theirs, err := b.Dial("udp", "10.0.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	const sent = 20
	for range sent {
		if _, err := theirs.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ours.ReadFrom(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the replays", func() bool { return a.Status().NotAccepted >= conn.sent.Load() })
	if s := a.Status(); s.NotAccepted != conn.sent.Load() || s.Peers[0].PacketsReceived != sent || status(b).PacketsSent != sent {
		t.Errorf("%d not accepted of %d that were sent twice, %+v", s.NotAccepted, conn.sent.Load(), s.Peers[0])
	}
}

// A new private key makes a new device, and the counters go on.
func TestStatusAfterRekey(t *testing.T) {
	var cfg *wgnet.Config
	n, up := newUpstream(t, func(c *wgnet.Config) { cfg = c })
	if _, err := n.Ping(testContext(t), "up"); err != nil {
		t.Fatal(err)
	}
	before := status(n)
	cfg.PrivateKey = wgnet.NewPrivateKey()
	if err := n.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	s := n.Status()
	p := s.Peers[0]
	if s.PublicKey != cfg.PrivateKey.Public() || p.Session == wgnet.SessionUp || p.BytesReceived != before.BytesReceived ||
		p.BytesSent < before.BytesSent || p.PacketsSent != 1 || p.PacketsReceived != 1 || p.Endpoint.String() != up.Endpoint() ||
		!p.LastHandshake.Equal(before.LastHandshake) {
		t.Errorf("got %+v, before %+v", p, before)
	}
}

// fault 15
func TestStatusHasNoSecret(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "db", wgnet.NewPrivateKey().Public(), "", "10.0.0.2/32")
	cfg.Peers[0].PresharedKey = wgnet.NewPresharedKey()
	book := &logBook{}
	cfg.Logger = slog.New(book)
	n := newNet(t, cfg)
	s := n.Status()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	closeNet(t, n)
	shown := fmt.Sprintf("%s %v %+v %#v %+v", text, s, s, s, book.lines)
	for _, secret := range []string{cfg.PrivateKey.Reveal(), cfg.Peers[0].PresharedKey.Reveal()} {
		raw, err := base64.StdEncoding.DecodeString(secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{secret, string(raw), hex.EncodeToString(raw), fmt.Sprint(raw)} {
			if strings.Contains(shown, form) {
				t.Errorf("a secret is shown in %s", shown)
			}
		}
	}
}

// fault 44: a peer's packets from an address that is not its own.
func TestStatusDisallowed(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	cfg.ListenPacket = inMemory(t)
	up := testpeer.New(t, testpeer.Options{Addresses: []string{"10.0.0.2"}, ListenPacket: cfg.ListenPacket})
	addPeer(cfg, "up", wgnet.PublicKey(up.PublicKey()), up.Endpoint(), "10.0.0.3/32")
	if err := up.AddPeer(testpeer.Remote{PublicKey: testpeer.Key(cfg.PrivateKey.Public()), AllowedIPs: []string{"10.0.0.1/32"}}); err != nil {
		t.Fatal(err)
	}
	n := newNet(t, cfg)
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	theirs, err := up.ListenUDP("10.0.0.2:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for range 4 {
		if _, err := theirs.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 5000}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "four packets", func() bool { return status(n).Disallowed >= 4 })
	if p := status(n); p.Disallowed != 4 || p.PacketsReceived != 0 {
		t.Errorf("got %+v", p)
	}
}

// fault 53: the status follows a peer that moves.
func TestStatusRoaming(t *testing.T) {
	n, up := newUpstream(t, nil)
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	// Our packet under the new keys must not get lost: the peer would not begin a handshake for 5 s.
	if err := up.WaitHandshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
		t.Fatal(err)
	}
	old := up.Endpoint()
	if err := up.Rebind(); err != nil {
		t.Fatal(err)
	}
	if _, err := up.Ping(testContext(t), netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if p := status(n); p.Endpoint.String() != up.Endpoint() || p.ConfiguredEndpoint != old {
		t.Errorf("at %s, configured %s, want %s and %s", p.Endpoint, p.ConfiguredEndpoint, up.Endpoint(), old)
	}
}

// fault 28: a status can be had after the end.
func TestStatusJSON(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].PersistentKeepalive = 25 * time.Second })
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(n.Status())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	peer := got["peers"].([]any)[0].(map[string]any)
	for name, want := range map[string]any{
		"name": "up", "public_key": wgnet.PublicKey(up.PublicKey()).String(), "endpoint": up.Endpoint(), "session": "up",
		"persistent_keepalive_seconds": 25.0, "has_preshared_key": false, "unanswered_handshakes": 0.0,
	} {
		if peer[name] != want {
			t.Errorf("%s is %v, want %v", name, peer[name], want)
		}
	}
	if when, err := time.Parse(time.RFC3339Nano, peer["last_handshake"].(string)); err != nil || time.Since(when) > time.Minute {
		t.Errorf("last_handshake is %v: %v", peer["last_handshake"], err)
	}
	var back wgnet.Status
	if err := json.Unmarshal(text, &back); err != nil || back.Peers[0].Session != wgnet.SessionUp || back.PublicKey != n.PublicKey() {
		t.Errorf("read back: %+v, %v", back, err)
	}
	if err := new(wgnet.SessionState).UnmarshalText([]byte("down")); err == nil {
		t.Error("no error for a state that there is none of")
	}
	closeNet(t, n)
	if p := status(n); p.Session != wgnet.SessionStale || p.Text != "the Net is closed" {
		t.Errorf("after Close: %+v", p)
	}
}

func TestStatusString(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key := func(s string) (k wgnet.PublicKey) { copy(k[:], s); return k }
	s := wgnet.Status{
		Time: now, Started: now.Add(-(26*time.Hour + time.Minute)), PublicKey: key("host"), Addresses: prefixes("10.0.0.1/24", "fd00::1/64"),
		ListenPort: 51820, MTU: 1420, NotAccepted: 3,
		Peers: []wgnet.PeerStatus{{
			PublicKey: key("idle"), Text: "peer aWRsZQ… has no endpoint and has not been heard from",
		}, {
			Name: "db", PublicKey: key("db"), HasPresharedKey: true, Endpoint: netip.MustParseAddrPort("203.0.113.7:51820"),
			AllowedIPs: prefixes("10.0.0.2/32", "fd00::2/128"), PersistentKeepalive: 25 * time.Second,
			LastHandshake: now.Add(-63*time.Second - time.Millisecond), BytesReceived: 1239, BytesSent: 3 << 20, PacketsReceived: 4,
			PacketsSent: 5, Disallowed: 1, Session: wgnet.SessionUp, Text: "the tunnel to peer db is up (last handshake 1m3s ago)",
		}},
	}
	want := `interface: wgnet
  public key: ` + key("host").String() + `
  private key: (hidden)
  listening port: 51820
  addresses: 10.0.0.1/24, fd00::1/64
  mtu: 1420
  uptime: 1 day, 2 hours, 1 minute
  not accepted: 3 (authentication, replay or old session)

peer: ` + key("db").String() + `
  name: db
  preshared key: (hidden)
  endpoint: 203.0.113.7:51820
  allowed ips: 10.0.0.2/32, fd00::2/128
  latest handshake: 1 minute, 3 seconds ago
  transfer: 1.21 KiB received, 3.00 MiB sent
  packets: 4 received, 5 sent
  disallowed: 1 (source not in allowed ips)
  persistent keepalive: every 25 seconds
  session: up (the tunnel to peer db is up (last handshake 1m3s ago))

peer: ` + key("idle").String() + `
  allowed ips: (none)
  session: never (peer aWRsZQ… has no endpoint and has not been heard from)
`
	if got := s.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, c := range []struct {
		ago  time.Duration
		want string
	}{
		{0, "Now"},
		{time.Second, "1 second ago"},
		{2 * time.Hour, "2 hours ago"},
		{(366*24 + 1) * time.Hour, "1 year, 1 day, 1 hour ago"},
		{-time.Hour, "in the future: the machine's clock was set back"},
	} {
		s.Peers[1].LastHandshake = now.Add(-c.ago)
		if got := s.String(); !strings.Contains(got, "latest handshake: "+c.want+"\n") {
			t.Errorf("%v: got\n%s\nwant %q", c.ago, got, c.want)
		}
	}
	for bytes, want := range map[uint64]string{1: "1 B", 1023: "1023 B", 1024: "1.00 KiB", 5 << 30: "5.00 GiB", 3 << 50: "3072.00 TiB"} {
		s.Peers[1].BytesReceived = bytes
		if got := s.String(); !strings.Contains(got, "transfer: "+want+" received") {
			t.Errorf("%d bytes: got\n%s\nwant %q", bytes, got, want)
		}
	}
}

// BenchmarkStatus is the time of a Status with 10,000 peers.
func BenchmarkStatus(b *testing.B) {
	cfg := newConfig("10.0.0.1/8")
	for i := range 10_000 {
		addPeer(cfg, fmt.Sprintf("peer%d", i), wgnet.NewPrivateKey().Public(), "", fmt.Sprintf("10.%d.%d.2/32", 1+i/250, i%250))
	}
	n := newNet(b, cfg)
	b.ReportAllocs()
	for b.Loop() {
		if s := n.Status(); len(s.Peers) != 10_000 {
			b.Fatal(len(s.Peers))
		}
	}
}
