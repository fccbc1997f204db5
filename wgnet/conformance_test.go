// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"example.com/wgnet/internal/nettests"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// textHost is a Net as a host of the conformance suite.
type textHost struct{ *wgnet.Net }

func (h textHost) Dial(ctx context.Context, laddr netip.AddrPort, network, address string) (net.Conn, error) {
	return (&wgnet.Dialer{Net: h.Net, LocalAddr: laddr}).DialContext(ctx, network, address)
}

// Faults 27 to 30, 32 to 35 and 39: between two Nets, and on one Net's loopback, what comes out is what comes out of package
// net on the host's loopback.
func TestConformance(t *testing.T) {
	nettests.Conformance(t, nettests.HostText, func(t *testing.T, v6 bool) []*nettests.World {
		a, b := wgnettest.Pair(t)
		addrA, addrB, loopback := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("127.0.0.1")
		if v6 {
			addrA, addrB, loopback = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), netip.IPv6Loopback()
		}
		return []*nettests.World{
			nettests.Text("two Nets", textHost{a}, addrA, textHost{b}, addrB),
			nettests.Text("a Net's loopback", textHost{a}, loopback, textHost{a}, loopback),
		}
	})
}

// The same for the suite of packet conns alone.
func TestPacketConn(t *testing.T) {
	for _, c := range []struct{ name, a, b string }{
		{"two Nets, IPv4", "10.0.0.1", "10.0.0.2"},
		{"two Nets, IPv6", "fd00::1", "fd00::2"},
		{"one Net", "", "10.0.0.2"},
		{"loopback", "", "::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a, b := wgnettest.Pair(t)
			if c.a == "" {
				a, c.a = b, c.b
			}
			nettests.PacketConn(t, func(t *testing.T) (net.PacketConn, net.PacketConn) {
				pa, _ := listenPacket(t, a, net.JoinHostPort(c.a, "0"))
				pb, _ := listenPacket(t, b, net.JoinHostPort(c.b, "0"))
				return pa, pb
			})
		})
	}
}
