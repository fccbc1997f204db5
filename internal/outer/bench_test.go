// SPDX-License-Identifier: MIT

package outer

import (
	"fmt"
	"runtime"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// BenchmarkThroughput sends batches over loopback and waits for each to arrive, by our sockets and by upstream's
// bind. B/s is what counts; run with -benchmem for allocations.
func BenchmarkThroughput(b *testing.B) {
	for _, count := range []int{1, 16, 45} {
		batch := datagrams(repeat(count, 1424)...)
		for i, d := range batch { // as the device's buffers, of which upstream uses the room
			batch[i] = append(make([]byte, 0, 1<<16), d...)
		}
		b.Run(fmt.Sprintf("outer/%d", count), func(b *testing.B) {
			s, r := openSystem(b, Config{}), openSystem(b, Config{})
			from, to := openBind(b, s.Bind()), openBind(b, r.Bind())
			benchmarkTransfer(b, from.bind, to, from.endpoint(b, "127.0.0.1", r.Port()), batch)
		})
		b.Run(fmt.Sprintf("portable/%d", count), func(b *testing.B) {
			s, r := openPortable(b, Config{}), openPortable(b, Config{})
			from, to := openBind(b, s.Bind()), openBind(b, r.Bind())
			benchmarkTransfer(b, from.bind, to, from.endpoint(b, "127.0.0.1", r.Port()), batch)
		})
		b.Run(fmt.Sprintf("upstream/%d", count), func(b *testing.B) {
			s, r := conn.NewStdNetBind(), conn.NewStdNetBind()
			if _, _, err := s.Open(0); err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			fns, port, err := r.Open(0)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			n := r.BatchSize()
			to := &opened{bind: r, receive: fns[0], sizes: make([]int, n), eps: make([]conn.Endpoint, n)}
			for range n {
				to.bufs = append(to.bufs, make([]byte, 1<<16))
			}
			benchmarkTransfer(b, s, to, (&opened{bind: s}).endpoint(b, "127.0.0.1", port), batch)
		})
	}
}

func benchmarkTransfer(b *testing.B, from conn.Bind, to *opened, endpoint conn.Endpoint, batch [][]byte) {
	b.SetBytes(int64(len(batch) * len(batch[0])))
	b.ReportAllocs()
	runtime.GC()
	for b.Loop() {
		if err := from.Send(batch, endpoint); err != nil {
			b.Fatal(err)
		}
		for got := 0; got < len(batch); {
			n, err := to.receive(to.bufs, to.sizes, to.eps)
			if err != nil {
				b.Fatal(err)
			}
			for _, size := range to.sizes[:n] {
				if size > 0 {
					got++
				}
			}
		}
	}
}
