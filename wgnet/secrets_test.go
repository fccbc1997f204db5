// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// lockedBuffer is a buffer that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// formsOf are the ways in which a key shows as a whole, or half of it where a quote may have cut it.
func formsOf(t *testing.T, key string) (forms []string) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != 32 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	inHex := hex.EncodeToString(raw)
	return []string{
		key[:22], key[21:43], base64.URLEncoding.EncodeToString(raw)[:22], inHex[:32], inHex[32:], strings.ToUpper(inHex)[:32],
		string(raw[:16]), string(raw[16:]), strings.Trim(fmt.Sprint(raw[:16]), "[]"),
	}
}

// fault 15, over a whole life: nothing that a Net gives out by itself has a piece of a key, and of an old one, in it. Log and
// events, status, what wg(8) is told, a capture, and the errors of all that can be done wrong with a key in hand.
func TestSecretsStayInside(t *testing.T) {
	var said lockedBuffer
	say := func(what string, values ...any) {
		fmt.Fprintf(&said, "%s: ", what)
		for _, v := range values {
			fmt.Fprintf(&said, "%v %+v\n", v, v)
		}
	}
	mustFail := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		say(what, err)
	}

	machine := inMemory(t)
	psk, otherPSK := wgnet.NewPresharedKey(), wgnet.NewPresharedKey()
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	secrets := []string{cfgA.PrivateKey.Reveal(), cfgB.PrivateKey.Reveal(), psk.Reveal(), otherPSK.Reveal()}
	for _, cfg := range []*wgnet.Config{cfgA, cfgB} {
		cfg.ListenPacket = machine
		cfg.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), "", "10.0.0.1/32")
	cfgB.Peers[0].PresharedKey = psk
	b := newNet(t, cfgB)
	_, port, _ := net.SplitHostPort(localhost(b.ListenPort()))
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), "b.example:"+port, "10.0.0.2/32")
	cfgA.Peers[0].PresharedKey = psk
	var mu sync.Mutex // guards asked
	var asked []string
	cfgA.ResolveEndpoint = func(_ context.Context, host string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, host)
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	a := newNet(t, cfgA)

	ctx, cancel := context.WithCancel(testContext(t))
	var background sync.WaitGroup
	for _, n := range []*wgnet.Net{a, b} {
		events := n.Events(ctx)
		background.Go(func() { // cancel ends it
			for e := range events {
				text, err := json.Marshal(e)
				say("event", e, string(text), err)
			}
		})
	}
	started := make(chan struct{})
	background.Go(func() { // ends with the Net
		if err := a.Capture(ctx, &said, wgnet.CaptureOptions{Started: func() { close(started) }}); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	<-started
	show := func(n *wgnet.Net) {
		s := n.Status()
		text, err := json.Marshal(s)
		say("status", s, fmt.Sprintf("%#v", s), string(text), err)
		c := serveUAPI(t, n, wgnet.UAPIOptions{}).dial(t)
		say("uapi", ask(t, c, "get=1\n\n"), ask(t, c, "set=1\nprivate_key="+inHex(t, secrets[0])+"\n\n"))
	}

	// A conversation.
	l, at := listen(t, b, ":0")
	serveEcho(t, l)
	c, err := a.DialContext(ctx, "tcp", "b:"+at)
	if err != nil {
		t.Fatal(err)
	}
	if err := roundTrip(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	show(a)
	show(b)
	dial := func(network, address string) error {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		c, err := a.DialContext(short, network, address)
		if err == nil {
			c.Close()
		}
		return err
	}
	mustFail("refused", dial("tcp", "10.0.0.2:1"))
	mustFail("no route", dial("tcp", "192.0.2.1:1"))
	mustFail("no such name", dial("tcp", "c.example:1"))

	// What goes wrong with keys.
	for i, secret := range secrets {
		for _, text := range []string{secret, inHex(t, secret), secret[:43]} {
			if text != secret[:43] { // which may be a host's name
				peer := cfgA.Peers[0]
				peer.Name = text
				mustFail("name", a.UpdatePeer(peer))
				peer = cfgA.Peers[0]
				peer.Endpoint = text + ":1"
				mustFail("endpoint", a.UpdatePeer(peer))
			}
			_, err := wgnet.ParseToken(text)
			mustFail("token", err)
			for _, line := range []string{
				"Address = %s", "DNS = %s,1", "MTU = %s", "ListenPort = %s", "%s", "%s = 1", "PrivateKey = %sx", "[%s]", "# %s\nPublicKey = %s",
			} {
				_, err := wgnet.ParseConfig(strings.NewReader("[Interface]\n" + strings.ReplaceAll(line, "%s", text) + "\n[Interface]\n"))
				mustFail(line, err)
			}
		}
		var public wgnet.PublicKey
		if err := public.UnmarshalText([]byte(secret)); err != nil {
			t.Fatal(err)
		}
		peer := wgnet.PeerConfig{PublicKey: public, AllowedIPs: prefixes("10.0.0.9/32")}
		if i == 0 {
			mustFail("our own private key as a peer's", a.AddPeer(peer))
		}
	}

	// A preshared key that differs, and a new private key.
	wrong := cfgA.Peers[0]
	wrong.PresharedKey = otherPSK
	if err := a.UpdatePeer(wrong); err != nil {
		t.Fatal(err)
	}
	mustFail("another preshared key", dial("tcp", "b:"+at))
	show(a)
	next := cfgA.Clone()
	next.PrivateKey = wgnet.NewPrivateKey()
	secrets = append(secrets, next.PrivateKey.Reveal())
	if err := a.Apply(next); err != nil {
		t.Fatal(err)
	}
	mustFail("a key that the peer does not know", dial("tcp", "b:"+at))
	show(a)
	closeNet(t, a)
	closeNet(t, b)
	say("at the end", a.Status(), b.Status())
	mustFail("closed", a.UpdatePeer(wrong))
	cancel()
	background.Wait()

	text := said.String()
	for i, secret := range secrets {
		for _, form := range formsOf(t, secret) {
			if at := strings.Index(text, form); at >= 0 {
				t.Errorf("secret %d shows in …%q", i, text[max(0, at-100):min(len(text), at+100)])
			}
		}
	}
	if n := strings.Count(text, "event: "); n < 3 || !strings.Contains(text, "level=DEBUG") || !strings.Contains(text, b.PublicKey().String()) {
		t.Errorf("too little was said, %d events, in %d bytes", n, len(text))
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.ContainsFunc(asked, func(host string) bool { return host != "b.example" }) || len(asked) == 0 {
		t.Errorf("the names %q were looked up outside, want the endpoint's alone", asked)
	}
}

// fault 6: who has no AllowedIPs has a session, and may neither send nor receive.
func TestNoAllowedIPs(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].AllowedIPs = nil })
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	pc, port := listenPacket(t, n, ":0")
	theirs, err := up.ListenUDP("10.0.0.2:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	to, err := net.ResolveUDPAddr("udp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := theirs.WriteTo([]byte("hello"), to); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "three packets to be dropped", func() bool { return status(n).Disallowed == 3 })
	if _, err := pc.WriteTo([]byte("hello"), theirs.LocalAddr()); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("sending to the peer: %v", err)
	}
	if _, err := n.Dial("tcp", "10.0.0.2:1"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dialing the peer: %v", err)
	}
	if p := status(n); p.PacketsReceived != 0 || p.PacketsSent != 0 || p.Session != wgnet.SessionUp {
		t.Errorf("%+v", p)
	}
}

// What is on a Net, or behind it, reaches nothing of the host's: neither the loopback, by any of its names, nor an address
// of the host, though something listens there.
func TestHostIsOutOfReach(t *testing.T) {
	var hostAddrs []string
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip, ok := addr.(*net.IPNet); ok && !ip.IP.IsLinkLocalUnicast() {
			hostAddrs = append(hostAddrs, ip.IP.String())
		}
	}
	host, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	reached := make(chan net.Addr, 100)
	go func() { // ends with the listener
		for {
			c, err := host.Accept()
			if err != nil {
				return
			}
			reached <- c.RemoteAddr()
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(host.Addr().String())

	// The peer has the rest of the world behind us, as far as it knows.
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Peers[0].AllowedIPs = prefixes("10.0.0.2/32", "fd00::2/128") })
	if err := up.AddPeer(testpeer.Remote{
		PublicKey: testpeer.Key(n.PublicKey()), AllowedIPs: []string{"0.0.0.0/0", "::/0"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	for _, addr := range append(hostAddrs, "127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "127.1.2.3", "::ffff:127.0.0.1") {
		ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
		if c, err := n.DialContext(ctx, "tcp", net.JoinHostPort(addr, port)); err == nil {
			t.Errorf("the Net reaches %s: %v", addr, c.RemoteAddr())
			c.Close()
		}
		if ip, err := netip.ParseAddr(addr); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() && ip.Is4() {
			if c, err := up.DialContext(ctx, "tcp", net.JoinHostPort(addr, port)); err == nil {
				t.Errorf("the peer reaches %s: %v", addr, c.RemoteAddr())
				c.Close()
			}
		}
		cancel()
	}
	select {
	case from := <-reached:
		t.Errorf("the host was reached from %v", from)
	default:
	}
}
