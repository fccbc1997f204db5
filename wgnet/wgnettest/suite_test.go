// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"

	"example.com/wgnet/wgnet/wgnettest"
)

// The suite that golang.org/x/net has for a net.Conn, for TCP across a tunnel and on a Net's own loopback. It gives each of
// its tests a minute. The loss is that of one direction: of the thousand messages that PingPong sends one after the other,
// each that is lost takes 200 ms.
func TestNetConn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, address string
		link          wgnettest.Link
		toSelf        bool
	}{
		{name: "IPv4", address: "10.0.0.2"},
		{name: "IPv6", address: "fd00::2"},
		{name: "fault 37: loopback", address: "127.0.0.1", toSelf: true},
		{name: "fault 49: 5 % loss", address: "10.0.0.2", link: wgnettest.Link{Loss: 0.05}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
			a, b := n.Nodes[0], n.Nodes[1]
			if c.toSelf {
				a = b
			}
			n.SetLink(n.Nodes[0], n.Nodes[1], c.link)
			l := listen(t, b.Net, net.JoinHostPort(c.address, "0"))
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1 = dial(t, a.Net, "tcp", l.Addr().String())
				if c2, err = l.Accept(); err != nil {
					return nil, nil, nil, err
				}
				return c1, c2, func() {
					_ = c1.Close() // the test may have closed them
					_ = c2.Close()
				}, nil
			})
			if s := n.Stats(n.Nodes[0], n.Nodes[1]); c.link.Loss > 0 && s.Lost == 0 {
				t.Errorf("nothing was lost: %+v", s)
			}
		})
	}
}
