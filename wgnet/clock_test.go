// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wgnet/internal/testpeer"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// testClock is a clock that can be set.
type testClock struct {
	mu         sync.Mutex // guards what follows
	now        func() (time.Time, time.Duration)
	wall, mono time.Duration // on top of it
}

func newTestClock() *testClock { return &testClock{now: systemClock()} }

func (c *testClock) read() (time.Time, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, mono := c.now()
	return wall.Add(c.wall), mono + c.mono
}

func (c *testClock) jump(wall, mono time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wall += wall
	c.mono += mono
}

// Faults 54 and 55: what is made of the two clocks.
func TestClock(t *testing.T) {
	const day = 24 * time.Hour
	s := time.Second
	type look struct {
		wall, mono time.Duration // since the last one
		want       clockNews     // but for elapsed
	}
	for _, c := range []struct {
		name  string
		looks []look
	}{
		{"nothing", []look{{s, s, clockNews{}}, {3 * s, 3 * s, clockNews{}}, {s / 2, s, clockNews{}}, {9 * s, s, clockNews{}}}},
		{"the machine slept, the monotonic clock too", []look{{time.Hour, s, clockNews{slept: time.Hour - s}}}},
		{"the machine slept, the monotonic clock did not", []look{{time.Hour, time.Hour, clockNews{slept: time.Hour - s}}}},
		{"the process was stopped", []look{{11 * s, 11 * s, clockNews{slept: 10 * s}}}},
		{"set forward", []look{{day + s, s, clockNews{slept: day}}}},
		{"set back and left to itself", []look{
			{-day + s, s, clockNews{setBack: day}},
			{s, s, clockNews{}},
			{day - 2*s, day - 2*s, clockNews{slept: day - 3*s}},
			{s, s, clockNews{caughtUp: true}},
			{s, s, clockNews{}},
		}},
		{"set back and set right", []look{
			{-day + s, s, clockNews{setBack: day}}, {s, s, clockNews{}}, {day + s, s, clockNews{slept: day, caughtUp: true}},
		}},
		{"set back twice, and only once set right", []look{
			{-day + s, s, clockNews{setBack: day}}, {-day + s, s, clockNews{setBack: 2*day - s}}, {day + s, s, clockNews{slept: day}},
		}},
		{"set back in its sleep", []look{{-day + s, time.Hour, clockNews{setBack: day + time.Hour - s, slept: time.Hour - s}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			wall, mono := time.Unix(1e9, 0), time.Duration(0)
			clock := newClock(func() (time.Time, time.Duration) { return wall, mono })
			behind := time.Duration(0)
			for i, l := range c.looks {
				wall, mono = wall.Add(l.wall), mono+l.mono
				l.want.elapsed = l.mono
				if got := clock.look(s); got != l.want {
					t.Errorf("look %d: got %+v, want %+v", i, got, l.want)
				}
				if behind = max(behind-l.wall, 0); l.want.setBack > 0 {
					behind = l.want.setBack
				}
				want := ""
				if behind > 0 {
					want = "this machine's clock was set back by " + behind.String() + ": until it is set right, or reads " +
						wall.Add(behind).Format(time.RFC3339) + ", "
				}
				if got := clock.problem(); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
					t.Errorf("look %d: got %q, want %q", i, got, want)
				}
			}
		})
	}
}

// fault 55: the machine or the process sleeps for an hour. The other side has forgotten the session, and what we send,
// nobody has to answer: without the keeper it would be lost for 15 s.
func TestWake(t *testing.T) {
	for _, c := range []struct {
		name       string
		wall, mono time.Duration
	}{
		{"the machine", time.Hour, 0},
		{"the process", time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
			b := onePeer(t, nil, keys[0].Public(), "", "10.0.0.2", "10.0.0.1", keys[1])
			clock := newTestClock()
			a, err := newNet(&Config{
				PrivateKey: keys[0], Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
				Peers: []PeerConfig{{
					PublicKey: keys[1].Public(), Endpoint: fmt.Sprintf("127.0.0.1:%d", b.ListenPort()),
					AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")},
				}},
			}, clock.read)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if err := errors.Join(a.WaitPeer(ctx, b.PublicKey()), b.WaitPeer(ctx, a.PublicKey())); err != nil {
				t.Fatal(err)
			}
			next, stop := iter.Pull(a.Events(ctx))
			defer stop()
			to, err := b.ListenPacket("udp", ":7")
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			from, err := a.Dial("udp", "10.0.0.2:7")
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()

			p := b.peers().all[0]
			p.dev.Load().ZeroAndFlushAll()
			b.tunnel.reset(p.link)
			clock.jump(c.wall, c.mono)
			start := time.Now()
			stopped := make(chan struct{})
			var sending sync.WaitGroup
			sending.Go(func() { // ends with stopped
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						if _, err := from.Write([]byte("awake")); err != nil {
							t.Error(err)
						}
					case <-stopped:
						return
					}
				}
			})
			buf := make([]byte, 100)
			if err := to.SetReadDeadline(start.Add(12 * time.Second)); err != nil {
				t.Error(err)
			}
			n, _, err := to.ReadFrom(buf)
			took := time.Since(start)
			close(stopped)
			sending.Wait()
			if err != nil || string(buf[:n]) != "awake" {
				t.Fatalf("got %q, %v", buf[:n], err)
			}
			t.Logf("traffic after %v", took)
			if took > 4*time.Second { // 2 s, and room for a loaded machine
				t.Errorf("traffic after %v, want 2 s", took)
			}
			for {
				e, ok := next()
				if !ok || e.Kind == PeerDown {
					t.Fatalf("got %+v, %v", e, ok)
				}
				if e.Kind == Woken {
					if !strings.HasPrefix(e.Text, "this machine or process has slept for 1h0m0s") {
						t.Errorf("got %+v", e)
					}
					break
				}
			}
		})
	}
}

// fault 54: the clock is set back by a day. That the other side has seen time stamps of the time before is shown by a real
// one: a handshake from two days ahead, which upstream's peer takes, and with which it refuses all of ours.
func TestClockSetBack(t *testing.T) {
	const back = 48 * time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	key := NewPrivateKey()
	up := testpeer.New(t, testpeer.Options{})
	us := testpeer.Key(key.Public())
	if err := up.AddPeer(testpeer.Remote{PublicKey: us, AllowedIPs: []string{"10.0.0.1/32"}}); err != nil {
		t.Fatal(err)
	}
	clock := newTestClock()
	n, err := newNet(&Config{
		PrivateKey: key, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
		Peers: []PeerConfig{{
			Name: "up", PublicKey: PublicKey(up.PublicKey()), Endpoint: up.Endpoint(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")},
		}},
	}, clock.read)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ping := func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := n.Ping(ctx, "up")
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull(n.Events(ctx))
	defer stop()
	event := func(kind EventKind) (e Event) {
		t.Helper()
		for e.Kind != kind {
			var ok bool
			if e, ok = next(); !ok {
				t.Fatalf("the events have ended, want %q", kind)
			}
		}
		return e
	}

	sendInitiation(t, up, initiationAt(t, key, PublicKey(up.PublicKey()), time.Now().Add(back)))
	clock.jump(-back, 0)
	e := event(ClockSetBack)
	const diagnosis = "this machine's clock was set back by 4"
	if !strings.HasPrefix(e.Text, diagnosis) || e.Peer != "" {
		t.Errorf("got %+v", e)
	}
	if s := n.Status(); len(s.Problems) != 1 || !strings.HasPrefix(s.Problems[0], diagnosis) {
		t.Errorf("problems %q", s.Problems)
	}
	// The session is as good as it was.
	if err := ping(); err != nil {
		t.Errorf("in the session: %v", err)
	}
	// Ours is over, and no other can be had.
	p := n.peers().all[0]
	n.tunnel.reset(p.link)
	p.expire()
	short, cancelShort := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancelShort()
	if _, err := n.Ping(short, "up"); err == nil || !strings.Contains(err.Error(), diagnosis) {
		t.Errorf("got %v", err)
	}
	if text := n.Status().Peers[0].Text; !strings.HasPrefix(text, "no answer from peer up at "+up.Endpoint()) || !strings.Contains(text, diagnosis) {
		t.Errorf("got %q", text)
	}
	// The other side can begin one.
	if err := errors.Join(up.Handshake(ctx, us), ping()); err != nil {
		t.Errorf("in the peer's session: %v", err)
	}
	clock.jump(back, 0)
	event(ClockCaughtUp)
	if s := n.Status(); len(s.Problems) != 0 {
		t.Errorf("problems %q", s.Problems)
	}
}

// initiationAt makes the initiation that our device would send at another time: in a bubble, in which it is that time.
func initiationAt(t *testing.T, key PrivateKey, peer PublicKey, at time.Time) (initiation []byte) {
	t.Run("initiation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(at.Round(0))) // from the year 2000 on, by the wall clock
			b := &recordingBind{sent: make(chan []byte, 1), closed: make(chan struct{})}
			dev := device.NewDevice(tuntest.NewChannelTUN().TUN(), b, device.NewLogger(device.LogLevelSilent, ""))
			defer dev.Close()
			err := dev.IpcSet(fmt.Sprintf("%spublic_key=%s\nendpoint=127.0.0.1:1\n", uapiKey(key), peer.hex()))
			if err = errors.Join(err, dev.Up()); err != nil {
				t.Fatal(err)
			}
			if err := dev.LookupPeer(device.NoisePublicKey(peer)).SendHandshakeInitiation(false); err != nil {
				t.Fatal(err)
			}
			initiation = <-b.sent
		})
	})
	return initiation
}

// sendInitiation sends one from anywhere, and waits for its answer.
func sendInitiation(t *testing.T, up *testpeer.Peer, initiation []byte) {
	t.Helper()
	c, err := net.Dial("udp", up.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, 1<<16)
	for range 100 { // one that comes within 20 ms of another is not looked at
		if _, err := c.Write(initiation); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(answer); err == nil && n == device.MessageResponseSize {
			return
		}
	}
	t.Fatal("the peer does not take the handshake")
}

// recordingBind is a network that takes what is sent, and brings nothing.
type recordingBind struct {
	sent   chan []byte
	opened atomic.Bool
	closed chan struct{}
}

func (b *recordingBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.opened.Store(true)
	return []conn.ReceiveFunc{func([][]byte, []int, []conn.Endpoint) (int, error) {
		<-b.closed
		return 0, net.ErrClosed
	}}, 1, nil
}

func (b *recordingBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	for _, d := range slices.Clone(bufs) {
		select {
		case b.sent <- bytes.Clone(d):
		default:
		}
	}
	return nil
}

func (b *recordingBind) Close() error {
	if b.opened.Swap(false) { // the device closes it before it opens it, too
		close(b.closed)
	}
	return nil
}

func (b *recordingBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	addr, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: addr}, err
}
func (b *recordingBind) BatchSize() int       { return 1 }
func (b *recordingBind) SetMark(uint32) error { return nil }
