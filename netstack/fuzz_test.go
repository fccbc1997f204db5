// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// FuzzInbound gives packets to a stack with a listener, a packet conn and a dial under way. A packet must not make it
// panic, block, or forget that it still answers pings.
func FuzzInbound(f *testing.F) {
	syn := header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 1, WindowSize: 1000}
	seeds := [][]byte{
		rawUDP(addrB4, addrA4, 9, 80, []byte("sound")),                                                 // what is right
		rawUDP(addrB6, addrA6, 9, 80, []byte("sound")),                                                 // and over IPv6
		rawTCP(addrB4, addrA4, syn, nil),                                                               // begins a connection
		rawTCP(addrB6, addrA6, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: 0xff}, []byte("data")), // Xmas
		rawICMP(addrB4, addrA4, uint8(header.ICMPv4Echo), 0, [4]byte{}, []byte("ping")),                // is answered
		rawICMP(addrB6, addrA6, uint8(header.ICMPv6EchoRequest), 0, [4]byte{}, []byte("ping")),         // likewise
		rawICMP(addrB4, addrA4, uint8(header.ICMPv4DstUnreachable), 3, [4]byte{}, // has a packet inside
			rawUDP(addrA4, addrB4, 80, 9, nil)),
		rawICMP(addrB6, addrA6, uint8(header.ICMPv6PacketTooBig), 0, [4]byte{0, 0, 5, 0}, // changes an MTU
			rawTCP(addrA6, addrB6, syn, nil)),
		rawICMP(addrB6, addrA6, uint8(header.ICMPv6NeighborSolicit), 0, [4]byte{}, // neighbor discovery has no place here
			append(addrA6.AsSlice(), 1, 1, 0, 0, 0, 0, 0, 0)),
		fragment4(0, true, 1, make([]byte, 8)),                     // the first of a datagram
		fragment4(8, false, 1, make([]byte, 8)),                    // the last of the same
		fragment6(8, false, 1, make([]byte, 8)),                    // the last, before the first
		extended(3, 60, rawUDP(addrB6, addrA6, 9, 80, nil)),        // extension headers
		extended(1, 43, rawUDP(addrB6, addrA6, 9, 80, nil)),        // a routing header
		edit(rawUDP(addrB6, addrA6, 9, 80, nil), put16(4, 65_535)), // a length that wraps in 16 bits
		edit4(rawIP(addrB4, addrA4, header.UDPProtocolNumber, bytes.Repeat([]byte{7}, 60)), // options that lie
			func(p []byte) { p[0] = 0x4f }),
		{},     // nothing
		{0x45}, // too short for anything
	}
	for _, seed := range seeds {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	s := newStack(f, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	l := must[*netstack.TCPListener](f)(s.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, 80)))
	u := must[*netstack.UDPConn](f)(s.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, 80)))
	f.Cleanup(func() { l.Close(); u.Close() })
	d := s.Device()
	bufs, sizes := make([][]byte, d.BatchSize()), make([]int, d.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	id := uint32(0)
	f.Fuzz(func(t *testing.T, packet []byte, repair bool) {
		if repair {
			repairChecksums(packet)
		}
		if _, err := d.Write([][]byte{packet}, 0); err != nil {
			t.Fatal(err)
		}
		// A ping of our own shows that the stack is well. What else comes out is read on the way.
		id++
		var rest [4]byte
		binary.BigEndian.PutUint32(rest[:], id)
		if _, err := d.Write([][]byte{rawICMP(addrB4, addrA4, uint8(header.ICMPv4Echo), 0, rest, []byte("are you well"))}, 0); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := d.Read(bufs, sizes, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if sizes[i] > netstack.DefaultMTU {
					t.Fatalf("a packet of %d bytes", sizes[i])
				}
				_, _, proto, p := dissect(bufs[i][:sizes[i]])
				if proto == header.ICMPv4ProtocolNumber && len(p) > 8 && p[0] == 0 && bytes.Equal(p[4:8], rest[:]) {
					return
				}
			}
		}
	})
}

// repairChecksums lets a mutated packet get past the first checks, where the others are.
func repairChecksums(p []byte) {
	if len(p) < header.IPv4MinimumSize || p[0]>>4 != 4 {
		return
	}
	h := header.IPv4(p)
	if n := int(h.HeaderLength()); n < header.IPv4MinimumSize || n > len(p) {
		return
	}
	h.SetTotalLength(uint16(len(p)))
	h.SetChecksum(0)
	h.SetChecksum(^h.CalculateChecksum())
	if payload := h.Payload(); h.TransportProtocol() == header.UDPProtocolNumber && len(payload) >= header.UDPMinimumSize {
		header.UDP(payload).SetChecksum(0) // none, which IPv4 allows
	} else if h.TransportProtocol() == header.ICMPv4ProtocolNumber && len(payload) >= header.ICMPv4MinimumSize {
		icmp := header.ICMPv4(payload)
		icmp.SetChecksum(0)
		icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	}
}
