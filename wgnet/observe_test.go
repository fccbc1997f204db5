// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"example.com/wgnet/internal/memnet"
)

func onePeer(t *testing.T, listen func(ctx context.Context, network, address string) (net.PacketConn, error),
	key PublicKey, endpoint, addr, peerAddr string, private PrivateKey,
) *Net {
	t.Helper()
	n, err := New(&Config{
		PrivateKey: private, ListenPacket: listen, Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")},
		Peers: []PeerConfig{{
			Name: "peer", PublicKey: key, Endpoint: endpoint, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(peerAddr + "/32")},
		}},
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

// fault 52: a session that ends with no new one is an event, and so is the next; a handshake that was given up is one.
func TestSessionEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	network := memnet.New(memnet.Options{})
	t.Cleanup(func() { network.Close() }) // returns nil
	outer, err := network.NewHost(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
	b := onePeer(t, outer.ListenPacket, keys[0].Public(), "", "10.0.0.2", "10.0.0.1", keys[1])
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.ListenPort()).String()
	a := onePeer(t, outer.ListenPacket, keys[1].Public(), at, "10.0.0.1", "10.0.0.2", keys[0])
	next, stop := iter.Pull(a.Events(ctx))
	defer stop()
	want := func(kind EventKind, text string) {
		t.Helper()
		if e, ok := next(); !ok || e.Kind != kind || !strings.HasPrefix(e.Text, text) || e.Endpoint.String() != at {
			t.Fatalf("got %+v, %v, want %s: %s", e, ok, kind, text)
		}
	}
	p := a.peers().all[0]
	up := func() {
		t.Helper()
		if err := a.WaitPeer(ctx, p.PublicKey); err != nil {
			t.Fatal(err)
		}
	}
	up()
	want(PeerUp, "peer peer is up at "+at)

	age := func(d time.Duration) {
		p.session.Add(-int64(d))
		p.observed.completed.Add(-int64(d))
		a.observer.notice()
	}
	age(device.RejectAfterTime)
	want(PeerDown, "no session with peer peer at "+at+" any more: the last handshake was 3m0s ago")
	if s := a.Status().Peers[0]; s.Session != SessionStale || !strings.HasPrefix(s.Text, "no session with peer peer") {
		t.Errorf("got %+v", s)
	}

	// Without the 5 s between initiations.
	p.expire()
	up()
	want(PeerUp, "peer peer is up at "+at)

	// The clock alone brings the next one.
	age(device.RejectAfterTime - 100*time.Millisecond)
	want(PeerDown, "no session with peer peer")

	p.attempts.Store(20)
	a.tunnel.verbosef(logGivingUp, p.dev.Load(), 20)
	want(HandshakeFailed, "no answer from peer peer at "+at+" to 20 handshakes: check")
	if s := a.Status().Peers[0]; s.Session != SessionStale || s.UnansweredHandshakes != 20 {
		t.Errorf("got %+v", s)
	}
	a.tunnel.verbosef(logGivingUp, p.dev.Load(), 20)
	want(HandshakeFailed, "no answer")
}

// A reader that is too slow loses the oldest events, and is told how many.
func TestSlowReader(t *testing.T) {
	var h eventHub
	slow, other := h.subscribe(), h.subscribe()
	for i := range maxEvents + 44 {
		h.publish(Event{Kind: PeerUp, Time: time.Unix(int64(i), 0)})
		if e, ok := other.next(t.Context()); !ok || e.Time.Unix() != int64(i) || e.Missed != 0 {
			t.Fatalf("the other reader got %+v, %v", e, ok)
		}
	}
	h.close()
	h.publish(Event{Kind: PeerDown})
	for i := 44; i < maxEvents+44; i++ {
		missed := 0
		if i == 44 {
			missed = 44
		}
		if e, ok := slow.next(t.Context()); !ok || e.Time.Unix() != int64(i) || e.Missed != missed {
			t.Fatalf("event %d: got %+v, %v", i, e, ok)
		}
	}
	if e, ok := slow.next(t.Context()); ok {
		t.Errorf("after the end: %+v", e)
	}
}

// The device's text is read line by line, whatever is in it.
func TestReadMeasurements(t *testing.T) {
	const key = "f928d4f6c1b86c12f2562c10b07c555c5c57fd00f59e90c8d8d88767271cbf7c"
	for _, c := range []struct {
		name, text string
		want       []measurement
	}{
		{"nothing", "", nil},
		{"no peer", "private_key=" + key + "\nlisten_port=1\n", nil},
		{"a key that is none", "public_key=123\nrx_bytes=1\n", nil},
		{"two peers", "private_key=" + key + "\npublic_key=" + key + "\npreshared_key=" + key + "\nprotocol_version=1\n" +
			"endpoint=[fe80::1%eth0]:5\nlast_handshake_time_sec=7\nlast_handshake_time_nsec=8\ntx_bytes=9\nrx_bytes=10\n" +
			"allowed_ip=10.0.0.2/32\npublic_key=" + key + "\nendpoint=nowhere\ntx_bytes=-1\nrx_bytes=x\n", []measurement{
			{endpoint: netip.MustParseAddrPort("[fe80::1%eth0]:5"), handshake: time.Unix(7, 8), sent: 9, received: 10, seconds: 7, nanos: 8},
			{},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []measurement
			readMeasurements([]byte(c.text), func(k PublicKey, m measurement) {
				if k.hex() != key {
					t.Errorf("key %s", k.hex())
				}
				got = append(got, m)
			})
			if len(got) != len(c.want) {
				t.Fatalf("got %+v, want %+v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("got %+v, want %+v", got[i], c.want[i])
				}
			}
		})
	}
}

// A queue of lines that is full loses lines, and says how many.
func TestLogQueue(t *testing.T) {
	var out strings.Builder
	q := newLogQueue(slog.NewTextHandler(&out, nil))
	log := slog.New(q).With("host", "a").WithGroup("g")
	for range maxLogLines + 7 {
		log.Info("hello", "n", 1)
	}
	log.Debug("not enabled")
	q.close()
	q.run()
	if got := strings.Count(out.String(), "msg=hello host=a g.n=1\n"); got != maxLogLines {
		t.Errorf("%d lines, want %d", got, maxLogLines)
	}
	if !strings.Contains(out.String(), "level=WARN msg=\"log lines were lost: the handler is too slow\" lines=7\n") {
		t.Errorf("no word of the lost lines in %.300s", out.String())
	}
}

// BenchmarkRound is the time that the observer takes to look at 10,000 peers, and to find out which of them have moved.
func BenchmarkRound(b *testing.B) {
	cfg := &Config{PrivateKey: NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}
	for i := range 10_000 {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		cfg.Peers = append(cfg.Peers, PeerConfig{PublicKey: NewPrivateKey().Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}})
	}
	n, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	for _, moved := range []bool{false, true} {
		b.Run(map[bool]string{false: "look", true: "moves"}[moved], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				// Not the Net's own, so that its goroutine does not look at the same time.
				o := newObserver(n)
				if moved {
					o.noticeMove()
				}
				o.round("")
			}
		})
	}
}
