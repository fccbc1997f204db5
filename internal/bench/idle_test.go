// SPDX-License-Identifier: MIT

package main

import (
	"io"
	"runtime"
	"testing"
)

// BenchmarkIdleNets measures round trips between two Nets while 1,000 more are idle in the process, in pairs, and
// what those cost.
func BenchmarkIdleNets(b *testing.B) {
	const idle = 1000
	heap, memory, goroutines := heapAlloc(), resident(), runtime.NumGoroutine()
	for range idle / 2 {
		openForBenchmark(b)
	}
	heap, memory, goroutines = heapAlloc()-heap, resident()-memory, runtime.NumGoroutine()-goroutines

	p := openForBenchmark(b)
	e, err := newEcho(p)
	if err != nil {
		b.Fatal(err)
	}
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := e.conn.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(e.conn, one); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(heap)/idle, "heap-B/net")
	b.ReportMetric(float64(memory)/idle, "resident-B/net")
	b.ReportMetric(float64(goroutines)/idle, "goroutines/net")
	if err := e.close(); err != nil {
		b.Error(err)
	}
}

func openForBenchmark(b *testing.B) *pair {
	b.Helper()
	p, err := newWgnet()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := p.close(); err != nil {
			b.Error(err)
		}
	})
	return p
}
