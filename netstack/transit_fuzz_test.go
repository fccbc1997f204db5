// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// FuzzTransit gives packets for other addresses to a stack whose handler accepts, forwards, refuses or drops, as the
// destination has it. A packet must not make it panic, block, send what is no valid packet, or forget that it still
// answers pings.
func FuzzTransit(f *testing.F) {
	ack := header.TCPFields{SrcPort: 99, DstPort: 80, Flags: header.TCPFlagAck, SeqNum: 6, AckNum: 1, WindowSize: 1000}
	hub := rawUDP(addrB4, addrC4, 9, 53, []byte("hub"))
	seeds := [][]byte{
		rawUDP(addrB4, addrLAN4, 9, 53, []byte("sound")), // a flow
		rawUDP(addrB6, addrLAN6, 9, 53, []byte("sound")), // and over IPv6
		rawTCP(addrB4, addrLAN4, flowSYN, nil),           // begins a connection
		rawTCP(addrB6, addrLAN6, flowSYN, nil),           // likewise
		rawTCP(addrB4, addrLAN4, ack, []byte("data")),    // goes on with it, or is answered by a reset
		echoRequest(addrB4, addrLAN4, 1, 1, "ping"),      // a flow of pings
		echoRequest(addrB6, addrLAN6, 1, 1, "ping"),      // likewise
		hub, // to another peer
		rawUDP(addrC4, addrB4, 53, 9, []byte("back")),                                              // its answer
		rawTCP(addrB6, addrC6, flowSYN, nil),                                                       // a connection to another peer
		echoRequest(addrB6, addrC6, 1, 1, "ping"),                                                  // a ping of another peer
		rawICMP(addrC4, addrB4, 3, 3, [4]byte{}, hub),                                              // an error about what was forwarded
		rawICMP(addrC4, addrB4, 3, 4, [4]byte{0, 0, 5, 0}, hub[:28]),                               // another, with as little as there may be
		rawICMP(addrB6, addrLAN6, 2, 0, [4]byte{0, 0, 5, 0}, rawUDP(addrLAN6, addrB6, 53, 9, nil)), // about what we have sent
		withTTL(slices.Clone(hub), 1),                                                              // has come as far as it may
		rawUDP(addrB6, addrC6, 9, 53, make([]byte, 3000)),                                          // too big
		rawUDP(addrB4, addrC4, 9, 53, make([]byte, 3000)),                                          // is fragmented
		edit4(rawIP(addrB4, addrLAN4, header.UDPProtocolNumber, bytes.Repeat([]byte{7}, 60)), // options that lie
			func(p []byte) { p[0] = 0x4f }),
		extended(2, 60, rawUDP(addrB6, addrLAN6, 9, 53, nil)), // extension headers
		rawIP(addrB4, addrLAN4, 132, make([]byte, 8)),         // a protocol that has no flows
		rawICMP(addrB4, addrLAN4, 3, 3, [4]byte{}, nil),       // an error about nothing
	}
	for _, seed := range seeds {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	s := newStack(f, netstack.Config{Addresses: testTransitAddresses})
	s.SetRoutes(slices.Concat(routes(peerB, "10.0.0.2/32", "fd00::2/128"), routes(peerC, "10.0.0.3/32", "fd00::3/128")))
	s.SetFlowLimits(64, 64, 64, 64, 8)
	err := s.HandleFlows(func(flow *netstack.Flow) {
		if _, ok := flow.Target(); ok {
			_ = flow.Forward() // the flow may have ended
			return
		}
		switch last := flow.Destination().Addr().AsSlice(); last[len(last)-1] % 4 {
		case 0, 1:
			c, err := flow.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b := make([]byte, 1<<16)
			if n, err := c.Read(b); err == nil {
				_, _ = c.Write(b[:n])
			}
		case 2:
			flow.Refuse(nil)
		}
	})
	if err != nil {
		f.Fatal(err)
	}
	d := s.Device()
	bufs, sizes := make([][]byte, d.BatchSize()), make([]int, d.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	id := uint32(0)
	f.Fuzz(func(t *testing.T, packet []byte, repair bool) {
		packet = slices.Clone(packet)
		if repair {
			repairChecksums(packet)
		}
		before := slices.Clone(packet)
		if _, err := d.Write([][]byte{packet}, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(packet, before) {
			t.Fatal("the packet was written into")
		}
		id++
		var rest [4]byte
		binary.BigEndian.PutUint32(rest[:], id)
		if _, err := d.Write([][]byte{rawICMP(addrB4, addrA4, echo4, 0, rest, []byte("are you well"))}, 0); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := d.Read(bufs, sizes, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				p := bufs[i][:sizes[i]]
				if err := soundOutbound(p); err != nil {
					t.Fatalf("sent %x: %v", p, err)
				}
				src, _, proto, m := dissect(p)
				if src == addrA4 && proto == header.ICMPv4ProtocolNumber && len(m) > 8 && m[0] == 0 && bytes.Equal(m[4:8], rest[:]) {
					return
				}
			}
		}
	})
}

// soundOutbound checks lengths, the IPv4 checksum and addresses.
func soundOutbound(p []byte) error {
	src, ok := netstack.Source(p)
	switch {
	case len(p) > netstack.DefaultMTU:
		return errors.New("larger than the MTU")
	case !ok || p[0]>>4 == 4 && !header.IPv4(p).IsChecksumValid():
		return errors.New("malformed")
	case !slices.Contains([]netip.Addr{addrA4, addrA6}, src) && (src.IsLoopback() || src.IsMulticast() || src.IsUnspecified()):
		return errors.New("a source that no packet has")
	}
	return nil
}
