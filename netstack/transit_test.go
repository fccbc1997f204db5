// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// The addresses of these tests: two peers of the stack at addrA4 and addrA6, and hosts that no peer serves.
var (
	addrC4, addrC6       = netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")
	addrLAN4, addrLAN6   = netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("fd01::1")
	peerB, peerC         = netstack.PeerID(1), netstack.PeerID(2)
	flowSYN              = header.TCPFields{SrcPort: 99, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 5, WindowSize: 1000}
	echo4, echo6         = uint8(header.ICMPv4Echo), uint8(header.ICMPv6EchoRequest)
	icmp4, icmp6         = header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber
	families             = []string{"IPv4", "IPv6"}
	transitAddrs         = map[string][4]netip.Addr{"IPv4": {addrA4, addrB4, addrC4, addrLAN4}, "IPv6": {addrA6, addrB6, addrC6, addrLAN6}}
	testTransitAddresses = prefixes("10.0.0.1/24", "fd00::1/64")
)

// newTransit makes a stack with two peers and a handler, which may be nil, and a wire to it.
func newTransit(tb testing.TB, handler func(*netstack.Flow)) (*netstack.Stack, *wire) {
	tb.Helper()
	s := newStack(tb, netstack.Config{Addresses: testTransitAddresses})
	s.SetRoutes(slices.Concat(routes(peerB, "10.0.0.2/32", "fd00::2/128"), routes(peerC, "10.0.0.3/32", "fd00::3/128")))
	if handler != nil {
		if err := s.HandleFlows(handler); err != nil {
			tb.Fatal(err)
		}
	}
	return s, newWire(tb, s)
}

// echoRequest makes an echo request with an identifier and a sequence number.
func echoRequest(src, dst netip.Addr, id, seq uint16, data string) []byte {
	var rest [4]byte
	binary.BigEndian.PutUint16(rest[:], id)
	binary.BigEndian.PutUint16(rest[2:], seq)
	kind := echo4
	if src.Is6() {
		kind = echo6
	}
	return rawICMP(src, dst, kind, 0, rest, []byte(data))
}

// withTTL sets a packet's time to live or hop limit.
func withTTL(p []byte, ttl uint8) []byte {
	if p[0]>>4 == 4 {
		return edit4(p, func(p []byte) { p[8] = ttl })
	}
	return edit(p, func(p []byte) { p[7] = ttl })
}

// asMessage takes an ICMP message of the stack apart, and checks its checksum.
func asMessage(t *testing.T, p []byte) (src netip.Addr, kind, code uint8, rest uint32, inner []byte) {
	t.Helper()
	src, dst, proto, m := dissect(p)
	if proto != icmp4 && proto != icmp6 || len(m) < 8 {
		t.Fatalf("a packet of protocol %d to %s, want ICMP", proto, dst)
	}
	if sum := binary.BigEndian.Uint16(m[2:]); proto == icmp4 && header.ICMPv4Checksum(m, 0) != sum ||
		proto == icmp6 && header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: tcpipAddr(src), Dst: tcpipAddr(dst)}) != sum {
		t.Errorf("the checksum of an ICMP message is wrong")
	}
	return src, m[0], m[1], binary.BigEndian.Uint32(m[4:]), m[8:]
}

// quiet fails the test if the stack has sent something, now that it has answered a ping.
func (w *wire) quiet(t *testing.T) {
	t.Helper()
	w.send(echoRequest(addrB4, addrA4, 7, 7, "is that all"))
	src, kind, _, _, _ := asMessage(t, w.next())
	if kind != uint8(header.ICMPv4EchoReply) || src != addrA4 {
		t.Fatalf("an ICMP message of type %d from %s, want nothing but the answer to a ping", kind, src)
	}
}

// fault 68: what a refusal looks like on the wire, and who it is from.
func TestRefusalPackets(t *testing.T) {
	reset := func(t *testing.T, p []byte, lan netip.Addr) {
		src, _, proto, segment := dissect(p)
		h := header.TCP(segment)
		if proto != header.TCPProtocolNumber || src != lan || h.Flags() != header.TCPFlagRst|header.TCPFlagAck || h.AckNumber() != 6 ||
			h.SourcePort() != 80 || h.DestinationPort() != 99 {
			t.Errorf("protocol %d from %s, flags %s, ACK %d, want a reset of the SYN", proto, src, h.Flags(), h.AckNumber())
		}
		if err := netstack.CheckOutbound(p, netstack.DefaultMTU); err != nil {
			t.Error(err)
		}
	}
	type answer struct{ kind, code uint8 }
	tests := []struct {
		name           string
		reason         error
		answer4        answer
		answers6       []answer // for TCP; for the others the first one
		tcp, udp, ping bool
	}{
		{"port unreachable", syscall.ECONNREFUSED, answer{3, 3}, []answer{{1, 4}}, false, true, false},
		{"host unreachable", os.NewSyscallError("connect", syscall.EHOSTUNREACH), answer{3, 1}, []answer{{1, 3}, {1, 0}}, true, true, true},
		{"network unreachable", syscall.ENETUNREACH, answer{3, 0}, []answer{{1, 0}}, true, true, true},
		{"prohibited", syscall.EACCES, answer{3, 13}, []answer{{1, 1}, {1, 0}}, true, true, true},
		{"any other reason, ping", io.EOF, answer{3, 1}, []answer{{1, 3}}, false, false, true},
		{"any other reason, UDP", io.EOF, answer{3, 3}, []answer{{1, 4}}, false, true, false},
	}
	reasons := make(chan error, 1)
	_, w := newTransit(t, func(f *netstack.Flow) { f.Refuse(<-reasons) })
	for _, family := range families {
		router, client, lan := transitAddrs[family][0], transitAddrs[family][1], transitAddrs[family][3]
		t.Run("reset/"+family, func(t *testing.T) {
			for _, reason := range []error{syscall.ECONNREFUSED, nil, io.EOF} {
				reasons <- reason
				w.send(rawTCP(client, lan, flowSYN, nil))
				reset(t, w.next(), lan)
			}
		})
		for _, test := range tests {
			for name, packet := range map[string][]byte{
				"TCP": rawTCP(client, lan, flowSYN, nil), "UDP": rawUDP(client, lan, 99, 53, []byte("?")),
				"ping": echoRequest(client, lan, 1, 1, "?"),
			} {
				if name == "TCP" && !test.tcp || name == "UDP" && !test.udp || name == "ping" && !test.ping {
					continue
				}
				t.Run(test.name+"/"+name+" over "+family, func(t *testing.T) {
					want := []answer{test.answer4}
					if family == "IPv6" {
						if want = test.answers6; name != "TCP" {
							want = want[:1]
						}
					}
					from := router
					if errors.Is(test.reason, syscall.ECONNREFUSED) || test.reason == io.EOF && name == "UDP" {
						from = lan // it is the host itself that says so
					}
					reasons <- test.reason
					w.send(packet)
					for _, a := range want {
						src, kind, code, _, inner := asMessage(t, w.next())
						if (answer{kind, code}) != a || src != from || !bytes.Equal(inner, packet) {
							t.Errorf("ICMP %d, %d from %s about %x, want %v from %s about %x", kind, code, src, inner, a, from, packet)
						}
					}
				})
			}
		}
	}
	w.quiet(t)
}

// What no router may pass on, or nobody can answer for, begins no flow, and nothing is said about it.
func TestNoFlow(t *testing.T) {
	addr := netip.MustParseAddr
	udp := func(src, dst string) []byte { return rawUDP(addr(src), addr(dst), 9, 53, []byte("no")) }
	tests := []struct {
		name   string
		packet []byte
	}{
		{"to IPv4 link-local", udp("10.0.0.2", "169.254.169.254")},
		{"to IPv6 link-local", udp("fd00::2", "fe80::1")},
		{"to multicast", udp("10.0.0.2", "224.0.0.251")},
		{"to IPv6 multicast", udp("fd00::2", "ff02::fb")},
		{"to loopback", udp("10.0.0.2", "127.0.0.1")},
		{"to IPv6 loopback", udp("fd00::2", "::1")},
		{"to 4-in-6", rawUDP(addrB6, netip.AddrFrom16(addrLAN4.As16()), 9, 53, []byte("no"))},
		{"to this network", udp("10.0.0.2", "0.1.2.3")},
		{"to unspecified", udp("10.0.0.2", "0.0.0.0")},
		{"to broadcast", udp("10.0.0.2", "255.255.255.255")},
		{"from link-local", udp("fe80::2", "fd01::1")},
		{"from our own address", udp("10.0.0.1", "192.168.1.1")},
		{"from nobody", udp("10.9.0.2", "192.168.1.1")},
		{"UDP checksum", edit(rawUDP(addrB4, addrLAN4, 9, 53, []byte("no")), func(p []byte) { p[27]++ })},
		{"no UDP checksum over IPv6", edit(rawUDP(addrB6, addrLAN6, 9, 53, []byte("no")), put16(46, 0))},
		{"UDP length", edit(rawUDP(addrB4, addrLAN4, 9, 53, []byte("no")), put16(24, 9))},
		{"UDP header, cut off", rawIP(addrB4, addrLAN4, header.UDPProtocolNumber, make([]byte, 7))},
		{"TCP checksum", edit(rawTCP(addrB4, addrLAN4, flowSYN, nil), func(p []byte) { p[36]++ })},
		{"TCP header, cut off", rawIP(addrB4, addrLAN4, header.TCPProtocolNumber, make([]byte, 19))},
		{"TCP data offset", edit(rawTCP(addrB4, addrLAN4, flowSYN, nil), func(p []byte) { p[32] = 0xf0 })},
		{"reset of nothing", rawTCP(addrB4, addrLAN4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagRst}, nil)},
		{"IPv4 checksum", edit(rawUDP(addrB4, addrLAN4, 9, 53, nil), func(p []byte) { p[10]++ })},
		{"IPv4 options", edit4(rawIP(addrB4, addrLAN4, header.UDPProtocolNumber, make([]byte, 20)), func(p []byte) { p[0] = 0x46 })},
		{"extension header", extended(1, 60, rawUDP(addrB6, addrLAN6, 9, 53, nil))},
		{"echo request, checksum", edit(echoRequest(addrB4, addrLAN4, 1, 1, "no"), func(p []byte) { p[29]++ })},
		{"echo reply", rawICMP(addrB4, addrLAN4, 0, 0, [4]byte{}, []byte("no"))},
		{"echo reply over IPv6", rawICMP(addrB6, addrLAN6, 129, 0, [4]byte{}, []byte("no"))},
		{"redirect", rawICMP(addrB4, addrLAN4, 5, 1, [4]byte{}, make([]byte, 28))},
		{"ICMP error about nothing", rawICMP(addrB4, addrLAN4, 3, 3, [4]byte{}, rawUDP(addrLAN4, addrB4, 1, 2, nil))},
		{"neighbor solicitation", rawICMP(addrB6, addrLAN6, 135, 0, [4]byte{}, make([]byte, 16))},
		{"timestamp request", rawICMP(addrB4, addrLAN4, 13, 0, [4]byte{}, make([]byte, 12))},
		{"ICMPv6 over IPv4", rawIP(addrB4, addrLAN4, icmp6, make([]byte, 20))},
		{"another protocol", rawIP(addrB4, addrLAN4, 132, make([]byte, 20))},
		{"ICMP error with TTL 1", withTTL(rawICMP(addrB4, addrLAN4, 3, 3, [4]byte{}, rawUDP(addrLAN4, addrB4, 1, 2, nil)), 1)},
	}
	_, w := newTransit(t, func(f *netstack.Flow) { t.Errorf("a %s flow from %s to %s", f.Network(), f.Source(), f.Destination()) })
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.send(test.packet)
			w.quiet(t)
		})
	}
}

// A segment of a connection that nobody knows is answered with a reset, as by any host (RFC 9293, section 3.10.7.1).
func TestStrayTransitSegment(t *testing.T) {
	_, w := newTransit(t, func(f *netstack.Flow) { t.Errorf("a %s flow", f.Network()) })
	for _, family := range families {
		client, other, lan := transitAddrs[family][1], transitAddrs[family][2], transitAddrs[family][3]
		for _, dst := range []netip.Addr{lan, other} {
			w.send(rawTCP(client, dst, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagAck, SeqNum: 3, AckNum: 77}, []byte("x")))
			src, to, _, p := dissect(w.next())
			if h := header.TCP(p); src != dst || to != client || h.Flags() != header.TCPFlagRst || h.SequenceNumber() != 77 {
				t.Errorf("flags %s, sequence number %d from %s, want a reset at 77", h.Flags(), h.SequenceNumber(), src)
			}
		}
	}
	w.quiet(t)
}

// fault 45: the time to live ends here (RFC 1812, section 5.3.1), on the way to a host or to another peer, and whatever a
// handler would say.
func TestTransitTTL(t *testing.T) {
	_, w := newTransit(t, func(f *netstack.Flow) { t.Errorf("a %s flow", f.Network()) })
	for _, family := range families {
		router, client, other, lan := transitAddrs[family][0], transitAddrs[family][1], transitAddrs[family][2], transitAddrs[family][3]
		for _, dst := range []netip.Addr{lan, other} {
			for _, packet := range [][]byte{
				rawTCP(client, dst, flowSYN, nil), rawUDP(client, dst, 1, 33434, make([]byte, 1000)), echoRequest(client, dst, 1, 1, "trace"),
			} {
				for _, ttl := range []uint8{0, 1} {
					packet = withTTL(packet, ttl)
					w.send(packet)
					src, kind, code, _, inner := asMessage(t, w.next())
					want := uint8(header.ICMPv4TimeExceeded)
					if family == "IPv6" {
						want = uint8(header.ICMPv6TimeExceeded)
					}
					if src != router || kind != want || code != 0 || !bytes.HasPrefix(packet, inner) || len(inner) < 28 {
						t.Errorf("ICMP %d, %d from %s about %d bytes, want %d, 0 from %s", kind, code, src, len(inner), want, router)
					}
				}
			}
		}
	}
}

// ICMP errors are limited (RFC 1812, section 4.3.2.8), for each peer by itself; TCP gets a reset instead.
func TestTransitErrorsAreLimited(t *testing.T) {
	_, w := newTransit(t, func(f *netstack.Flow) { f.Refuse(syscall.EHOSTUNREACH) })
	const sent = 1000
	packet := withTTL(rawUDP(addrB4, addrLAN4, 1, 33434, nil), 1)
	begin := time.Now()
	for range sent {
		w.send(packet)
	}
	most := netstack.ErrorBurst + 1 + int(time.Since(begin).Seconds()*netstack.ErrorBurst) // which is the rate too
	w.send(echoRequest(addrB4, addrA4, 7, 7, "is that all"))
	errs := 0
	for {
		if _, kind, _, _, _ := asMessage(t, w.next()); kind == uint8(header.ICMPv4EchoReply) {
			break
		}
		errs++
	}
	if errs < netstack.ErrorBurst || errs > most {
		t.Errorf("%d packets were answered by %d errors, want %d to %d", sent, errs, netstack.ErrorBurst, most)
	}
	w.send(withTTL(rawUDP(addrC4, addrLAN4, 1, 33434, nil), 1)) // another peer's bucket is full
	if _, kind, _, _, _ := asMessage(t, w.next()); kind != uint8(header.ICMPv4TimeExceeded) {
		t.Errorf("ICMP type %d for another peer", kind)
	}
	refused := 0 // some tokens may have come back by now
	for range 200 {
		w.send(rawTCP(addrB4, addrLAN4, flowSYN, nil))
		if _, _, proto, _ := dissect(w.next()); proto == header.TCPProtocolNumber {
			refused++
		}
	}
	if refused == 0 {
		t.Error("200 refused connections, and no reset")
	}
}

// flowsOf is a handler that hands flows over to the test.
func flowsOf() (flows chan *netstack.Flow, handler func(*netstack.Flow)) {
	flows = make(chan *netstack.Flow, 1<<16)
	return flows, func(f *netstack.Flow) {
		flows <- f
		<-f.Context().Done()
	}
}

// The second stack says nothing of its own accord, to whom it could, when it begins.
func TestTransitStackIsSilent(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: testTransitAddresses})
	s.SetRoutes(routes(peerB, "0.0.0.0/0", "::/0"))
	w := newWire(t, s)
	w.quiet(t)
	if err := s.HandleFlows(func(*netstack.Flow) {}); err != nil {
		t.Fatal(err)
	}
	w.quiet(t)
}

// While an address changes hands, nobody can tell whose a packet from it is: no flow of the old peer gets it, and none begins.
func TestFlowsWhileAnAddressMoves(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	w.send(rawUDP(addrB4, addrLAN4, 9, 53, []byte("old")))
	f := <-flows
	c, err := f.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 10)
	if _, err := c.Read(b); err != nil {
		t.Fatal(err)
	}
	next := routes(peerC, "10.0.0.2/32", "10.0.0.3/32")
	err = s.ChangeRoutes(next, func() error {
		<-f.Context().Done()
		w.send(rawUDP(addrB4, addrLAN4, 9, 53, []byte("new")), rawTCP(addrB4, addrLAN4, flowSYN, nil))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read: %q, %v, want ECONNRESET", b[:n], err)
	}
	if stats, _ := s.FlowStats(); stats.Open+stats.Undecided != 0 {
		t.Errorf("%+v: a flow has begun meanwhile", stats)
	}
	w.send(rawUDP(addrB4, addrLAN4, 9, 53, []byte("new")))
	if f := <-flows; f.Peer() != peerC {
		t.Errorf("the flow is peer %d's, want %d", f.Peer(), peerC)
	}
}
