// SPDX-License-Identifier: MIT

package interop

import (
	"net"
	"testing"
)

// TestHello is scene 1: hello, WireGuard. Either side starts, or both do; IPv4 and IPv6 inside and outside.
func TestHello(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		for _, outside := range []string{"IPv4", "IPv6"} {
			for _, starts := range []string{"we", "they", "both"} {
				t.Run(outside+" outside/"+starts+" start", func(t *testing.T) {
					s := newScene(t, setting{them: kind, ipv6: outside == "IPv6", starts: starts})
					testHello(t, s.peer1, s.peer2, s.addrs2)
					testHello(t, s.peer2, s.peer1, s.addrs1)
					if s.ns == nil {
						return
					}
					ourAddrs := s.addrs1
					if starts == "they" {
						ourAddrs = s.addrs2 // curl http://10.0.0.2:9090, as in the scene
					}
					for _, addr := range ourAddrs {
						url := "http://" + net.JoinHostPort(addr, httpPort)
						if out := s.ns.Run("curl", "-sS", "-g", "--max-time", "20", url); out != hello {
							t.Errorf("curl %s printed %q", url, out)
						}
					}
				})
			}
		}
	})
}

// testHello has one side fetch the page of the other, ping it and exchange datagrams with it.
func testHello(t *testing.T, from, to side, addrs []string) {
	t.Helper()
	ctx := testContext(t)
	for _, addr := range addrs {
		if err := getHello(ctx, from, addr); err != nil {
			t.Errorf("%T to %T: %v", from, to, err)
		}
		rtt, err := from.ping(ctx, addr)
		if err != nil {
			t.Errorf("%T to %T: %v", from, to, err)
		} else if rtt <= 0 {
			t.Errorf("%T to %T: ping %s took %v", from, to, addr, rtt)
		}
		c, err := from.dial(ctx, "udp", net.JoinHostPort(addr, echoPort))
		if err != nil {
			t.Errorf("%T to %T: %v", from, to, err)
			continue
		}
		// The MTU less the headers, one byte more, and as much as there can be.
		sizes := []int{1, 1200, 1392, 1393, 9000, 65507}
		if net.ParseIP(addr).To4() == nil {
			sizes = []int{1, 1200, 1372, 1373, 9000, 65527}
		}
		for _, size := range sizes {
			if err := echoDatagram(c, size); err != nil {
				t.Errorf("%T to %T: UDP with %s: %v", from, to, addr, err)
			}
		}
		c.Close()
	}
}

// TestWarnings: the lines of a scene's file that are not for us are reported and nothing else.
func TestWarnings(t *testing.T) {
	s := newScene(t, setting{them: "wgnet", starts: "we"})
	var keys []string
	for _, w := range s.us.cfg.Warnings() {
		keys = append(keys, w.Key)
	}
	if len(keys) != 2 || keys[0] != "PostUp" || keys[1] != "PostDown" {
		t.Errorf("warnings about %q, want PostUp and PostDown: %v", keys, s.us.cfg.Warnings())
	}
}
