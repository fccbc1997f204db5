// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/nettest"

	"example.com/wgnet/internal/nettests"
	"example.com/wgnet/netstack"
)

// must ends a test whose set-up fails.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func portOf(addr net.Addr) uint16 {
	return addr.(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
}

// What a pair of stacks does is what the host does.
func TestConformance(t *testing.T) {
	nettests.Conformance(t, nettests.HostValues, func(t *testing.T, v6 bool) []*nettests.World {
		client, server := addrA4, addrB4
		if v6 {
			client, server = addrA6, addrB6
		}
		a, b := newPair(t)
		return []*nettests.World{{
			Name: "the stack", Client: client, Server: server,
			DialTCP: func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (nettests.TCPConn, error) {
				return a.DialTCP(ctx, network, laddr, raddr)
			},
			ListenTCP: func(network string, laddr netip.AddrPort) (nettests.TCPListener, error) {
				return b.ListenTCP(network, laddr)
			},
			DialUDP: func(network string, laddr, raddr netip.AddrPort) (nettests.UDPConn, error) {
				return a.DialUDP(context.Background(), network, laddr, raddr)
			},
			ListenUDP: func(network string, laddr netip.AddrPort) (nettests.UDPConn, error) {
				return b.ListenUDP(network, laddr)
			},
			ClientUDP: func(network string, laddr netip.AddrPort) (nettests.UDPConn, error) {
				return a.ListenUDP(network, laddr)
			},
		}}
	})
}

func TestPacketConn(t *testing.T) {
	makers := []struct {
		name string
		make func(t *testing.T) (a, b net.PacketConn)
	}{
		{"host", func(t *testing.T) (a, b net.PacketConn) {
			a, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Skip(err)
			}
			return a, must[net.PacketConn](t)(net.ListenPacket("udp", "127.0.0.1:0"))
		}},
		{"pair, IPv4", func(t *testing.T) (a, b net.PacketConn) {
			sa, sb := newPair(t)
			return listenAt(t, sa, addrA4), listenAt(t, sb, addrB4)
		}},
		{"pair, IPv6", func(t *testing.T) (a, b net.PacketConn) {
			sa, sb := newPair(t)
			return listenAt(t, sa, addrA6), listenAt(t, sb, addrB6)
		}},
		{"one stack", func(t *testing.T) (a, b net.PacketConn) {
			s, _ := newPair(t)
			return listenAt(t, s, addrA4), listenAt(t, s, addrA4)
		}},
		{"loopback", func(t *testing.T) (a, b net.PacketConn) {
			s, _ := newPair(t)
			return listenAt(t, s, netip.IPv6Loopback()), listenAt(t, s, netip.IPv6Loopback())
		}},
	}
	for _, maker := range makers {
		t.Run(maker.name, func(t *testing.T) {
			t.Parallel()
			nettests.PacketConn(t, maker.make)
		})
	}
}

// The net package's own test of a net.Conn, across two stacks.
func TestTCPConnIsANetConn(t *testing.T) {
	for _, addr := range []netip.Addr{addrB4, addrB6} {
		t.Run(addr.String(), func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				d, acc := tcpPair(t, a, b, addr)
				return d, acc, func() { d.Close(); acc.Close() }, nil
			})
		})
	}
}

// And on the stack's own loopback.
func TestLoopbackConnIsANetConn(t *testing.T) {
	t.Parallel()
	a := newStack(t, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrA4, 24)}})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d, acc := tcpPair(t, a, a, netip.MustParseAddr("127.0.0.1"))
		return d, acc, func() { d.Close(); acc.Close() }, nil
	})
}
