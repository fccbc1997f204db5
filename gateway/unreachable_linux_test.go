// SPDX-License-Identifier: MIT

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"example.com/wgnet/gateway"
	"example.com/wgnet/internal/netns"
	"example.com/wgnet/wgnet"
)

// TestUnreachable is fault 68 with real sockets: what a router behind the gateway says of a target, or of the way to it, the
// client's own socket says.
func TestUnreachable(t *testing.T) {
	host, router := netns.New(t), netns.New(t)
	host.Run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", router.Name)
	for ns, addrs := range map[*netns.Namespace][2]string{host: {"192.168.1.2", "fd01::2"}, router: {"192.168.1.1", "fd01::1"}} {
		ns.Run("ip", "link", "set", "lan0", "up")
		ns.Run("ip", "addr", "add", addrs[0]+"/24", "dev", "lan0")
		ns.Run("ip", "addr", "add", addrs[1]+"/64", "dev", "lan0", "nodad")
	}
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/"+setting, []byte("1"), 0) }); err != nil {
			t.Skipf("a namespace cannot forward here: %v", err)
		}
	}
	// As many ICMP errors as there are datagrams: by default one a second to a host (icmp(7)).
	for _, setting := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} {
		if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/"+setting, []byte("0"), 0) }); err != nil {
			t.Skipf("a namespace limits ICMP errors here: %v", err)
		}
	}
	host.Run("ip", "route", "add", "default", "via", "192.168.1.1")
	host.Run("ip", "route", "add", "default", "via", "fd01::1")

	client := netns.New(t)
	key, door := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	n, err := wgnet.New(&wgnet.Config{
		PrivateKey: door, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")},
		Peers: []wgnet.PeerConfig{{
			Name: "client", PublicKey: key.Public(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	client.WireGuard(fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = 10.0.0.1, fd00::1
[Peer]
PublicKey = %v
Endpoint = %v
AllowedIPs = 10.0.0.2, fd00::2, 203.0.112.0/20, 2001:db8::/32
`, key.Reveal(), door.Public(), netip.AddrPortFrom(client.Outside4, n.ListenPort())))
	rules, err := gateway.ParseRules("allow from client")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Config{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := n.HandleFlows(func(f *wgnet.Flow) {
		if err := host.Do(func() error { g.Serve(f); return nil }); err != nil { // sockets are made where it is called
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	unreachable := []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH}
	for _, tc := range []struct {
		name, dst string
		at        *netns.Namespace
		route     []string // which may be none
		want      []error
	}{
		{"unreachable by a router, IPv4", "203.0.113.1", router, []string{"unreachable", "203.0.113.0/24"}, unreachable},
		{"unreachable by a router, IPv6", "2001:db8:1::1", router, []string{"unreachable", "2001:db8:1::/48"}, unreachable},
		{"a router knows no way, IPv4", "203.0.114.1", router, nil, unreachable},
		{"a router knows no way, IPv6", "2001:db8:2::1", router, nil, unreachable},
		{"prohibited by a router, IPv4", "203.0.115.1", router, []string{"prohibit", "203.0.115.0/24"}, append(unreachable, syscall.EACCES)},
		{"prohibited by a router, IPv6", "2001:db8:3::1", router, []string{"prohibit", "2001:db8:3::/48"}, append(unreachable, syscall.EACCES)},
		{"unreachable from here, IPv4", "203.0.116.1", host, []string{"unreachable", "203.0.116.0/24"}, unreachable},
		{"unreachable from here, IPv6", "2001:db8:4::1", host, []string{"unreachable", "2001:db8:4::/48"}, unreachable},
	} {
		if tc.route != nil {
			tc.at.Run("ip", append([]string{"route", "add"}, tc.route...)...)
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // Linux may heed the error of a second SYN only, which takes a second
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			is := func(err error) bool {
				return slices.ContainsFunc(tc.want, func(want error) bool { return errors.Is(err, want) })
			}
			target := netip.AddrPortFrom(netip.MustParseAddr(tc.dst), 80).String()
			for _, network := range []string{"tcp", "udp"} {
				d := net.Dialer{Control: func(network, _ string, c syscall.RawConn) error {
					if network == "tcp4" || network == "tcp6" {
						return nil
					}
					return tellAll(c)
				}}
				err := client.Do(func() error {
					c, err := d.DialContext(ctx, network, target)
					if err != nil {
						return err
					}
					defer c.Close()
					return refusedUDP(c)
				})
				if !is(err) {
					t.Errorf("%s: %v, want one of %v", network, err, tc.want)
				}
			}
		})
	}
}

// tellAll has a UDP socket tell of each ICMP error, as programs do that want to know of more than closed ports (ip(7),
// IP_RECVERR).
func tellAll(c syscall.RawConn) error {
	var err4, err6 error
	err := c.Control(func(fd uintptr) {
		err4 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1)
		err6 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, 1)
	})
	if err4 != nil && err6 != nil { // a socket is of one family
		err = errors.Join(err, err4, err6)
	}
	return err
}
