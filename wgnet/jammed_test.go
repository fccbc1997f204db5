// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
)

// jammedConn is a socket whose sends to one address take half a second each, and fail, while on is set.
type jammedConn struct {
	*memnet.Conn
	jammed    netip.Addr
	on        *atomic.Bool
	closeOnce sync.Once
	closed    chan struct{}
}

// WriteBatch is what the Net sends by.
func (c *jammedConn) WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error) {
	if to.Addr() != c.jammed || !c.on.Load() {
		return c.Conn.WriteBatch(bufs, to)
	}
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *jammedConn) Close() error {
	c.closeOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A peer that nothing can be sent to for the moment, and one that has died in a session, with as many packets under way to
// them as there may be, do not slow a third one.
func TestJammedPeer(t *testing.T) {
	var on atomic.Bool
	s := newStarOf(t, func(hub *wgnet.Config) {
		listen := hub.ListenPacket
		hub.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			pc, err := listen(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &jammedConn{Conn: pc.(*memnet.Conn), jammed: outerAddr(3), on: &on, closed: make(chan struct{})}, nil
		}
	}, "fast", "jammed", "dying")
	const size = 4 << 20
	transfer := func(peer, size int) time.Duration {
		begin := time.Now()
		transferHashed(t, s.hub, s.others[peer-2], innerAddr(peer), size)
		return time.Since(begin)
	}
	for peer := 2; peer <= 4; peer++ {
		transfer(peer, 1<<10)
	}
	alone := min(transfer(2, size), transfer(2, size))
	closeNet(t, s.others[2])
	on.Store(true)
	before := s.hub.Status().Peers[1].PacketsSent
	defer s.flood(t, 3)()
	defer s.flood(t, 4)()
	waitFor(t, "the packets to the jammed peer", func() bool { return s.hub.Status().Peers[1].PacketsSent >= before+100 })
	beside := min(transfer(2, size), transfer(2, size))
	t.Logf("%d MiB take %v alone, and %v beside a jammed and a dead peer", size>>20, alone, beside)
	if beside > 20*alone+2*time.Second {
		t.Errorf("%d MiB take %v beside a jammed and a dead peer, %v alone", size>>20, beside, alone)
	}
}
