// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// peakHeap measures the heap every few milliseconds until it is told to stop, which returns the most that it grew by.
func peakHeap() (stop func() int64) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	runtime.GC()
	runtime.GC() // what finalizers have held
	begin := heap()
	quit, result := make(chan struct{}), make(chan int64)
	go func() { // ended by stop
		peak := begin
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak = max(peak, heap())
			case <-quit:
				result <- peak - begin
				return
			}
		}
	}()
	return func() int64 {
		close(quit)
		return <-result
	}
}

// sniffed is a packet conn on which whoever listens in has seen the receiver index of the last data message sent.
type sniffed struct {
	*net.UDPConn
	index *atomic.Uint32
}

func (s sniffed) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if len(b) >= 32 && b[0] == 4 {
		s.index.Store(binary.LittleEndian.Uint32(b[4:]))
	}
	return s.UDPConn.WriteToUDPAddrPort(b, to)
}

// transferHashed sends size bytes from one Net to an address of another, and compares.
func transferHashed(tb testing.TB, from, to *wgnet.Net, host string, size int) {
	tb.Helper()
	l, port := listen(tb, to, ":0")
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data) // never fails
	sum := make(chan []byte, 1)
	go func() { // ends with the connection, or its listener
		h := sha256.New()
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(h, c) // a cut shows in the hash
			_ = c.Close()
		}
		sum <- h.Sum(nil)
	}()
	c, err := from.DialContext(testContext(tb), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := c.Close(); err != nil {
		tb.Fatal(err)
	}
	want := sha256.Sum256(data)
	select {
	case got := <-sum:
		if !bytes.Equal(got, want[:]) {
			tb.Errorf("%d bytes have arrived changed", size)
		}
	case <-time.After(60 * time.Second):
		tb.Fatalf("%d bytes have not arrived within a minute", size)
	}
}

// fault 70: a flood of messages that carry a receiver index seen on the wire. It does not fill the memory, and the peer
// whose index it is is still served.
func TestGarbageFlood(t *testing.T) {
	cfgA, cfgB := newConfig("10.0.0.1/24"), newConfig("10.0.0.2/24")
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), "", "10.0.0.1/32")
	b := newNet(t, cfgB)
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), localhost(b.ListenPort()), "10.0.0.2/32")
	var index atomic.Uint32
	cfgA.ListenPacket = func(_ context.Context, network, address string) (net.PacketConn, error) {
		pc, err := net.ListenPacket(network, address)
		if err != nil {
			return nil, err
		}
		return sniffed{pc.(*net.UDPConn), &index}, nil
	}
	a := newNet(t, cfgA)
	transferHashed(t, a, b, "10.0.0.2", 1<<20)
	if index.Load() == 0 {
		t.Fatal("no data message was seen")
	}

	stop := peakHeap()
	quit := make(chan struct{})
	var wg sync.WaitGroup
	var sent atomic.Int64
	for range 2 {
		attacker, err := net.Dial("udp4", localhost(b.ListenPort()))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { // ended by quit
			defer attacker.Close()
			message := make([]byte, 1400)
			message[0] = 4
			binary.LittleEndian.PutUint32(message[4:], index.Load())
			for n := uint64(1 << 40); ; n++ {
				select {
				case <-quit:
					return
				default:
				}
				binary.LittleEndian.PutUint64(message[8:], n)
				if _, err := attacker.Write(message); err == nil {
					sent.Add(1)
				}
			}
		})
	}
	ended := time.AfterFunc(time.Second, func() { close(quit) })
	defer ended.Stop()
	begin := time.Now()
	transferHashed(t, a, b, "10.0.0.2", 64<<10) // most of it is lost while the socket overflows, and sent again
	took := time.Since(begin)
	wg.Wait()
	grown := stop()
	t.Logf("%d messages of garbage, the heap grew by %d MiB, 64 honest KiB took %v", sent.Load(), grown>>20, took)
	if grown > 192<<20 {
		t.Errorf("the heap grew by %d MiB, want 192 at most", grown>>20)
	}
}
