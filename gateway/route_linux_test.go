// SPDX-License-Identifier: MIT

package gateway

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/wgnet/internal/netns"
)

// TestParseRoute: each kind of route is what it is to a flow, and an answer that is none is an error.
func TestParseRoute(t *testing.T) {
	answer := func(kind uint16, body ...byte) []byte {
		b := make([]byte, routeRequest)
		binary.NativeEndian.PutUint16(b[4:], kind)
		copy(b[syscall.SizeofNlMsghdr:], body)
		return b
	}
	route := func(rtn byte) []byte { return answer(syscall.RTM_NEWROUTE, 0, 0, 0, 0, 0, 0, 0, rtn) }
	refused := func(errno syscall.Errno) []byte {
		return answer(syscall.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))...)
	}
	for _, tc := range []struct {
		name           string
		answer         []byte
		special, never bool
		fails          bool
	}{
		{"a neighbor", route(syscall.RTN_UNICAST), false, false, false},
		{"local", route(syscall.RTN_LOCAL), true, false, false},
		{"anycast", route(syscall.RTN_ANYCAST), true, false, false},
		{"broadcast", route(syscall.RTN_BROADCAST), true, true, false},
		{"multicast", route(syscall.RTN_MULTICAST), true, true, false},
		{"a type that there is not", route(255), false, false, false},
		{"no route", refused(syscall.ENETUNREACH), false, false, false},
		{"unreachable", refused(syscall.EHOSTUNREACH), false, false, false},
		{"prohibit", refused(syscall.EACCES), false, false, false},
		{"blackhole", refused(syscall.EINVAL), false, false, false},
		{"the kernel cannot", refused(syscall.EOPNOTSUPP), false, false, true},
		{"an error of nothing", refused(0), false, false, true},
		{"the end of a list", answer(syscall.NLMSG_DONE), false, false, true},
		{"too short", route(syscall.RTN_LOCAL)[:routeRequest-1], false, false, true},
		{"nothing", nil, false, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := parseRoute(tc.answer)
			if (err != nil) != tc.fails || (k.what != "") != tc.special || k.never != tc.never {
				t.Errorf("%+v, %v", k, err)
			}
		})
	}
}

// TestOwnByRoute is faults 63 and 64: addresses are the host's own that only a route makes so, or that are younger than the
// list of them.
func TestOwnByRoute(t *testing.T) {
	ns := netns.New(t)
	ns.Run("ip", "-6", "route", "add", "local", "2001:db8:9::/64", "dev", "lo")
	ns.Run("ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo")
	ns.Run("ip", "addr", "add", "203.0.113.5/24", "dev", "lo")
	ns.Run("ip", "addr", "add", "203.0.113.6/24", "dev", "lo")
	l := ns.Listen("tcp", ":0")
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	_, outside, err := net.SplitHostPort(listenTCP(t, netip.AddrPortFrom(ns.Outside4, 0).String(), echoTCP).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	neighbor := netip.MustParseAddrPort(net.JoinHostPort(ns.Outside4.String(), outside))
	const never, special, ordinary = "never", "special", "ordinary"
	for _, tc := range []struct {
		name string
		dst  netip.AddrPort
		want string
	}{
		{"of a local route of IPv6", netip.AddrPortFrom(netip.MustParseAddr("2001:db8:9::7"), port), special},
		{"of a local route of IPv4", netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), port), special},
		{"the second of an interface", netip.AddrPortFrom(netip.MustParseAddr("203.0.113.6"), port), special},
		{"the only one of an interface", netip.AddrPortFrom(ns.Inside6, port), special},
		{"broadcast", netip.AddrPortFrom(ns.Inside4.Next(), port), never}, // of its /30
		{"a neighbor", neighbor, ordinary},
	} {
		for _, network := range []string{networkTCP, networkUDP, networkPing} {
			for rules, want := range map[string]bool{"allow from any": tc.want == ordinary, "allow to 0.0.0.0/0,::/0 special": tc.want != never} {
				t.Run(tc.name+", "+network+", "+rules, func(t *testing.T) {
					g := newGateway(t, Config{RawPing: true}, rules)
					g.own.interfaces = func() ([]net.Addr, error) { return nil, nil } // as one that is out of date
					f := newFlow(t, "laptop", network, tc.dst.String())
					ended := make(chan struct{})
					go func() { // ends with the gateway at the latest
						defer close(ended)
						_ = ns.Do(func() error { g.Serve(f); return nil })
					}()
					err := f.wait(t)
					if want && err != nil || !want && !errors.Is(err, syscall.EACCES) {
						t.Errorf("%v, want allowed: %v", err, want)
					}
					if err := g.Close(); err != nil {
						t.Error(err)
					}
					waitFor(t, "the flow's end", ended)
				})
			}
		}
	}
}
