// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkFlood is faults 65 to 67 at the scale that is asked for, with -benchtime 1000000x: one peer begins flow after
// flow, to UDP ports or to a black hole, as many at a time as the tunnel lets one peer have undecided. Meanwhile another
// peer makes TCP connections, and it is measured how long those take.
func BenchmarkFlood(b *testing.B) {
	for _, network := range []string{networkUDP, networkTCP} {
		b.Run(network, func(b *testing.B) {
			rules, err := ParseRules(local)
			if err != nil {
				b.Fatal(err)
			}
			g, err := New(Config{Rules: rules})
			if err != nil {
				b.Fatal(err)
			}
			l := listenTCP(b, "127.0.0.1:0", echoTCP)
			target := listenUDP(b, "127.0.0.1:0", func(*net.UDPConn, []byte, netip.AddrPort) {}).LocalAddr().String()
			if network == networkTCP {
				target = blackHole(b)
			}
			done := make(chan struct{})
			waits := make(chan []time.Duration)
			go func() { // ends with done
				var all []time.Duration
				for {
					select {
					case <-done:
						waits <- all
						return
					case <-time.After(time.Millisecond):
					}
					begin := time.Now()
					f := newFlow(b, "modest", "tcp", l.Addr().String())
					serve(g, f)
					f.accepted(b).Close()
					all = append(all, time.Since(begin))
				}
			}()
			before, most := inUse(), uint64(0)
			undecided := make(chan struct{}, 512)
			for i := 0; b.Loop(); i++ {
				ctx, cancel := context.WithCancel(context.Background())
				f := newFlow(nil, "greedy", network, target)
				f.ctx = ctx
				f.pair = func() (inside, client net.Conn, err error) {
					a, c := net.Pipe()
					return &silentConn{Conn: a, closed: make(chan struct{})}, c, nil
				}
				undecided <- struct{}{}
				go func() { // ends with the gateway at the latest
					g.Serve(f)
					cancel()
				}()
				go func() { // ends with the flow's answer
					<-f.answered
					<-undecided
				}()
				if i%100_000 == 0 {
					most = max(most, inUse())
				}
			}
			most = max(most, inUse())
			close(done)
			all := <-waits
			if err := g.Close(); err != nil {
				b.Error(err)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "us-p50")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "us-p99")
			b.ReportMetric(float64(most-min(most, before))/1e6, "MB-more")
			b.ReportMetric(float64(inUse()-min(inUse(), before))/1e6, "MB-left")
		})
	}
}

// A silentConn is a flow's connection to which nothing comes. As the tunnel's, it needs no buffer to wait.
type silentConn struct {
	net.Conn
	once   sync.Once // closes closed
	closed chan struct{}
}

func (c *silentConn) WriteTo(io.Writer) (int64, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *silentConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
