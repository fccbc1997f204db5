// SPDX-License-Identifier: MIT

package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
)

// message is a ping's, as a flow has it.
func message(seq uint16, data string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, seq), data...)
}

// TestPing is fault 68 in a network of a test's own: hosts that are there answer, over both families; one that is not
// there is not answered for; to where there is no way the peer is told so.
func TestPing(t *testing.T) {
	for _, raw := range []bool{false, true} {
		t.Run(fmt.Sprintf("raw %v", raw), func(t *testing.T) {
			ns := netns.New(t)
			groups := "0 2147483647"
			if raw {
				groups = "1 0" // nobody
			}
			ns.Run("sh", "-c", "echo "+groups+" >/proc/sys/net/ipv4/ping_group_range")
			ns.Run("ip", "route", "add", "198.51.100.0/24", "dev", "lo") // comes back, is nobody's, and is dropped
			var log strings.Builder
			var logMu sync.Mutex
			g := newGateway(t, Config{RawPing: raw, Logger: logger(&log, &logMu)}, "allow ping")
			begin := func(dst netip.Addr) (*fakeFlow, chan struct{}) {
				f := newFlow(t, "laptop", "ping", netip.AddrPortFrom(dst, 0).String())
				ended := make(chan struct{})
				go func() { // ends with the gateway at the latest
					defer close(ended)
					if err := ns.Do(func() error { g.Serve(f); return nil }); err != nil {
						t.Error(err)
					}
				}()
				return f, ended
			}
			dead, _ := begin(netip.MustParseAddr("198.51.100.9"))
			if _, err := dead.accepted(t).Write(message(1, "anybody?")); err != nil {
				t.Fatal(err)
			}
			for _, dst := range []netip.Addr{ns.Outside4, ns.Outside6} {
				f, ended := begin(dst)
				c := f.accepted(t)
				for seq := range uint16(3) {
					want := message(seq+7, strings.Repeat("x", int(seq)*700))
					if got := exchange(t, c, want); !bytes.Equal(got, want) {
						t.Errorf("%v: got %d bytes that begin with %x, want %d that begin with %x", dst, len(got), got[:2], len(want), want[:2])
					}
				}
				c.Close()
				waitFor(t, "the flow's end", ended)
			}
			if err := dead.client.SetReadDeadline(time.Now()); err != nil {
				t.Fatal(err)
			}
			if n, err := dead.client.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a dead host has answered: %d bytes, %v", n, err)
			}
			nowhere, ended := begin(netip.MustParseAddr("203.0.113.1"))
			if err := nowhere.wait(t); !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("%v, want ENETUNREACH", err)
			}
			waitFor(t, "the flow's end", ended)
			own, _ := begin(ns.Inside4)
			if err := own.wait(t); !errors.Is(err, syscall.EACCES) {
				t.Errorf("the host's own address: %v, want EACCES", err)
			}
			if s := g.Status(); s.Accepted != 3 || s.Refused != 1 || s.Denied != 1 || s.BytesOut != 8+2*(700+1400) || s.BytesIn != 2*(700+1400) {
				t.Errorf("status %+v", s.Counters)
			}
		})
	}
}

// TestPingUnreachable is fault 68: that there is no way any more the peer is told, and the flow goes on.
func TestPingUnreachable(t *testing.T) {
	ns := netns.New(t)
	ns.Run("sh", "-c", "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range")
	for _, dst := range []netip.Addr{ns.Outside4, ns.Outside6} {
		g := newGateway(t, Config{RawPing: true}, "allow ping")
		f := newFlow(t, "laptop", "ping", netip.AddrPortFrom(dst, 0).String())
		go func() { // ends with the gateway
			if err := ns.Do(func() error { g.Serve(f); return nil }); err != nil {
				t.Error(err)
			}
		}()
		c := f.accepted(t)
		exchange(t, c, message(1, "x"))
		ns.Run("ip", "route", "add", "unreachable", dst.String())
		if _, err := c.Write(message(2, "x")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-f.refused:
			if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("%v, want EHOSTUNREACH or ENETUNREACH", err)
			}
		case <-time.After(patience):
			t.Fatal("nobody told the peer")
		}
		ns.Run("ip", "route", "del", "unreachable", dst.String())
		if got, want := exchange(t, c, message(3, "x")), message(3, "x"); !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if s := g.Status(); s.Refused != 1 {
			t.Errorf("status %+v", s.Counters)
		}
	}
}

// TestPingUnavailable: where the host gives no socket for pings, they are refused, and why is said once.
func TestPingUnavailable(t *testing.T) {
	ns := netns.New(t)
	ns.Run("sh", "-c", "echo 1 0 >/proc/sys/net/ipv4/ping_group_range")
	var log strings.Builder
	var logMu sync.Mutex
	g := newGateway(t, Config{Logger: logger(&log, &logMu)}, "allow ping")
	for range 3 {
		f := newFlow(t, "laptop", "ping", netip.AddrPortFrom(ns.Outside4, 0).String())
		if err := ns.Do(func() error { g.Serve(f); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := f.wait(t); !errors.Is(err, syscall.EACCES) {
			t.Errorf("%v, want EACCES", err)
		}
	}
	logMu.Lock()
	defer logMu.Unlock()
	if n := strings.Count(log.String(), "ping_group_range"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, log.String())
	}
}

// logger writes text under a lock.
func logger(to *strings.Builder, mu *sync.Mutex) *slog.Logger {
	return slog.New(slog.NewTextHandler(lockedWriter{to, mu}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type lockedWriter struct {
	to *strings.Builder
	mu *sync.Mutex
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

// TestEchoes: requests that wait are bounded, in all and for each peer, and forgotten in time.
func TestEchoes(t *testing.T) {
	now := time.Now()
	var p pinger
	p.init(nil, false)
	add := func(peer string, after time.Duration) (uint16, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.add(&echo{peer: peer, sent: now.Add(after)})
	}
	for range 2 * maxPeerEchoes {
		add("greedy", 0)
	}
	if n := p.ofPeer["greedy"]; n != maxPeerEchoes {
		t.Errorf("%d of one peer wait, want %d", n, maxPeerEchoes)
	}
	if _, ok := add("modest", 0); !ok {
		t.Error("another peer got no number")
	}
	if _, ok := add("greedy", echoWait); !ok || len(p.echoes) != 1 {
		t.Errorf("%d wait after all had their time, want one", len(p.echoes))
	}
	for i := range 200_000 { // three times around the numbers
		if _, ok := add(fmt.Sprint(i%100), echoWait); !ok {
			t.Fatal("no number")
		}
		if n := len(p.echoes); n > maxEchoes {
			t.Fatalf("%d wait, want at most %d", n, maxEchoes)
		}
	}
	for seq := range p.echoes {
		p.take(seq)
	}
	if len(p.ofPeer) != 0 {
		t.Errorf("%v are counted and do not wait", p.ofPeer)
	}
}

// TestRepliesBounded: replies to a flow that takes none wait, up to a bound, and hold up nobody.
func TestRepliesBounded(t *testing.T) {
	var p pinger
	p.init(nil, false)
	replies, dst := make(chan []byte, maxReplies), netip.MustParseAddr("192.0.2.1")
	for range 3 * maxReplies {
		p.mu.Lock()
		seq, ok := p.add(&echo{peer: "slow", sent: time.Now(), replies: replies, dst: dst})
		p.mu.Unlock()
		if !ok {
			t.Fatal("no number")
		}
		p.reply([]byte{0, 0, 0, 0, byte(p.id >> 8), byte(p.id), byte(seq >> 8), byte(seq)}, &net.UDPAddr{IP: dst.AsSlice()})
	}
	if len(replies) != maxReplies || len(p.echoes) != 0 {
		t.Errorf("%d replies wait, and %d requests", len(replies), len(p.echoes))
	}
}

// TestReply: a reply is for who has asked, and for nobody else.
func TestReply(t *testing.T) {
	asked := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)}
	for _, tc := range []struct {
		name  string
		raw   bool
		reply []byte
		from  net.Addr
		want  bool
	}{
		{"of whom was asked", false, []byte{0, 0, 0, 0, 0, 9, 0, 0, 'x'}, asked, true},
		{"by a raw socket", true, []byte{0, 0, 0, 0, 0, 5, 0, 0, 'x'}, &net.IPAddr{IP: asked.IP}, true},
		{"to another program's request", true, []byte{0, 0, 0, 0, 0, 9, 0, 0, 'x'}, &net.IPAddr{IP: asked.IP}, false},
		{"of somebody else", false, []byte{0, 0, 0, 0, 0, 5, 0, 0, 'x'}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2)}, false},
		{"of a number that nobody has", false, []byte{0, 0, 0, 0, 0, 5, 0, 1, 'x'}, asked, false},
		{"a request", false, []byte{8, 0, 0, 0, 0, 5, 0, 0, 'x'}, asked, false},
		{"a code that there is not", false, []byte{0, 1, 0, 0, 0, 5, 0, 0, 'x'}, asked, false},
		{"too short", false, []byte{0, 0, 0, 0, 0, 5, 0}, asked, false},
		{"nothing", false, nil, asked, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !systemPicksID {
				tc.raw = true
			}
			var p pinger
			p.init(nil, false)
			p.raw, p.id = tc.raw, 5
			replies := make(chan []byte, 1)
			if _, ok := p.add(&echo{peer: "p", replies: replies, dst: netip.MustParseAddr("192.0.2.1"), theirs: 0x1234}); !ok {
				t.Fatal("no number")
			}
			for range 2 { // the second is a duplicate
				p.reply(tc.reply, tc.from)
			}
			var got []byte
			select {
			case got = <-replies:
			default:
			}
			if want := message(0x1234, "x"); tc.want != bytes.Equal(got, want) || len(replies) > 0 {
				t.Errorf("got %x, want %x: %v", got, want, tc.want)
			}
		})
	}
}
