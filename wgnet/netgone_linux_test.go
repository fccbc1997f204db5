// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// fault 23: the link of a machine goes down under a connection, and with it addresses and routes. It comes back, perhaps
// with another address, and the connection goes on.
func TestLinkGoesDown(t *testing.T) {
	for _, c := range []struct {
		name string
		six  bool
	}{
		{"IPv4", false},
		{"IPv6, and comes back with another address", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := netns.New(t)
			inside, outside := ns.Inside4, ns.Outside4
			if c.six {
				inside, outside = ns.Inside6, ns.Outside6
			}
			link := strings.TrimSpace(strings.Fields(ns.Run("ip", "-o", "addr", "show", "to", inside.String()))[1])
			up := testpeer.New(t, testpeer.Options{})
			cfg := newConfig("10.0.0.1/24", "fd00::1/64")
			if err := befriend(cfg, up); err != nil {
				t.Fatal(err)
			}
			cfg.Peers[0].Endpoint = net.JoinHostPort(outside.String(), strconv.Itoa(int(up.Port())))
			var n *wgnet.Net
			if err := ns.Do(func() (err error) { n, err = wgnet.New(cfg); return err }); err != nil {
				t.Fatal(err)
			}
			defer closeNet(t, n)
			l, err := up.Listen(":7")
			if err != nil {
				t.Fatal(err)
			}
			serveEcho(t, l)
			conn, err := n.DialContext(testContext(t), "tcp", "up:7")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := roundTrip(conn); err != nil {
				t.Fatal(err)
			}

			ns.Run("ip", "link", "set", link, "down")
			echoed := make(chan error, 1)
			go func() { echoed <- roundTripIn(testContext(t), conn) }() // its context ends it
			waitFor(t, "the status to say so", func() bool {
				return strings.HasSuffix(n.Status().Peers[0].Text, ": network is unreachable")
			})
			ns.Run("ip", "link", "set", link, "up")
			if c.six {
				// Its addresses have gone with the link.
				ns.Run("ip", "addr", "add", inside.Next().String()+"/64", "dev", link, "nodad")
			}
			begin := time.Now()
			if err := <-echoed; err != nil {
				t.Error(err)
			}
			t.Logf("traffic %v after the link is back", time.Since(begin))
			if text := n.Status().Peers[0].Text; !strings.HasPrefix(text, "the tunnel to peer up is up") || strings.Contains(text, "unreachable") {
				t.Errorf("got %q", text)
			}
		})
	}
}
