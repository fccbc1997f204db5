// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"example.com/wgnet/netstack"
)

// weather is a wire that damages, duplicates and reorders what it carries, and looks at each packet.
type weather struct {
	tb      testing.TB
	random  *rand.Rand
	damaged uint64   // segments with a bit of their payload flipped
	data    int      // segments with payload
	later   [][]byte // overtaken by the next batch
}

// carry is like the function of that name. It ends with from.
func (w *weather) carry(from, to *netstack.Device) {
	const offset = 16
	bufs, sizes := make([][]byte, from.BatchSize()), make([]int, from.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<12)
	}
	for {
		// Reads of every size: a segment goes on in the next one.
		n, err := from.Read(bufs[:1+w.random.IntN(len(bufs))], sizes, offset)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				w.tb.Errorf("Read: %v", err)
			}
			return
		}
		out, later := w.later, [][]byte(nil)
		for i := range n {
			packet := slices.Clone(bufs[i][:offset+sizes[i]])
			if err := netstack.CheckOutbound(packet[offset:], netstack.DefaultMTU); err != nil {
				w.tb.Error(err)
			}
			hasPayload := sizes[i] > 200 // headers have at most 120 bytes
			if hasPayload {
				w.data++
			}
			switch w.random.IntN(200) {
			case 0, 1:
				if hasPayload {
					bad := slices.Clone(packet)
					bad[len(bad)-1-w.random.IntN(60)] ^= 1 << w.random.IntN(8)
					out = append(out, bad) // and the right one after it, mostly
					w.damaged++
				}
				if w.random.IntN(4) > 0 {
					out = append(out, packet)
				}
			case 2, 3:
				out = append(out, packet, packet)
			case 4, 5:
				later = append(later, packet)
			case 6, 7:
				out = slices.Insert(out, w.random.IntN(len(out)+1), packet)
			default:
				out = append(out, packet)
			}
		}
		w.later = later
		if _, err := to.Write(out, offset); err != nil && !errors.Is(err, os.ErrClosed) {
			w.tb.Errorf("Write: %v", err)
		}
	}
}

// Fault 49, with damage on top: every byte arrives once and in order, by hash, and a damaged segment is merged with
// none, but found by gVisor as if there were no coalescer.
func TestTransferThroughWeather(t *testing.T) {
	const size = 4 << 20
	for family, addr := range map[string]netip.Addr{"IPv4": addrB4, "IPv6": addrB6} {
		t.Run(family, func(t *testing.T) {
			a, b := newStacks(t)
			there := &weather{tb: t, random: rand.New(rand.NewPCG(1, 2))}
			back := &weather{tb: t, random: rand.New(rand.NewPCG(3, 4))}
			da, db := a.Device(), b.Device()
			var wires sync.WaitGroup
			wires.Go(func() { there.carry(da, db) }) // both end with their device
			wires.Go(func() { back.carry(db, da) })
			part := sync.OnceFunc(func() {
				_ = da.Close() // never fails
				_ = db.Close()
				wires.Wait()
			})
			t.Cleanup(part)

			c, s := tcpPair(t, a, b, addr)
			sent := make([]byte, size)
			random := rand.NewChaCha8([32]byte{7})
			_, _ = random.Read(sent) // never fails
			want := sha256.Sum256(sent)
			var conns sync.WaitGroup
			for _, conn := range []*netstack.TCPConn{c, s} {
				conns.Go(func() {
					if _, err := io.Copy(conn, bytes.NewReader(sent)); err != nil {
						t.Errorf("write: %v", err)
					}
				})
				conns.Go(func() {
					h := sha256.New()
					if n, err := io.CopyN(h, conn, size); n != size || err != nil {
						t.Errorf("read %d bytes: %v", n, err)
					}
					if !bytes.Equal(h.Sum(nil), want[:]) {
						t.Error("the bytes that arrive are others")
					}
				})
			}
			conns.Wait()
			part()
			for name, w := range map[string]struct {
				wire *weather
				end  *netstack.Stack
			}{"there": {there, b}, "back": {back, a}} {
				if found := w.end.ChecksumErrors(); w.wire.damaged == 0 || found != w.wire.damaged {
					t.Errorf("%s: gVisor found %d damaged segments, there were %d", name, found, w.wire.damaged)
				}
				t.Logf("%s: %d segments, %d of them damaged", name, w.wire.data, w.wire.damaged)
			}
		})
	}
}
