// SPDX-License-Identifier: MIT

package memnet

import (
	"net/netip"
	"testing"
	"time"
)

// A datagram of WireGuard at MTU 1,420 has 1,424 bytes outside, and the devices take 16 at once.
const (
	benchBatch = 16
	benchSize  = 1424
)

// benchmark moves b.N batches from A to B and reads them.
func benchmark(b *testing.B, w Link, read bool) {
	n, from, to := couple(b, Options{}, w)
	bufs := make([][]byte, benchBatch)
	for i := range bufs {
		bufs[i] = make([]byte, benchSize)
	}
	sizes, addrs := make([]int, benchBatch), make([]netip.AddrPort, benchBatch)
	dst := addrPort(to)
	b.SetBytes(benchBatch * benchSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := from.WriteBatch(bufs, dst); err != nil {
			b.Fatal(err)
		}
		for got := 0; read && got < benchBatch; {
			m, err := to.ReadBatch(bufs, sizes, addrs)
			if err != nil {
				b.Fatal(err)
			}
			got += m
		}
	}
	b.ReportMetric(float64(n.Stats(addrA, addrB).Delivered)*benchSize*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
}

// BenchmarkBatch is the fast path on one core: write 16 datagrams, read 16.
func BenchmarkBatch(b *testing.B) { benchmark(b, Link{}, true) }

// BenchmarkBatchWeather draws fates.
func BenchmarkBatchWeather(b *testing.B) {
	benchmark(b, Link{Duplicate: 1e-9, Corrupt: 1e-9, MTU: 1500, Bandwidth: 1 << 60}, true)
}

// BenchmarkSingle is one datagram a call.
func BenchmarkSingle(b *testing.B) {
	_, from, to := couple(b, Options{}, Link{})
	buf := make([]byte, benchSize)
	dst := addrPort(to)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := from.WriteToUDPAddrPort(buf, dst); err != nil {
			b.Fatal(err)
		}
		if _, _, err := to.ReadFromUDPAddrPort(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPingPong hands one datagram from goroutine to goroutine and back.
func BenchmarkPingPong(b *testing.B) {
	_, from, to := couple(b, Options{}, Link{})
	done := make(chan struct{})
	go func() { // ends when to is closed
		defer close(done)
		buf := make([]byte, benchSize)
		for {
			n, src, err := to.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := to.WriteToUDPAddrPort(buf[:n], src); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64)
	dst := addrPort(to)
	for b.Loop() {
		if _, err := from.WriteToUDPAddrPort(buf, dst); err != nil {
			b.Fatal(err)
		}
		if _, _, err := from.ReadFromUDPAddrPort(buf); err != nil {
			b.Fatal(err)
		}
	}
	to.Close()
	<-done
}

// BenchmarkStream has a writer and a reader on two cores, and a bound on what is between them as TCP's window is.
func BenchmarkStream(b *testing.B) {
	for _, tc := range []struct {
		name string
		w    Link
	}{{"perfect", Link{}}, {"latency=1ms", Link{Latency: time.Millisecond}}} {
		b.Run(tc.name, func(b *testing.B) { stream(b, tc.w) })
	}
}

func stream(b *testing.B, w Link) {
	_, from, to := couple(b, Options{}, w)
	window := make(chan struct{}, 128) // batches under way
	done := make(chan struct{})
	go func() { // ends when to is closed
		defer close(done)
		bufs := make([][]byte, benchBatch)
		for i := range bufs {
			bufs[i] = make([]byte, benchSize)
		}
		sizes, addrs := make([]int, benchBatch), make([]netip.AddrPort, benchBatch)
		for got := 0; ; {
			m, err := to.ReadBatch(bufs, sizes, addrs)
			if err != nil {
				return
			}
			for got += m; got >= benchBatch; got -= benchBatch {
				<-window
			}
		}
	}()
	bufs := make([][]byte, benchBatch)
	for i := range bufs {
		bufs[i] = make([]byte, benchSize)
	}
	dst := addrPort(to)
	b.SetBytes(benchBatch * benchSize)
	b.ReportAllocs()
	for b.Loop() {
		window <- struct{}{}
		if _, err := from.WriteBatch(bufs, dst); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if d := to.Dropped(); d > 0 {
		b.Errorf("%d dropped", d)
	}
	to.Close()
	<-done
}
