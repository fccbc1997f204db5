// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/netstack"
)

// TestBufferBounds has the arithmetic of the bounds: gVisor offers half of a receive buffer as the window, and has half of
// a send buffer in flight, which is to be 1 Gbit/s over a round trip of 100 ms.
func TestBufferBounds(t *testing.T) {
	const bandwidthDelay = 12_500_000
	s, _ := newStacks(t)
	send, receive := s.MaxBuffers()
	if send/2 < bandwidthDelay || receive/2 < bandwidthDelay {
		t.Errorf("buffers grow to %d and %d bytes, want at least twice %d", send, receive, bandwidthDelay)
	}
}

// TestFixedBuffers sets buffers at once that auto-tuning would come to, and no larger ones than the bound.
func TestFixedBuffers(t *testing.T) {
	a, b := newPair(t)
	c, _ := tcpPair(t, a, b, addrB4)
	const want = 32 << 20
	if err := errors.Join(c.SetWriteBuffer(want), c.SetReadBuffer(2*want)); err != nil {
		t.Fatal(err)
	}
	if send, receive := c.Buffers(); send != want || receive != want {
		t.Errorf("buffers of %d and %d bytes, want %d", send, receive, want)
	}
}

// TestBuffersGrow sends over a path with a round trip of 50 ms until both ends have left their first buffers far
// behind. Without a reader that tells gVisor what it has read, the receive buffer would stay as it is.
func TestBuffersGrow(t *testing.T) {
	a, b := newStacks(t)
	joinDelayed(t, a, b, 25*time.Millisecond)
	c, s := tcpPair(t, a, b, addrB4)
	firstSend, _ := c.Buffers()
	_, firstReceive := s.Buffers()
	deadline := time.Now().Add(30 * time.Second)
	if err := errors.Join(c.SetDeadline(deadline), s.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // until c is closed
		block := make([]byte, 64<<10)
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	block := make([]byte, 64<<10)
	for {
		if _, err := s.Read(block); err != nil {
			t.Errorf("the buffers have not grown: %v", err)
			break
		}
		send, _ := c.Buffers()
		_, receive := s.Buffers()
		if send >= 8*firstSend && receive >= 8*firstReceive {
			break
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// joinDelayed is join with a latency each way, until the test ends.
func joinDelayed(tb testing.TB, a, b *netstack.Stack, latency time.Duration) {
	da, db := a.Device(), b.Device()
	var wg sync.WaitGroup
	for _, way := range [][2]*netstack.Device{{da, db}, {db, da}} {
		type batch struct {
			due  time.Time
			bufs [][]byte
		}
		under := make(chan batch, 1<<16) // more than the windows hold
		wg.Go(func() {                   // ends when way[0] is closed
			defer close(under)
			bufs, sizes := make([][]byte, way[0].BatchSize()), make([]int, way[0].BatchSize())
			for i := range bufs {
				bufs[i] = make([]byte, 1<<16)
			}
			for {
				n, err := way[0].Read(bufs, sizes, 0)
				if err != nil {
					return
				}
				next := batch{due: time.Now().Add(latency)}
				for i := range n {
					next.bufs = append(next.bufs, bytes.Clone(bufs[i][:sizes[i]]))
				}
				under <- next
			}
		})
		wg.Go(func() { // ends with the reader
			for next := range under {
				<-time.After(time.Until(next.due))
				if _, err := way[1].Write(next.bufs, 0); err != nil && !errors.Is(err, os.ErrClosed) {
					tb.Errorf("Write: %v", err)
				}
			}
		})
	}
	tb.Cleanup(func() {
		_ = da.Close() // never fails
		_ = db.Close()
		wg.Wait()
	})
}
