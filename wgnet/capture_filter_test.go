// SPDX-License-Identifier: MIT

package wgnet

import (
	"testing"
)

// ip4 is an IPv4 header without addresses, and what follows it.
func ip4(protocol byte, offset uint16, payload ...byte) []byte {
	b := make([]byte, 20)
	b[0], b[6], b[7], b[9] = 0x45, byte(offset>>8), byte(offset), protocol
	return append(b, payload...)
}

func ip6(next byte, payload ...byte) []byte {
	b := make([]byte, 40)
	b[0], b[6] = 0x60, next
	return append(b, payload...)
}

// Both ports of these are there, and nothing else of the transport's header.
var port80, port53 = []byte{0x30, 0, 0, 80}, []byte{0, 53, 0x30, 0}

func TestCaptureFilter(t *testing.T) {
	options := func(next byte, payload ...byte) []byte { return append([]byte{next, 1, 15: 0}, payload...) }
	fragment := func(next byte, offset byte, payload ...byte) []byte {
		return append([]byte{next, 0, 0, offset, 0, 0, 0, 9}, payload...)
	}
	withOptions := ip4(6, 0, append(make([]byte, 4), port80...)...)
	withOptions[0] = 0x46
	lying := ip4(6, 0, port80...)
	lying[0] = 0x4f
	for _, c := range []struct {
		name   string
		packet []byte
		// which of the filters match
		tcp, udp, icmp, port80, udp53 bool
	}{
		{"TCP", ip4(6, 0, port80...), true, false, false, true, false},
		{"UDP", ip4(17, 0, port53...), false, true, false, false, true},
		{"TCP to another port", ip4(6, 0, port53...), true, false, false, false, false},
		{"UDP to another port", ip4(17, 0, port80...), false, true, false, true, false},
		{"ICMP", ip4(1, 0, port80...), false, false, true, false, false},
		{"another protocol", ip4(47, 0, port80...), false, false, false, false, false},
		{"IPv4 with options", withOptions, true, false, false, true, false},
		{"IPv4 with a header that does not fit", lying, false, false, false, false, false},
		{"the first fragment", ip4(17, 0x2000, port53...), false, true, false, false, true},
		{"a later fragment", ip4(17, 0x2001, port53...), false, true, false, false, false},
		{"TCP over IPv6", ip6(6, port80...), true, false, false, true, false},
		{"ICMPv6", ip6(58, port80...), false, false, true, false, false},
		{"extension headers", ip6(0, options(60, options(43, options(17, port53...)...)...)...), false, true, false, false, true},
		{"the first fragment over IPv6", ip6(44, fragment(17, 1, port53...)...), false, true, false, false, true},
		{"a later fragment over IPv6", ip6(44, fragment(17, 8, port53...)...), false, true, false, false, false},
		{"an extension header that does not fit", ip6(0, 6, 9, 0, 0, 0, 0, 0, 0), false, false, false, false, false},
		{"a cut extension header", ip6(0, 6, 0), false, false, false, false, false},
		{"a cut fragment header", ip6(44, 6, 0), false, false, false, false, false},
		{"no ports", ip4(6, 0, 0, 80, 0), true, false, false, false, false},
		{"a cut header", ip4(6, 0)[:19], false, false, false, false, false},
		{"another version", []byte{0x70}, false, false, false, false, false},
		{"nothing", nil, false, false, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range []struct {
				opts CaptureOptions
				want bool
			}{
				{CaptureOptions{}, true},
				{CaptureOptions{Protocol: "tcp"}, c.tcp},
				{CaptureOptions{Protocol: "udp"}, c.udp},
				{CaptureOptions{Protocol: "icmp"}, c.icmp},
				{CaptureOptions{Port: 80}, c.port80},
				{CaptureOptions{Protocol: "udp", Port: 53}, c.udp53},
			} {
				filter, err := newCaptureFilter(f.opts)
				if err != nil {
					t.Fatal(err)
				}
				if got := filter.matches(c.packet); got != f.want {
					t.Errorf("%q matches: %v", filter.String(), got)
				}
			}
		})
	}
}

// A peer chooses the packet.
func FuzzTransport(f *testing.F) {
	f.Add(ip4(6, 0, port80...))                                     // TCP
	f.Add(ip4(17, 1, port53...))                                    // a later fragment
	f.Add(ip6(0, 60, 0, 0, 0, 0, 0, 0, 0, 17, 0))                   // one extension header, and one that is cut
	f.Add(ip6(43, 6, 255, 0, 0, 0, 0, 0, 0))                        // longer than the packet
	f.Add(ip6(44, 44, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0)) // a fragment in a fragment
	f.Fuzz(func(t *testing.T, packet []byte) {
		protocol, payload := transport(packet)
		if protocol < -1 || protocol > 255 || len(payload) > len(packet) || protocol < 0 && payload != nil {
			t.Errorf("protocol %d, %d of %d bytes", protocol, len(payload), len(packet))
		}
	})
}
