// SPDX-License-Identifier: MIT

package wgnet

import (
	"runtime"
	"testing"
	"time"
)

// BenchmarkSubscriptions measures what a reader of events costs who has nothing to read, and one who reads nothing of more
// than there is room for.
func BenchmarkSubscriptions(b *testing.B) {
	const count = 200
	measure := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, c := range []struct {
		name   string
		events int
	}{{"idle", 0}, {"full", maxEvents + 50}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				var h eventHub
				before := measure()
				var all []*subscription
				for range count {
					all = append(all, h.subscribe())
				}
				for range c.events {
					h.publish(Event{Kind: PeerUp, Time: time.Now()})
				}
				b.ReportMetric(float64(measure()-before)/count, "B/each")
				runtime.KeepAlive(all)
				h.close()
			}
		})
	}
}
