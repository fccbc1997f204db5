// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"example.com/wgnet/netstack"
)

// BenchmarkMemory measures what of each kind there may be many of costs while it is idle: bytes for each, of the heap and
// of stacks.
func BenchmarkMemory(b *testing.B) {
	const count = 2000
	at := netip.AddrPortFrom(addrB4, 80)
	dial := func(b *testing.B, s *netstack.Stack) *netstack.TCPConn {
		return must[*netstack.TCPConn](b)(s.DialTCP(context.Background(), "tcp", netip.AddrPort{}, at))
	}
	// per reports how much more there is than before, and keeps what is listed until then.
	per := func(b *testing.B, before int64, n int, kept any) {
		b.ReportMetric(float64(memory()-before)/float64(n), "B/each")
		b.ReportMetric(0, "ns/op")
		if kept == nil {
			b.Fatal("nothing was measured")
		}
	}
	// One is between two stacks of this process, so half of it is at each end.
	b.Run("connection, both ends", func(b *testing.B) {
		for b.Loop() {
			x, y := newPair(b)
			l := must[*netstack.TCPListener](b)(y.ListenTCP("tcp", at))
			dial(b, x).Close() // fills pools
			before := memory()
			var conns []net.Conn
			for range count {
				conns = append(conns, dial(b, x), must[*netstack.TCPConn](b)(l.AcceptTCP()))
			}
			per(b, before, count, conns)
			for _, c := range conns {
				c.Close()
			}
			l.Close()
		}
	})
	b.Run("TCP flow, accepted, and its dialer's end", func(b *testing.B) {
		for b.Loop() {
			x, y := newPair(b)
			accepted := make(chan net.Conn, count)
			err := y.HandleFlows(func(f *netstack.Flow) {
				if c, err := f.Accept(); err != nil {
					b.Error(err)
				} else {
					accepted <- c
				}
			})
			if err != nil {
				b.Fatal(err)
			}
			before := memory()
			var conns []net.Conn
			for range count {
				c := must[*netstack.TCPConn](b)(x.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrLAN4, 80)))
				conns = append(conns, c, <-accepted)
			}
			per(b, before, count, conns)
			for _, c := range conns {
				c.Close()
			}
		}
	})
	b.Run("TIME_WAIT", func(b *testing.B) {
		for b.Loop() {
			x, y := newPair(b)
			manyConnections(b, x, y, 100)
			lingering, before := x.TimeWait(), memory()
			manyConnections(b, x, y, count)
			if !eventually(func() bool { return y.Endpoints() == 0 }) {
				b.Fatalf("%d are left at the other end", y.Endpoints())
			}
			per(b, before, x.TimeWait()-lingering, x) // some ports may have been taken again
		}
	})
	b.Run("UDP conn", func(b *testing.B) {
		for b.Loop() {
			s := newStack(b, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
			before := memory()
			var conns []net.PacketConn
			for range count {
				conns = append(conns, must[*netstack.UDPConn](b)(s.ListenUDP("udp", netip.AddrPortFrom(addrA4, 0))))
			}
			per(b, before, count, conns)
			for _, c := range conns {
				c.Close()
			}
		}
	})
	// The handler's goroutine, which may end with its decision, is one of them here as long as the flow.
	for _, kind := range []string{"undecided", "forwarded", "accepted"} {
		b.Run("UDP flow, "+kind, func(b *testing.B) {
			for b.Loop() {
				flows, handler := flowsOf()
				s, w := newTransit(b, handler)
				s.SetFlowLimits(4*count, 4*count, 4*count, 4*count, 8)
				before := memory()
				var kept []any
				for i := range uint16(count) {
					w.send(rawUDP(addrB4, addrC4, 1000+i, 53, nil))
					f := <-flows
					kept = append(kept, f)
					switch kind {
					case "forwarded":
						if err := f.Forward(); err != nil {
							b.Fatal(err)
						}
					case "accepted":
						kept = append(kept, must[net.Conn](b)(f.Accept()))
					}
				}
				if stats, _ := s.FlowStats(); stats.Open+stats.Undecided != count {
					b.Fatalf("%+v, want %d", stats, count)
				}
				per(b, before, count, kept)
			}
		})
	}
}

// memory is what is in use, of the heap and of stacks.
func memory() int64 {
	used := heap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used + int64(m.StackInuse)
}
