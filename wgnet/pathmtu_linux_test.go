// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/wgnet/internal/netns"
)

// fault 47: the path takes less than our MTU needs, and the system knows. TCP goes on with packets that fit: nothing is
// fragmented any more, or lost if fragments are forbidden.
func TestPathMTU(t *testing.T) {
	tests := []struct {
		name      string
		outside   func(*netns.Namespace) (us, them netip.Addr)
		fragments string // the file and the counter of the fragments that came in
		control   func(network, address string, c syscall.RawConn) error
	}{
		{"IPv4", func(ns *netns.Namespace) (us, them netip.Addr) { return ns.Outside4, ns.Inside4 }, "/proc/net/snmp ReasmReqds", nil},
		{"IPv6", func(ns *netns.Namespace) (us, them netip.Addr) { return ns.Outside6, ns.Inside6 }, "/proc/net/snmp6 Ip6ReasmReqds", nil},
		{
			"no fragments", func(ns *netns.Namespace) (us, them netip.Addr) { return ns.Outside4, ns.Inside4 },
			"/proc/net/snmp ReasmReqds", dontFragment,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ns := netns.New(t, "cat")
			us, them := test.outside(ns)
			shrink(t, us, 1280)
			cfgA, cfgB := newConfig("10.0.0.1/24", "fd00::1/64"), newConfig("10.0.0.2/24", "fd00::2/64")
			cfgA.Control = test.control
			addPeer(cfgB, "a", cfgA.PrivateKey.Public(), "", "10.0.0.1/32", "fd00::1/128")
			cfgB.ListenPort = 51820
			cfgB.ListenPacket = func(_ context.Context, network, address string) (net.PacketConn, error) {
				return ns.ListenPacket(network, address), nil
			}
			b := newNet(t, cfgB)
			addPeer(cfgA, "b", b.PublicKey(), netip.AddrPortFrom(them, 51820).String(), "10.0.0.2/32", "fd00::2/128")
			a := newNet(t, cfgA)

			// The first connection lets the path be known, and itself goes on.
			transferHashed(t, a, b, "10.0.0.2", 1<<20)
			file, counter, _ := strings.Cut(test.fragments, " ")
			before := count(t, ns.Run("cat", file), counter)
			transferHashed(t, a, b, "10.0.0.2", 1<<20)
			transferHashed(t, a, b, "fd00::2", 1<<20)
			after := count(t, ns.Run("cat", file), counter)
			if test.control == nil && before == 0 {
				t.Error("nothing was fragmented: the path is not as small as it was to be")
			}
			if after != before {
				t.Errorf("%d fragments came when the path was known", after-before)
			}
		})
	}
}

// shrink sets the MTU of the interface that has an address.
func shrink(t *testing.T, addr netip.Addr, mtu int) {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, ifi := range interfaces {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // it has just gone, and is another test's
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
				if out, err := exec.Command("ip", "link", "set", "dev", ifi.Name, "mtu", strconv.Itoa(mtu)).CombinedOutput(); err != nil {
					t.Fatalf("set the MTU of %s: %v: %s", ifi.Name, err, out)
				}
				return
			}
		}
	}
	t.Fatalf("no interface has %s", addr)
}

// count finds a counter in the text of /proc/net/snmp, which has names above numbers, or snmp6, which has pairs.
func count(t *testing.T, text, counter string) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		for i, name := range names {
			if name == counter && len(fields) == len(names) && fields[0] == names[0] {
				n, err := strconv.Atoi(fields[i])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		if len(fields) == 2 && fields[0] == counter {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		names = fields
	}
	t.Fatalf("no counter %s in:\n%s", counter, text)
	return 0
}

// dontFragment forbids fragments of what a socket sends.
func dontFragment(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
	})
	if err != nil {
		return err
	}
	return set
}
