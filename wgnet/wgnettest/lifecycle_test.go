// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// Faults 18, 19 and 20: Close from several goroutines while TCP and UDP flood both ways and somebody does not read. What
// would be left behind fails the test at the end of each network.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		link wgnettest.Link
	}{
		{"in good weather", wgnettest.Link{}},
		{"in bad weather", wgnettest.Link{Latency: time.Millisecond, Jitter: time.Millisecond, Loss: 0.05, Duplicate: 0.1, Reorder: 0.2}},
		{"through a bottleneck", wgnettest.Link{Bandwidth: 10_000_000, Latency: 10 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for turn := range 3 {
				closeUnderLoad(t, c.link, turn)
			}
		})
	}
}

func closeUnderLoad(t *testing.T, link wgnettest.Link, turn int) {
	t.Helper()
	tb := &scope{TB: t}
	n := wgnettest.NewNetwork(tb, wgnettest.Config{Names: []string{"a", "b"}})
	defer tb.must()
	a, b := n.Nodes[0].Net, n.Nodes[1].Net
	n.SetLinks(link)
	l := listen(tb, b, ":7")
	pc, err := b.ListenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	var flows sync.WaitGroup
	moved := make(chan struct{}, 100)
	flow := func(f func([]byte) (int, error)) {
		flows.Go(func() { // ends with the first error, at the latest when its Net is closed
			for buf := make([]byte, 1200); ; {
				if _, err := f(buf); err != nil {
					return
				}
				select {
				case moved <- struct{}{}:
				default:
				}
			}
		})
	}
	tcp, stalled, udp := dial(tb, a, "tcp", "b:7"), dial(tb, a, "tcp", "b:7"), dial(tb, a, "udp", "b:7")
	var accepted [2]net.Conn
	for i := range accepted {
		if accepted[i], err = l.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []net.Conn{tcp, accepted[0], accepted[1], udp} {
		if c != accepted[1] {
			flow(c.Read)
		}
		flow(c.Write)
	}
	flow(stalled.Write) // whose other end is read by nobody, and the other way round
	flow(func(buf []byte) (int, error) {
		size, from, err := pc.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		return pc.WriteTo(buf[:size], from)
	})
	for range cap(moved) {
		<-moved
	}
	var closing sync.WaitGroup
	nets := []*wgnet.Net{a, b}
	start := time.Now()
	for i := range 6 {
		one := nets[(i+turn)%2]
		if turn == 2 {
			one = nets[i/3] // by turns, and at once
		}
		closing.Go(func() {
			if err := one.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	if took := time.Since(start); took > 5*time.Second { // a busy machine gets its share
		t.Errorf("Close took %v", took)
	}
	flows.Wait()
	for _, c := range []io.Closer{accepted[0], accepted[1], pc} {
		_ = c.Close() // a Net that is closed has closed them
	}
}

// fault 21: a Net that cannot be made leaves nothing, no socket in the outer network either.
func TestNewFails(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a"}})
	node := n.Nodes[0]
	cfg := node.Config.Clone()
	if one, err := wgnet.New(cfg); one != nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("New with a port that is taken: %v, %v", one, err)
	}
	n.Restart(node) // which needs the port
	if node.Net == nil || node.Net.ListenPort() != cfg.ListenPort {
		t.Error("the port is not free again")
	}
}

// fault 22: a port that is taken is an error and the old one still works, both ways; once it is free the change works, and
// connections live on.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	serve(t, listen(t, a.Net, ":7"), echo)
	serve(t, listen(t, b.Net, ":7"), echo)
	out, in := dial(t, a.Net, "tcp", "b:7"), dial(t, b.Net, "tcp", "a:7")
	const port = 1000
	taken, err := a.ListenPacket(t.Context(), "udp", ":1000")
	if err != nil {
		t.Fatal(err)
	}
	cfg := a.Config.Clone()
	old := cfg.ListenPort
	cfg.ListenPort = port
	if err := a.Net.Apply(cfg); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Apply with a port that is taken: %v", err)
	}
	if got := a.Net.ListenPort(); got != old {
		t.Errorf("port %d, want the old one, %d", got, old)
	}
	exchange(t, out)
	exchange(t, in)
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Net.Apply(cfg); err != nil {
		t.Fatal(err)
	}
	if got := a.Net.ListenPort(); got != port {
		t.Errorf("port %d, want %d", got, port)
	}
	exchange(t, out)
	exchange(t, in)
}

// fault 23, as far as it is about a socket that stays: the network goes away under it, so that sending and receiving fail
// with what is not temporary, and comes back.
func TestNetworkGoesAway(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	var away atomic.Bool
	inner := a.Config.ListenPacket
	a.Config.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := inner(ctx, network, address)
		return &outage{pc, &away}, err
	}
	n.Start()
	serve(t, listen(t, b.Net, ":7"), echo)
	c := dial(t, a.Net, "tcp", "b:7")
	exchange(t, c)
	for range 3 {
		away.Store(true)
		for _, ping := range []struct {
			from *wgnettest.Node
			to   string
		}{{a, "b"}, {b, "a"}} {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := ping.from.Net.Ping(ctx, ping.to); err == nil {
				t.Error("a ping arrives without a network")
			}
			cancel()
		}
		away.Store(false)
		exchange(t, c)
	}
}

// An outage is a socket whose network is away at times.
type outage struct {
	net.PacketConn
	away *atomic.Bool
}

func (c *outage) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.away.Load() {
		return 0, os.NewSyscallError("sendto", syscall.ENETUNREACH)
	}
	return c.PacketConn.WriteTo(b, to)
}

func (c *outage) ReadFrom(b []byte) (int, net.Addr, error) {
	if !c.away.Load() {
		size, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || !c.away.Load() {
			return size, from, err
		}
	}
	return 0, nil, os.NewSyscallError("recvfrom", syscall.ENETDOWN)
}
