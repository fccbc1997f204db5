// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"io"
	"net"
	"testing"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// BenchmarkFlows compares one TCP stream to the Net itself with one that its handler accepts for another address, and with
// one that it forwards to another peer, which has a tunnel more to go through.
func BenchmarkFlows(b *testing.B) {
	for _, name := range []string{"own", "accepted", "forwarded"} {
		b.Run(name, func(b *testing.B) {
			n := wgnettest.NewUnstartedNetwork(b, wgnettest.Config{Names: []string{"hub", "client", "server"}, Topology: wgnettest.Star})
			for _, spoke := range n.Nodes[1:] {
				spoke.Config.Peers[0].AllowedIPs = prefixes("0.0.0.0/0", "::/0")
			}
			n.Start()
			hub, client, server := n.Nodes[0].Net, n.Nodes[1].Net, n.Nodes[2].Net
			conns := make(chan net.Conn, 1)
			target := "192.168.1.1:80"
			switch name {
			case "own", "forwarded":
				at := hub
				target = "10.0.0.1:80"
				if name == "forwarded" {
					at, target = server, "10.0.0.3:80"
				}
				l, err := at.Listen("tcp", ":80")
				if err != nil {
					b.Fatal(err)
				}
				defer l.Close()
				go func() { // ends with l at the latest
					if c, err := l.Accept(); err == nil {
						conns <- c
					}
				}()
			}
			err := hub.HandleFlows(func(f *wgnet.Flow) {
				if name == "forwarded" {
					if err := f.Forward(); err != nil {
						b.Error(err)
					}
					return
				}
				c, err := f.Accept()
				if err != nil {
					b.Error(err)
					return
				}
				conns <- c
			})
			if err != nil {
				b.Fatal(err)
			}
			out, err := client.DialContext(testContext(b), "tcp", target)
			if err != nil {
				b.Fatal(err)
			}
			in := <-conns
			data := make([]byte, 1<<20)
			b.SetBytes(int64(len(data)))
			sent := make(chan error, 1)
			b.ResetTimer()
			go func() { // ends when all is read
				for range b.N {
					if _, err := out.Write(data); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			if _, err := io.CopyN(io.Discard, in, int64(b.N)*int64(len(data))); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := <-sent; err != nil {
				b.Fatal(err)
			}
			out.Close()
			in.Close()
			if err := hub.HandleFlows(nil); err != nil {
				b.Fatal(err)
			}
		})
	}
}
