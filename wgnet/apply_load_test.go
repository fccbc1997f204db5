// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// strangers are peers that nobody is, each with an address of its own. Every second one has an endpoint.
func strangers(count int, endpoint string) []wgnet.PeerConfig {
	peers := make([]wgnet.PeerConfig, count)
	for i := range peers {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		peers[i] = wgnet.PeerConfig{
			Name: fmt.Sprintf("s%d", i), PublicKey: wgnet.NewPrivateKey().Public(),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)},
		}
		if i%2 == 0 {
			peers[i].Endpoint = endpoint
		}
	}
	return peers
}

// deaf is an endpoint that nobody reads from.
func deaf(tb testing.TB) string {
	tb.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().String()
}

// manyPeers is how many TestAddAndRemoveManyPeers adds and removes. For the whole of fault 24:
//
//	go test ./wgnet -run TestAddAndRemoveManyPeers -peers 10000 -timeout 0 -v
var manyPeers = flag.Int("peers", 150, "how many peers TestAddAndRemoveManyPeers adds and removes")

// fault 24: memory and goroutines return to where they were, and the traffic goes on.
func TestAddAndRemoveManyPeers(t *testing.T) {
	const rounds = 2
	count := *manyPeers
	n, cfg, _, _ := newHub(t)
	peers := strangers(count, deaf(t))
	c := dialEcho(t, n, "one:7")
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // stop ends it
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := roundTrip(c); err != nil {
				done <- err
				return
			}
		}
	}()
	round := func() {
		for _, p := range peers {
			if err := n.AddPeer(p); err != nil {
				t.Fatal(err)
			}
			// Something waits for each of them.
			if u, err := n.Dial("udp", p.AllowedIPs[0].Addr().String()+":9"); err == nil {
				if _, err := io.WriteString(u, "hello"); err != nil {
					t.Error(err)
				}
				u.Close()
			}
		}
		for _, p := range peers {
			if err := n.RemovePeer(p.PublicKey); err != nil {
				t.Fatal(err)
			}
		}
		next := cfg.Clone()
		next.Peers = append(next.Peers, peers...)
		for _, c := range []*wgnet.Config{next, cfg} {
			if err := n.Apply(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	greeted := func() {
		waitFor(t, "the greetings to end", func() bool { return !hasGoroutine(".greet(") })
	}
	round() // fills pools
	greeted()
	goroutines, heap := runtime.NumGoroutine(), heapInUse()
	for range rounds {
		round()
	}
	greeted()
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("the traffic: %v", err)
	}
	waitFor(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	// A peer costs 28 KB: one in three that is left would be seen. Fewer could not be told from pools, of 64 KiB buffers.
	waitFor(t, "the memory to return", func() bool {
		return heapInUse() < heap+uint64(rounds*count/3*28<<10)
	})
	t.Logf("%d times %d peers: %d KiB of heap before, %d after", rounds, count, heap>>10, heapInUse()>>10)
}

// fault 19: Close at any moment of changes of every kind.
func TestCloseDuringChanges(t *testing.T) {
	for range 8 {
		cfg := newConfig("10.0.0.1/24")
		cfg.Peers = strangers(4, deaf(t))
		n, err := wgnet.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		began := make(chan struct{}, 100)
		var wg sync.WaitGroup
		until := func(change func(turn int) error) {
			wg.Go(func() { // ends with the Net
				for turn := 0; ; turn++ {
					err := change(turn)
					select {
					case began <- struct{}{}:
					default:
					}
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		extra := strangers(1, cfg.Peers[0].Endpoint)[0]
		extra.Name, extra.AllowedIPs = "extra", prefixes("10.9.0.1/32")
		until(func(turn int) error {
			if turn%2 == 0 {
				return ignoreKnown(n.AddPeer(extra))
			}
			return ignoreKnown(n.RemovePeer(extra.PublicKey))
		})
		until(func(turn int) error {
			p := cfg.Peers[1]
			p.PresharedKey = wgnet.NewPresharedKey()
			return n.UpdatePeer(p)
		})
		until(func(turn int) error {
			next := cfg.Clone()
			next.Addresses = prefixes(fmt.Sprintf("10.0.0.%d/24", 1+turn%9))
			if turn%3 == 0 {
				next.PrivateKey = wgnet.NewPrivateKey()
			}
			if turn%3 == 1 {
				next.ListenPort = freePort(t)
			}
			return n.Apply(next)
		})
		for range 12 {
			<-began
		}
		closeNet(t, n)
		wg.Wait()
		for name, err := range map[string]error{
			"AddPeer": n.AddPeer(extra), "UpdatePeer": n.UpdatePeer(extra), "RemovePeer": n.RemovePeer(extra.PublicKey), "Apply": n.Apply(cfg),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
	}
	checkLeaks(t)
}

// ignoreKnown passes over the errors that Apply causes by taking the extra peer away.
func ignoreKnown(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// With 10,000 peers: what it takes to add them all at once, one more, and to change one by Apply.
func BenchmarkPeers(b *testing.B) {
	const count = 10_000
	peers := strangers(count, "")
	one := peers[count-1]
	full := func() *wgnet.Config {
		cfg := newConfig("10.0.0.1/24")
		cfg.Peers = peers
		return cfg
	}
	b.Run("apply all", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			cfg := full()
			cfg.Peers = nil
			n := newNet(b, cfg)
			before := heapInUse()
			cfg.Peers = peers
			b.StartTimer()
			if err := n.Apply(cfg); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(heapInUse()-before)/count, "B/peer")
			cfg.Peers = nil
			b.StartTimer()
			if err := n.Apply(cfg); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric((float64(heapInUse())-float64(before))/count, "B-left/peer")
			closeNet(b, n)
			b.StartTimer()
		}
	})
	b.Run("apply one change", func(b *testing.B) {
		cfg := full()
		n := newNet(b, cfg)
		cfg = cfg.Clone()
		b.ResetTimer()
		for i := 0; b.Loop(); i++ {
			cfg.Peers[0].AllowedIPs = prefixes(fmt.Sprintf("10.2.0.%d/32", i%250))
			if err := n.Apply(cfg); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("add and remove one", func(b *testing.B) {
		cfg := full()
		cfg.Peers = peers[:count-1]
		n := newNet(b, cfg)
		b.ResetTimer()
		for b.Loop() {
			if err := n.AddPeer(one); err != nil {
				b.Fatal(err)
			}
			if err := n.RemovePeer(one.PublicKey); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// stuckConn is a transport in which every send waits until its deadline is moved to the past or it is closed.
type stuckConn struct {
	net.PacketConn
	sending chan struct{} // holds one token when a send has begun

	mu   sync.Mutex    // guards wake
	wake chan struct{} // closed, and replaced, by a deadline in the past
	end  chan struct{} // closed by Close
}

func newStuckConn(tb testing.TB) *stuckConn {
	tb.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return &stuckConn{PacketConn: pc, sending: make(chan struct{}, 1), wake: make(chan struct{}), end: make(chan struct{})}
}

func (c *stuckConn) WriteTo([]byte, net.Addr) (int, error) {
	c.mu.Lock()
	wake := c.wake
	c.mu.Unlock()
	select {
	case c.sending <- struct{}{}:
	default:
	}
	select {
	case <-wake:
		return 0, os.ErrDeadlineExceeded
	case <-c.end:
		return 0, net.ErrClosed
	}
}

func (c *stuckConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Until(t) < 0 {
		close(c.wake)
		c.wake = make(chan struct{})
	}
	return nil
}

func (c *stuckConn) Close() error {
	close(c.end)
	return c.PacketConn.Close()
}

// fault 20: a send that is blocked keeps neither a change from coming to its end nor Close.
func TestChangesWithBlockedSend(t *testing.T) {
	stuck := newStuckConn(t)
	cfg := newConfig("10.0.0.1/24")
	cfg.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) { return stuck, nil }
	cfg.Peers = strangers(4, deaf(t))
	n := newNet(t, cfg)
	<-stuck.sending
	if err := n.RemovePeer(cfg.Peers[0].PublicKey); err != nil {
		t.Error(err)
	}
	cfg.PrivateKey = wgnet.NewPrivateKey()
	if err := n.Apply(cfg); err != nil {
		t.Error(err)
	}
	<-stuck.sending
	begin := time.Now()
	closeNet(t, n)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	checkLeaks(t)
}
