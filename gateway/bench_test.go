// SPDX-License-Identifier: MIT

package gateway_test

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"example.com/wgnet/gateway"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// A mappedFlow is to another target than the peer meant: to one on the loopback, so that no network has a part in it.
type mappedFlow struct {
	*wgnet.Flow
	to netip.AddrPort
}

func (f mappedFlow) Destination() netip.AddrPort { return f.to }

// BenchmarkStream is one TCP connection through the tunnel, to the Net at its end and by a gateway to the host's loopback.
func BenchmarkStream(b *testing.B) {
	for _, through := range []string{"tunnel", "gateway"} {
		b.Run(through, func(b *testing.B) {
			n := wgnettest.NewUnstartedNetwork(b, wgnettest.Config{Names: []string{"laptop", "door"}})
			lan := netip.MustParsePrefix("192.168.1.0/24")
			n.Nodes[0].Config.Peers[0].AllowedIPs = append(n.Nodes[0].Config.Peers[0].AllowedIPs, lan)
			n.Start()
			laptop, door := n.Nodes[0].Net, n.Nodes[1].Net
			l, err := door.Listen("tcp", ":9")
			address := "door:9"
			if through == "gateway" {
				l.Close()
				l, err = net.Listen("tcp", "127.0.0.1:0")
				address = "192.168.1.123:9"
			}
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if through == "gateway" {
				rules, err := gateway.ParseRules("allow to 127.0.0.1 special")
				if err != nil {
					b.Fatal(err)
				}
				g, err := gateway.New(gateway.Config{Rules: rules})
				if err != nil {
					b.Fatal(err)
				}
				defer g.Close()
				to := l.Addr().(*net.TCPAddr).AddrPort()
				if err := door.HandleFlows(func(f *wgnet.Flow) { g.Serve(mappedFlow{f, to}) }); err != nil {
					b.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() { // ends when the client closes its connection
				conn, err := l.Accept()
				if err == nil {
					_, err = io.Copy(io.Discard, conn)
					conn.Close()
				}
				done <- err
			}()
			conn, err := laptop.Dial("tcp", address)
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
