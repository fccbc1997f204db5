// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// TestKnowsSender fails when a new version of gVisor has other private fields: RACK would be off with it.
func TestKnowsSender(t *testing.T) {
	if !netstack.KnowsSender() {
		t.Error("gVisor's TCP sender is not what netstack/sender.go knows: adapt senderFields")
	}
}

// TestRetransmission is fault 49's worst case, connections that stand still for ever: the first packets are lost and
// repaired, then all of the end, its probe included. If nothing needs to be revived here any more, gVisor has been
// repaired, and netstack/sender.go need not do it.
func TestRetransmission(t *testing.T) {
	const (
		conns  = 32
		window = 10 * 1340 // the initial one (RFC 6928)
		size   = window + 1000
	)
	a, b := newStacks(t)
	begin := map[uint16]uint32{} // by port: the data's first sequence number
	times := map[[2]uint32]int{} // by port and place: how often it was sent
	joinFiltered(t, a, b, func(p []byte) (lost bool) {
		tcp := header.TCP(header.IPv4(p).Payload())
		port := tcp.SourcePort()
		if tcp.Flags().Contains(header.TCPFlagSyn) {
			begin[port] = tcp.SequenceNumber() + 1
		}
		if len(tcp.Payload()) == 0 {
			return false
		}
		at := tcp.SequenceNumber() - begin[port]
		times[[2]uint32{uint32(port), at}]++
		n := times[[2]uint32{uint32(port), at}]
		return at < 3*1340 && n == 1 || at >= window && n <= 2
	})
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	deadline := time.Now().Add(20 * time.Second)
	var transfers sync.WaitGroup
	for range conns {
		c, s := tcpPair(t, a, b, addrB4)
		if err := errors.Join(c.SetDeadline(deadline), s.SetDeadline(deadline)); err != nil {
			t.Fatal(err)
		}
		transfers.Go(func() { // ends with the deadline at the latest
			if _, err := c.Write(want); err != nil {
				t.Error(err)
				return
			}
			got := make([]byte, size)
			if n, err := io.ReadFull(s, got); err != nil {
				t.Errorf("%d bytes of %d arrived: %v", n, size, err)
			} else if !bytes.Equal(got, want) {
				t.Error("what arrived is not what was sent")
			}
		})
	}
	transfers.Wait()
	revived := a.Revived()
	t.Logf("%d timers were revived", revived)
	if revived == 0 {
		t.Error("no connection stood still")
	}
}

// TestSegmentSize sends over a path where nothing is lost, and then every tenth packet.
func TestSegmentSize(t *testing.T) {
	a, b := newStacks(t)
	var bad atomic.Bool
	n := 0
	joinFiltered(t, a, b, func([]byte) (lost bool) {
		n++
		return bad.Load() && n%10 == 0
	})
	c, s := tcpPair(t, a, b, addrB4)
	var wg sync.WaitGroup
	wg.Go(func() { // until c is closed
		block := make([]byte, 1<<20)
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	})
	wg.Go(func() { _, _ = io.Copy(io.Discard, s) }) // until s is closed
	first := c.SegmentSize()
	if !eventually(func() bool { return c.SegmentSize() > 2*first }) { // far less than the most: a slow machine has time-outs too
		t.Errorf("segments of %d bytes where nothing is lost, %d at first, want more than twice as much", c.SegmentSize(), first)
	}
	bad.Store(true)
	if !eventually(func() bool { return c.SegmentSize() < first }) {
		t.Errorf("segments of %d bytes where packets are lost, want fewer than %d", c.SegmentSize(), first)
	}
	if err := errors.Join(c.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// joinFiltered is join, but that the packets from a to b go through a filter, which one goroutine calls.
func joinFiltered(tb testing.TB, a, b *netstack.Stack, lost func(packet []byte) bool) {
	da, db := a.Device(), b.Device()
	var wg sync.WaitGroup
	wg.Go(func() { carry(tb, db, da) })
	wg.Go(func() { // ends when da is closed
		bufs, sizes := make([][]byte, da.BatchSize()), make([]int, da.BatchSize())
		for i := range bufs {
			bufs[i] = make([]byte, 1<<16)
		}
		for {
			n, err := da.Read(bufs, sizes, 0)
			if err != nil {
				return
			}
			for i := range n {
				if p := bufs[i][:sizes[i]]; !lost(p) {
					if _, err := db.Write([][]byte{p}, 0); err != nil && !errors.Is(err, os.ErrClosed) {
						tb.Errorf("Write: %v", err)
					}
				}
			}
		}
	})
	tb.Cleanup(func() {
		_ = da.Close() // never fails
		_ = db.Close()
		wg.Wait()
	})
}

// TestLostWindow: all of a large window's end is lost, but for some of it, as where a queue on the path overflows. gVisor
// alone would send two packets of it each time-out from then on, 200 ms each, for minutes.
func TestLostWindow(t *testing.T) {
	const (
		size  = 8 << 20
		begin = 1 << 20 // the window has grown to some 700 packets then
	)
	a, b := newStacks(t)
	var first, high uint32 // the data's first sequence number, and the end of what was sent, counted from there
	fresh, lost, over := 0, 0, false
	joinFiltered(t, a, b, func(p []byte) bool {
		tcp := header.TCP(header.IPv4(p).Payload())
		if tcp.Flags().Contains(header.TCPFlagSyn) {
			first = tcp.SequenceNumber() + 1
		}
		at := tcp.SequenceNumber() - first
		if len(tcp.Payload()) == 0 {
			return false
		}
		if at < high { // it is sent again, perhaps cut otherwise
			over = lost > 0
			return false
		}
		high = at + uint32(len(tcp.Payload()))
		if fresh++; over || at < begin || at < begin+100_000 && fresh%3 == 0 {
			return false
		}
		lost++
		return true
	})
	c, s := tcpPair(t, a, b, addrB4)
	deadline := time.Now().Add(30 * time.Second)
	if err := errors.Join(c.SetDeadline(deadline), s.SetDeadline(deadline)); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var writing sync.WaitGroup
	writing.Go(func() { // ends with the deadline at the latest
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
	})
	got := make([]byte, size)
	if n, err := io.ReadFull(s, got); err != nil {
		t.Errorf("%d bytes of %d arrived: %v", n, size, err)
	} else if !bytes.Equal(got, want) {
		t.Error("what arrived is not what was sent")
	}
	writing.Wait()
	if lost == 0 {
		t.Error("nothing was lost")
	}
	t.Logf("%d packets were lost", lost)
}
