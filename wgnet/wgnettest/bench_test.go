// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// BenchmarkPair is from nothing to the first HTTP answer, with what it takes to make and to close a pair.
func BenchmarkPair(b *testing.B) {
	var answered, made time.Duration
	for b.Loop() {
		tb := &scope{TB: b}
		start := time.Now()
		client, server := wgnettest.Pair(tb)
		made += time.Since(start)
		l := listen(tb, server, ":80")
		serveHTTP(tb, l)
		get(tb, client, "http://b/")
		answered += time.Since(start)
		tb.must()
	}
	b.ReportMetric(float64(made.Microseconds())/float64(b.N)/1e3, "ms-to-sessions")
	b.ReportMetric(float64(answered.Microseconds())/float64(b.N)/1e3, "ms-to-answer")
}

// BenchmarkMesh brings up a full mesh of 50, and sends one echo across each of its 1,225 links.
func BenchmarkMesh(b *testing.B) {
	const nodes = 50
	var up, echoed time.Duration
	for b.Loop() {
		tb := &scope{TB: b}
		start := time.Now()
		n := wgnettest.NewNetwork(tb, wgnettest.Config{Nodes: nodes})
		up += time.Since(start)
		var pings sync.WaitGroup
		for i, node := range n.Nodes {
			pings.Go(func() { // ends with its last answer
				for _, peer := range n.Nodes[:i] {
					if _, err := node.Net.Ping(b.Context(), peer.Addr().String()); err != nil {
						b.Error(err)
					}
				}
			})
		}
		pings.Wait()
		echoed += time.Since(start)
		tb.must()
	}
	b.ReportMetric(up.Seconds()*1e3/float64(b.N), "ms-to-sessions")
	b.ReportMetric(echoed.Seconds()*1e3/float64(b.N), "ms-to-echoes")
}

// BenchmarkIdle is the cost of 1,000 Nets in one process: by themselves, and as a star, where each link adds a peer with
// a session at both of its ends.
func BenchmarkIdle(b *testing.B) {
	const nodes = 1000
	for _, topology := range []string{"alone", "star"} {
		b.Run(topology, func(b *testing.B) {
			var up, down time.Duration
			var heap, resident, goroutines float64
			for b.Loop() {
				before := measure()
				tb := &scope{TB: b}
				start := time.Now()
				n := wgnettest.NewUnstartedNetwork(tb, wgnettest.Config{Nodes: nodes, Topology: wgnettest.Star})
				if topology == "alone" {
					for _, node := range n.Nodes {
						node.Config.Peers = nil
					}
				}
				n.Start()
				up += time.Since(start)
				after := measure()
				heap += float64(after.HeapAlloc) - float64(before.HeapAlloc)
				resident += float64(after.Sys-after.HeapReleased) - float64(before.Sys-before.HeapReleased)
				goroutines += float64(after.goroutines - before.goroutines)
				start = time.Now()
				tb.must()
				down += time.Since(start)
			}
			per := float64(b.N) * nodes
			b.ReportMetric(up.Seconds()*1e3/per, "ms-up/Net")
			b.ReportMetric(down.Seconds()*1e3/per, "ms-down/Net")
			b.ReportMetric(heap/per/1e3, "kB-heap/Net")
			b.ReportMetric(resident/per/1e3, "kB-mapped/Net")
			b.ReportMetric(goroutines/per, "goroutines/Net")
		})
	}
}

type measured struct {
	runtime.MemStats
	goroutines int
}

func measure() (m measured) {
	for range 4 { // finalizers and pools
		runtime.GC()
	}
	runtime.ReadMemStats(&m.MemStats)
	m.goroutines = runtime.NumGoroutine()
	return m
}

// BenchmarkStream is one TCP connection, over the network in memory and over UDP on the loopback interface.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct {
		name string
		pair func(*testing.B) (client, server *wgnet.Net)
	}{
		{"memory", func(b *testing.B) (client, server *wgnet.Net) { return wgnettest.Pair(b) }},
		{"udp", loopbackPair},
	} {
		b.Run(c.name, func(b *testing.B) {
			client, server := c.pair(b)
			l := listen(b, server, ":80")
			done := make(chan error, 1)
			go func() { // ends when the client closes its connection
				conn, err := l.Accept()
				if err == nil {
					_, err = io.Copy(io.Discard, conn)
					conn.Close()
				}
				done <- err
			}()
			conn, err := client.Dial("tcp", "b:80")
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 1<<20)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := conn.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			conn.Close()
			if err := <-done; err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64(b.N)*float64(len(buf))*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
		})
	}
}

// loopbackPair is a pair over the UDP sockets of the machine.
func loopbackPair(b *testing.B) (client, server *wgnet.Net) {
	n := wgnettest.NewUnstartedNetwork(b, wgnettest.Config{Names: []string{"a", "b"}})
	cfgs := []*wgnet.Config{n.Nodes[0].Config, n.Nodes[1].Config}
	var nets []*wgnet.Net
	for i := range cfgs {
		cfg := cfgs[1-i].Clone() // the server comes first
		cfg.ListenPacket, cfg.ListenPort = nil, 0
		cfg.Peers[0].Endpoint = ""
		if i == 1 {
			cfg.Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", nets[0].ListenPort())
		}
		one, err := wgnet.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { one.Close() })
		nets = append(nets, one)
	}
	return nets[1], nets[0]
}
