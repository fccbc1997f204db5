// SPDX-License-Identifier: MIT

package netstack_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// target is a stack with something to attack: a listener and a packet conn on port 80, and a wire to it.
type target struct {
	*wire
	s *netstack.Stack
	l *netstack.TCPListener
	u *netstack.UDPConn
}

func newTarget(tb testing.TB) *target {
	s := newStack(tb, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	t := &target{wire: newWire(tb, s), s: s}
	t.l = must[*netstack.TCPListener](tb)(s.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, 80)))
	t.u = must[*netstack.UDPConn](tb)(s.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, 80)))
	tb.Cleanup(func() { t.l.Close(); t.u.Close() })
	return t
}

// works checks that the stack still does its work, and that no datagram has got through that should not have.
func (x *target) works() {
	x.tb.Helper()
	if err := x.u.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		x.tb.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, family := range [][2]netip.Addr{{addrB4, addrA4}, {addrB6, addrA6}} {
		x.send(rawUDP(family[0], family[1], 99, 80, []byte("sound")))
		n, from, err := x.u.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "sound" || from != netip.AddrPortFrom(family[0], 99) {
			x.tb.Errorf("read %q from %s, %v; want the datagram that is sound", buf[:n], from, err)
		}
		x.drain()
		x.send(rawTCP(family[0], family[1], header.TCPFields{SrcPort: 99, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 5, WindowSize: 1000}, nil))
		for {
			_, _, proto, p := dissect(x.next())
			if proto != header.TCPProtocolNumber || header.TCP(p).DestinationPort() != 99 {
				continue // an answer to what was sent before
			}
			if flags := header.TCP(p).Flags(); flags != header.TCPFlagSyn|header.TCPFlagAck || header.TCP(p).AckNumber() != 6 {
				x.tb.Errorf("the answer to a SYN has flags %s", flags)
			}
			break
		}
		x.send(rawTCP(family[0], family[1], header.TCPFields{SrcPort: 99, DstPort: 80, Flags: header.TCPFlagRst, SeqNum: 6}, nil))
	}
}

func (x *target) drain() {
	for {
		select {
		case <-x.out:
		default:
			return
		}
	}
}

// edit returns a changed copy.
func edit(p []byte, f func(p []byte)) []byte {
	p = slices.Clone(p)
	f(p)
	return p
}

func put16(off int, v uint16) func([]byte) {
	return func(p []byte) { binary.BigEndian.PutUint16(p[off:], v) }
}

// edit4 is edit for an IPv4 header, whose checksum is made to hold.
func edit4(p []byte, f func(p []byte)) []byte {
	return edit(p, func(p []byte) {
		f(p)
		h := header.IPv4(p)
		h.SetChecksum(0)
		h.SetChecksum(^h.CalculateChecksum())
	})
}

// faults 40, 41, 44, 46: what is not fit to be seen is dropped, and counted where it is we who see it.
func TestInboundDrops(t *testing.T) {
	own4, own6, peer4, peer6 := addrA4, addrA6, addrB4, addrB6
	udp4, udp6 := rawUDP(peer4, own4, 9, 80, []byte("bad")), rawUDP(peer6, own6, 9, 80, []byte("bad"))
	syn := header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 1, WindowSize: 1000}
	addr := netip.MustParseAddr
	counted := []struct {
		name   string
		packet []byte
	}{
		{"version 0", edit(udp4, func(p []byte) { p[0] = 0x05 })},
		{"version 5", edit(udp4, func(p []byte) { p[0] = 0x55 })},
		{"version 15", edit(udp6, func(p []byte) { p[0] = 0xf0 })},
		{"IPv6 with a 4", edit(udp6, func(p []byte) { p[0] = 0x40 })},
		{"IPv4 with a 6", edit(udp4, func(p []byte) { p[0] = 0x65 })},
		{"header length 0", edit4(udp4, func(p []byte) { p[0] = 0x40 })},
		{"header length 4", edit4(udp4, func(p []byte) { p[0] = 0x44 })},
		{"header longer than the packet", edit(udp4, func(p []byte) { p[0] = 0x4f })},
		{"total length 0", edit4(udp4, put16(2, 0))},
		{"total length less than the header", edit4(udp4, put16(2, 19))},
		{"total length less than the packet", edit4(udp4, put16(2, uint16(len(udp4)-1)))},
		{"total length more than the packet", edit4(udp4, put16(2, uint16(len(udp4)+1)))},
		{"payload length too small", edit(udp6, put16(4, uint16(len(udp6)-41)))},
		{"payload length too large", edit(udp6, put16(4, uint16(len(udp6)-39)))},
		{"jumbogram", edit(udp6, put16(4, 0))},
		{"own source", rawUDP(own4, own4, 9, 80, []byte("bad"))},
		{"own source, IPv6", rawUDP(own6, own6, 9, 80, []byte("bad"))},
		{"LAND", rawTCP(own4, own4, header.TCPFields{SrcPort: 80, DstPort: 80, Flags: header.TCPFlagSyn}, nil)},
		{"LAND, IPv6", rawTCP(own6, own6, header.TCPFields{SrcPort: 80, DstPort: 80, Flags: header.TCPFlagSyn}, nil)},
		{"loopback source", rawUDP(addr("127.0.0.1"), own4, 9, 80, []byte("bad"))},
		{"127.9.9.9 as source", rawUDP(addr("127.9.9.9"), own4, 9, 80, []byte("bad"))},
		{"::1 as source", rawUDP(addr("::1"), own6, 9, 80, []byte("bad"))},
		{"unspecified source", rawUDP(addr("0.0.0.0"), own4, 9, 80, []byte("bad"))},
		{"unspecified source, IPv6", rawUDP(addr("::"), own6, 9, 80, []byte("bad"))},
		{"multicast source", rawUDP(addr("224.0.0.1"), own4, 9, 80, []byte("bad"))},
		{"multicast source, IPv6", rawUDP(addr("ff02::1"), own6, 9, 80, []byte("bad"))},
		{"broadcast source", rawUDP(addr("255.255.255.255"), own4, 9, 80, []byte("bad"))},
		{"4-in-6 source", rawUDP(addr("::ffff:10.0.0.2"), own6, 9, 80, []byte("bad"))},
		{"4-in-6 destination", rawUDP(peer6, addr("::ffff:10.0.0.1"), 9, 80, []byte("bad"))},
		{"loopback destination", rawUDP(peer4, addr("127.0.0.1"), 9, 80, []byte("bad"))},
		{"::1 as destination", rawUDP(peer6, addr("::1"), 9, 80, []byte("bad"))},
		{"unspecified destination", rawUDP(peer4, addr("0.0.0.0"), 9, 80, []byte("bad"))},
		{"broadcast", rawUDP(peer4, addr("255.255.255.255"), 9, 80, []byte("bad"))},
		{"multicast", rawUDP(peer4, addr("224.0.0.1"), 9, 80, []byte("bad"))},
		{"multicast, IPv6", rawUDP(peer6, addr("ff02::1"), 9, 80, []byte("bad"))},
		{"fragment with a wrong checksum", edit(fragment4(8, true, 1, make([]byte, 8)), func(p []byte) { p[10] ^= 1 })},
		{"fragment of 7 bytes", fragment4(8, true, 1, make([]byte, 7))},
		{"fragment of 7 bytes, IPv6", fragment6(8, true, 1, make([]byte, 7))},
		{"empty fragment", fragment4(8, true, 1, nil)},
		{"empty fragment, IPv6", fragment6(8, false, 1, nil)},
		{"fragment past the end", fragment4(65_528, false, 1, make([]byte, 8))},
		{"fragment past the end, IPv6", fragment6(65_528, false, 1, make([]byte, 8))},
		{"fragment in a fragment", edit(fragment6(0, false, 1, fragment6(0, true, 1, make([]byte, 8))[40:]), func(p []byte) { p[40] = 44 })},
		{"fragment behind other headers", extended(1, 60, fragment6(0, true, 1, make([]byte, 8)))},
		{"SYN by multicast", rawTCP(peer6, addr("ff02::1"), syn, nil)},
		{"echo request by multicast", rawICMP(peer6, addr("ff02::1"), uint8(header.ICMPv6EchoRequest), 0, [4]byte{}, nil)},
	}
	for _, c := range counted {
		t.Run(c.name, func(t *testing.T) {
			x := newTarget(t)
			x.send(c.packet)
			if got := x.s.Drops().Refused; got != 1 {
				t.Errorf("%d packets counted as dropped, want 1", got)
			}
			select {
			case p := <-x.out:
				t.Errorf("an answer: %x", p)
			default:
			}
			x.works()
		})
	}

	// What gVisor drops, it counts itself.
	dropped := []struct {
		name   string
		packet []byte
	}{
		{"IPv4 checksum", edit(udp4, func(p []byte) { p[10] ^= 1 })},
		{"UDP checksum", edit(udp4, func(p []byte) { p[26] ^= 1 })},
		{"UDP checksum, IPv6", edit(udp6, func(p []byte) { p[46] ^= 1 })},
		{"no UDP checksum over IPv6", edit(udp6, put16(46, 0))},
		{"payload changed", edit(udp4, func(p []byte) { p[len(p)-1] ^= 1 })},
		{"UDP length 0", edit(udp4, put16(24, 0))},
		{"UDP length 7", edit(udp4, put16(24, 7))},
		{"UDP length too large", edit(udp4, put16(24, 1000))},
		{"UDP length of 65535", edit(udp6, put16(44, 65535))},
		{"UDP header cut off", rawIP(peer4, own4, header.UDPProtocolNumber, make([]byte, 7))},
		{"no UDP header", rawIP(peer6, own6, header.UDPProtocolNumber, nil)},
		{"TCP header cut off", rawIP(peer4, own4, header.TCPProtocolNumber, make([]byte, 19))},
		{"no TCP header", rawIP(peer4, own4, header.TCPProtocolNumber, nil)},
		{"TCP data offset 0", rawIP(peer4, own4, header.TCPProtocolNumber, make([]byte, 20))},
		{"TCP data offset past the end", edit(rawTCP(peer4, own4, syn, nil), func(p []byte) { p[32] = 0xf0 })},
		{"TCP checksum", edit(rawTCP(peer4, own4, syn, nil), func(p []byte) { p[36] ^= 1 })},
		{"no ICMP header", rawIP(peer4, own4, header.ICMPv4ProtocolNumber, nil)},
		{"ICMP cut off", rawIP(peer4, own4, header.ICMPv4ProtocolNumber, []byte{8, 0, 0})},
		{"ICMPv6 cut off", rawIP(peer6, own6, header.ICMPv6ProtocolNumber, []byte{128, 0, 0})},
		{"ICMP over the wrong IP", rawIP(peer6, own6, header.ICMPv4ProtocolNumber, make([]byte, 20))},
		{"not our address", rawUDP(peer4, addr("10.0.0.77"), 9, 80, []byte("bad"))},
		{"not our address, IPv6", rawUDP(peer6, addr("fd00::77"), 9, 80, []byte("bad"))},
		{"Xmas", rawTCP(peer4, own4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: 0xff, SeqNum: 1}, nil)},
		{"no flags", rawTCP(peer4, own4, header.TCPFields{SrcPort: 9, DstPort: 80, SeqNum: 1}, nil)},
		{"FIN out of nowhere", rawTCP(peer4, own4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagFin}, nil)},
		{"RST out of nowhere", rawTCP(peer6, own6, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagRst}, nil)},
		{"SYN and FIN", rawTCP(peer6, own6, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagSyn | header.TCPFlagFin}, nil)},
		{"port 0", rawUDP(peer4, own4, 0, 0, []byte("bad"))},
		{"unknown protocol", rawIP(peer4, own4, 253, []byte("bad"))},
		{"unknown protocol, IPv6", rawIP(peer6, own6, 253, []byte("bad"))},
		{"IPv4 options that lie", edit4(rawIP(peer4, own4, header.UDPProtocolNumber, append([]byte{0x44, 0xff, 0, 0}, udp4[20:]...)), func(p []byte) { p[0] = 0x46 })},
		{"router advertisement", edit(rawICMP(addr("fe80::2"), own6, uint8(header.ICMPv6RouterAdvert), 0, [4]byte{64, 0, 7, 8}, make([]byte, 8)), func(p []byte) { p[7] = 255 })},
		{"redirect", edit(rawICMP(addr("fe80::2"), own6, uint8(header.ICMPv6RedirectMsg), 0, [4]byte{}, make([]byte, 32)), func(p []byte) { p[7] = 255 })},
		{"IPv4 redirect", rawICMP(peer4, own4, uint8(header.ICMPv4Redirect), 1, [4]byte{10, 0, 0, 9}, udp4)},
		{"timestamp request", rawICMP(peer4, own4, uint8(header.ICMPv4Timestamp), 0, [4]byte{}, make([]byte, 12))},
	}
	x := newTarget(t)
	for _, c := range dropped {
		t.Run(c.name, func(t *testing.T) {
			x.tb = t
			x.send(c.packet)
			x.works()
		})
	}
	x.tb = t
	if got := x.s.Drops().Refused; got != 0 {
		t.Errorf("%d packets were dropped before gVisor saw them", got)
	}
}

// fault 40: every truncation of valid packets, with the length in the header as it was and adapted.
func TestTruncations(t *testing.T) {
	x := newTarget(t)
	syn := header.TCPFields{SrcPort: 9, DstPort: 81, Flags: header.TCPFlagSyn, SeqNum: 1, WindowSize: 1000}
	for _, p := range [][]byte{
		rawUDP(addrB4, addrA4, 9, 80, []byte("truncated")),
		rawUDP(addrB6, addrA6, 9, 80, []byte("truncated")),
		rawTCP(addrB4, addrA4, syn, []byte("x")),
		rawTCP(addrB6, addrA6, syn, []byte("x")),
		rawICMP(addrB4, addrA4, uint8(header.ICMPv4Echo), 0, [4]byte{}, []byte("x")),
		rawICMP(addrB6, addrA6, uint8(header.ICMPv6EchoRequest), 0, [4]byte{}, []byte("x")),
		rawICMP(addrB4, addrA4, uint8(header.ICMPv4DstUnreachable), 3, [4]byte{}, rawUDP(addrA4, addrB4, 80, 9, nil)),
		rawICMP(addrB6, addrA6, uint8(header.ICMPv6DstUnreachable), 4, [4]byte{}, rawUDP(addrA6, addrB6, 80, 9, nil)),
		fragment6(0, true, 1, []byte("12345678")),
	} {
		for n := range len(p) {
			cut := slices.Clone(p[:n])
			x.send(cut)
			switch {
			case p[0]>>4 == 4 && n >= 20:
				x.send(edit4(cut, put16(2, uint16(n))))
			case p[0]>>4 == 6 && n >= 40:
				x.send(edit(cut, put16(4, uint16(n-40))))
			}
		}
	}
	x.works()
}

// fault 41: the sum of IPv6's payload length and header does not fit into 16 bits.
func TestLargePayloadLengths(t *testing.T) {
	x := newTarget(t)
	for length := 65_496; length <= 65_535; length++ {
		before := x.s.Drops().Refused
		short := edit(rawUDP(addrB6, addrA6, 9, 80, []byte("short")), put16(4, uint16(length)))
		wrapped := make([]byte, 40+(length+40)&0xffff)
		copy(wrapped, short[:40])
		x.send(short, wrapped[:max(40, (length+40)&0xffff)])
		if got := x.s.Drops().Refused - before; got != 2 {
			t.Errorf("payload length %d: %d of 2 packets dropped", length, got)
		}
	}
	x.works()
	// The largest that there is does arrive.
	x.send(rawUDP(addrB6, addrA6, 9, 80, make([]byte, 65_527)))
	if n, _, err := x.u.ReadFrom(make([]byte, 1<<16)); n != 65_527 || err != nil {
		t.Errorf("the largest datagram: %d bytes, %v", n, err)
	}
}

// fault 45: a TTL of 0 or 1 is enough for who has arrived (RFC 1122, section 3.2.1.7).
func TestTTL(t *testing.T) {
	x := newTarget(t)
	for _, ttl := range []byte{0, 1, 255} {
		x.send(
			edit4(rawUDP(addrB4, addrA4, 9, 80, []byte("old")), func(p []byte) { p[8] = ttl }),
			edit(rawUDP(addrB6, addrA6, 9, 80, []byte("old")), func(p []byte) { p[7] = ttl }),
		)
		for range 2 {
			if n, _, err := x.u.ReadFrom(make([]byte, 10)); n != 3 || err != nil {
				t.Errorf("TTL %d: %d bytes, %v", ttl, n, err)
			}
		}
	}
	x.works()
}

// fragment4 and fragment6 make a fragment of a UDP datagram for port 80; offset is in bytes.
func fragment4(offset int, more bool, id uint16, data []byte) []byte {
	return edit4(rawIP(addrB4, addrA4, header.UDPProtocolNumber, data), func(p []byte) {
		flags := uint16(offset / 8)
		if more {
			flags |= 1 << 13
		}
		binary.BigEndian.PutUint16(p[4:], id)
		binary.BigEndian.PutUint16(p[6:], flags)
	})
}

func fragment6(offset int, more bool, id uint32, data []byte) []byte {
	h := make([]byte, 8, 8+len(data))
	h[0] = byte(header.UDPProtocolNumber)
	binary.BigEndian.PutUint16(h[2:], uint16(offset))
	if more {
		h[3] |= 1
	}
	binary.BigEndian.PutUint32(h[4:], id)
	return rawIP(addrB6, addrA6, tcpip.TransportProtocolNumber(header.IPv6FragmentExtHdrIdentifier), append(h, data...))
}

// extended puts n extension headers of a kind, empty ones, between the IPv6 header and what follows it.
func extended(n int, kind byte, p []byte) []byte {
	first, out := p[6], slices.Clone(p[:40])
	out[6] = kind
	for i := range n {
		h := []byte{kind, 0, 1, 4, 0, 0, 0, 0} // PadN
		if i == n-1 {
			h[0] = first
		}
		out = append(out, h...)
	}
	out = append(out, p[40:]...)
	binary.BigEndian.PutUint16(out[4:], uint16(len(out)-40))
	return out
}

// fault 43.
func TestExtensionHeaders(t *testing.T) {
	x := newTarget(t)
	udp := rawUDP(addrB6, addrA6, 9, 80, []byte("bad"))
	routing := func(kind, left byte) []byte {
		return edit(extended(1, 43, udp), func(p []byte) { p[42], p[43] = kind, left; clear(p[44:48]) })
	}
	x.send(
		extended(100, 0, udp), // hop-by-hop options are the first ones, or none
		extended(2, 0, udp),
		routing(0, 1), // a routing header of type 0 (RFC 5095)
		routing(0, 255),
		routing(2, 1),
		edit(extended(1, 60, udp), func(p []byte) { p[41] = 255 }),            // longer than the packet
		edit(extended(1, 60, udp), func(p []byte) { p[42], p[43] = 0xc0, 4 }), // an unknown option, to be answered
		edit(extended(1, 0, udp), func(p []byte) { p[42], p[43] = 0xc2, 4 }),  // jumbo payload (RFC 2675)
		extended(1, 59, udp), // no next header
		extended(1, 51, udp),
		extended(1, 50, udp),
	)
	x.works()
	// A hundred of what may be repeated are either understood or not; then the next ones still are.
	x.send(extended(100, 60, rawUDP(addrB6, addrA6, 9, 81, []byte("bad"))))
	x.works()
}

// Datagrams come together whatever the order of their fragments, also twice, and not with what is not theirs.
func TestReassembly(t *testing.T) {
	x := newTarget(t)
	if err := x.u.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, v6 := range []bool{false, true} {
		udp, ip := rawUDP(addrB4, addrA4, 9, 80, []byte("0123456789abcdefghijklmnop")), 20
		if v6 {
			udp, ip = rawUDP(addrB6, addrA6, 9, 80, []byte("0123456789abcdefghijklmnop")), 40
		}
		id := uint16(0)
		part := func(from, to int) []byte {
			data := udp[ip:]
			if v6 {
				return fragment6(from, to < len(data), uint32(id)|1<<31, data[from:min(to, len(data))])
			}
			return fragment4(from, to < len(data), id, data[from:min(to, len(data))])
		}
		tests := []struct {
			name  string
			parts [][2]int
			whole bool
		}{
			{"in order", [][2]int{{0, 8}, {8, 16}, {16, 99}}, true},
			{"backwards", [][2]int{{16, 99}, {8, 16}, {0, 8}}, true},
			{"mixed, and twice", [][2]int{{8, 16}, {8, 16}, {16, 99}, {8, 16}, {16, 99}, {0, 8}}, true},
			{"one missing", [][2]int{{0, 8}, {16, 99}}, false},
			{"no end", [][2]int{{0, 8}, {8, 16}, {16, 24}, {24, 32}}, false},
			{"overlap", [][2]int{{0, 16}, {8, 24}, {24, 99}}, false},
			{"overlap inside", [][2]int{{0, 24}, {8, 16}, {24, 99}}, false},
			{"overlap around", [][2]int{{8, 16}, {0, 24}, {24, 99}}, false},
			{"past the end", [][2]int{{0, 8}, {24, 99}, {8, 32}}, false},
		}
		for _, test := range tests {
			id++
			for _, p := range test.parts {
				x.send(part(p[0], p[1]))
			}
			if test.whole {
				buf := make([]byte, 100)
				n, _, err := x.u.ReadFrom(buf)
				if err != nil || string(buf[:n]) != "0123456789abcdefghijklmnop" {
					t.Errorf("%s: read %q, %v", test.name, buf[:n], err)
				}
			}
			x.works() // finds no datagram before its own
		}
	}
}

// fault 42: fragments that overlap or never end.
func TestFragmentFlood(t *testing.T) {
	count := 1_000_000
	if raceEnabled || testing.Short() {
		count = 100_000
	}
	floods := []struct {
		name string
		make func(i int) []byte
	}{
		{"IPv4, first ones", func(i int) []byte { return fragment4(0, true, uint16(i), make([]byte, 8)) }},
		{"IPv4, one datagram", func(i int) []byte { return fragment4(i%4000*16, true, 7, make([]byte, 8)) }},
		{"IPv4, large", func(i int) []byte { return fragment4(1400, true, uint16(i), make([]byte, 1400)) }},
		{"IPv4, overlapping", func(i int) []byte { return fragment4(i%100*8, true, uint16(i/100), make([]byte, 24)) }},
		{"IPv6, first ones", func(i int) []byte { return fragment6(0, true, uint32(i), make([]byte, 8)) }},
		{"IPv6, one datagram", func(i int) []byte { return fragment6(i%4000*16, true, 7, make([]byte, 8)) }},
		{"IPv6, large", func(i int) []byte { return fragment6(1400, true, uint32(i), make([]byte, 1400)) }},
		{"IPv6, overlapping", func(i int) []byte { return fragment6(i%100*8, true, uint32(i/100), make([]byte, 24)) }},
	}
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			x := newTarget(t)
			before := heap()
			for i := range count / len(floods) {
				if _, err := x.dev.Write([][]byte{flood.make(i)}, 0); err != nil {
					t.Fatal(err)
				}
			}
			after := heap()
			if grown := after - before; grown > 4<<20 {
				t.Errorf("the heap has grown by %d bytes, want 4 MiB at most", grown)
			}
			x.works()
		})
	}
}
