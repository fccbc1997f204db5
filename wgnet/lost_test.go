// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/wgnet/wgnet"
)

// fragile opens sockets that can be taken away.
type fragile struct {
	open func(ctx context.Context, network, address string) (net.PacketConn, error)

	mu     sync.Mutex // guards what follows
	refuse error      // what the next calls answer
	last   *fragileConn
}

type fragileConn struct {
	net.PacketConn
	err atomic.Pointer[error] // in the place of net.ErrClosed
}

func (f *fragile) listen(ctx context.Context, network, address string) (net.PacketConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	pc, err := f.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	f.last = &fragileConn{PacketConn: pc}
	return f.last, nil
}

// take takes the socket away: its reads fail with an error, and no other can be opened until give.
func (f *fragile) take(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
	f.last.err.Store(&err)
	f.last.PacketConn.Close()
}

func (f *fragile) give() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = nil
}

func (c *fragileConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if failure := c.err.Load(); err != nil && failure != nil {
		err = *failure
	}
	return n, from, err
}

// fault 23: the network goes away under a connection, and comes back.
func TestSocketLost(t *testing.T) {
	var network fragile
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		network.open, cfg.ListenPacket = cfg.ListenPacket, network.listen
	})
	l, err := up.Listen(":7")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
	c, err := n.DialContext(testContext(t), "tcp", "up:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := roundTrip(c); err != nil {
		t.Fatal(err)
	}
	next, stop := iter.Pull(n.Events(testContext(t)))
	defer stop()
	port := n.ListenPort()
	for range 2 {
		network.take(syscall.ENETDOWN)
		e := eventOf(t, next, wgnet.SocketLost)
		if e.Peer != "" || !e.PublicKey.IsZero() || !strings.HasSuffix(e.Text, ": "+syscall.ENETDOWN.Error()) {
			t.Errorf("got %+v", e)
		}
		s := n.Status()
		if len(s.Problems) != 1 || !strings.HasPrefix(s.Problems[0], "the UDP socket is lost: ") || !strings.Contains(s.String(), "\n  problem: "+s.Problems[0]+"\n") {
			t.Errorf("problems %q in\n%s", s.Problems, s)
		}
		network.give()
		eventOf(t, next, wgnet.SocketReopened)
		if err := roundTrip(c); err != nil {
			t.Error(err)
		}
		if s := n.Status(); len(s.Problems) != 0 || s.ListenPort != port {
			t.Errorf("problems %q, port %d, want none and %d", s.Problems, s.ListenPort, port)
		}
	}
	network.take(syscall.ENETDOWN)
	eventOf(t, next, wgnet.SocketLost)
	closeNet(t, n) // while there is no socket
	if got := slices.Collect(n.Events(context.Background())); len(got) != 0 {
		t.Errorf("events of a closed Net: %v", got)
	}
}
