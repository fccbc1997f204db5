// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
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

// What comes before the decision waits for it, within bounds.
func TestHeldPackets(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for i := range 3 * netstack.HeldPackets {
		w.send(rawUDP(addrB4, addrLAN4, 99, 53, []byte{byte(i)}))
	}
	c, err := (<-flows).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.send(rawUDP(addrB4, addrLAN4, 99, 53, []byte("later")))
	b := make([]byte, 100)
	for i := range netstack.HeldPackets {
		if n, err := c.Read(b); err != nil || n != 1 || b[0] != byte(i) {
			t.Errorf("message %d: %x, %v", i, b[:n], err)
		}
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "later" {
		t.Errorf("%q, %v, want the one that came later", b[:n], err)
	}
	if _, _, _, buffered := s.FlowTable(); buffered != 0 {
		t.Errorf("%d bytes are still accounted for", buffered)
	}
}

// A program that does not read costs a bounded amount of memory.
func TestUnreadFlow(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	big := rawUDP(addrB4, addrLAN4, 99, 53, make([]byte, 60_000))
	w.send(big)
	c, err := (<-flows).Accept()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w.send(big)
	}
	if _, _, _, buffered := s.FlowTable(); buffered > netstack.MaxFlowBuffered || buffered < netstack.MaxFlowBuffered/2 {
		t.Errorf("%d bytes wait, want at most %d", buffered, netstack.MaxFlowBuffered)
	}
	c.Close()
	if _, _, _, buffered := s.FlowTable(); buffered != 0 {
		t.Errorf("%d bytes wait after Close", buffered)
	}
}

// faults 27 to 29, for the conns of datagram flows.
func TestFlowConn(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for _, network := range []string{"udp", "ping"} {
		packet := rawUDP(addrB4, addrLAN4, 99, 53, []byte("xyz"))
		if network == "ping" {
			packet = echoRequest(addrB4, addrLAN4, 99, 0x7879, "z")
		}
		w.send(packet)
		f := <-flows
		c, err := f.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.LocalAddr().Network(), map[string]string{"udp": "udp", "ping": "ip"}[network]; got != want {
			t.Errorf("the network of the address is %q, want %q", got, want)
		}
		b := make([]byte, 10)
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("empty Read: %d, %v", n, err)
		}
		if n, err := c.Read(b); string(b[:n]) != "xyz" || err != nil {
			t.Errorf("Read: %q, %v", b[:n], err)
		}
		if _, err := c.Write([]byte("abc")); err != nil {
			t.Error(err)
		}
		src, dst, _, p := dissect(w.next())
		if src != addrLAN4 || dst != addrB4 || !bytes.HasSuffix(p, []byte("abc")) {
			t.Errorf("from %s to %s: %x", src, dst, p)
		}
		if _, err := c.Write(make([]byte, 65_535)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("too large a Write: %v", err)
		}
		if network == "ping" {
			if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("Write without a sequence number: %v", err)
			}
		}
		if err := c.SetDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Error(err)
		}
		var ne net.Error
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Read past the deadline: %v", err)
		}
		if _, err := c.Write([]byte("abc")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write past the deadline: %v", err)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		for _, end := range []func() error{c.Close, s.Close} {
			if network == "udp" { // the stack ends with the last one only
				end = c.Close
			}
			reading := make(chan error, 1)
			go func() { // ends with the conn
				_, err := c.Read(b)
				reading <- err
			}()
			if err := end(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if err := <-reading; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after the end: %v", err)
			}
		}
		for what, err := range map[string]error{
			"Close": c.Close(), "SetDeadline": c.SetDeadline(time.Time{}), "Write": second(c.Write([]byte("abc"))),
		} {
			if oe := new(net.OpError); !errors.Is(err, net.ErrClosed) || !errors.As(err, &oe) {
				t.Errorf("%s after Close: %v", what, err)
			}
		}
		<-f.Context().Done()
	}
}

func second(_ int, err error) error { return err }

// An ICMP error of the peer's reaches the conn that it is about.
func TestFlowConnLearnsOfErrors(t *testing.T) {
	flows, handler := flowsOf()
	_, w := newTransit(t, handler)
	for _, family := range families {
		client, lan := transitAddrs[family][1], transitAddrs[family][3]
		w.send(rawUDP(client, lan, 99, 53, []byte("x")))
		c, err := (<-flows).Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		answer := w.next()
		if family == "IPv4" {
			w.send(rawICMP(client, lan, 3, 3, [4]byte{}, answer))
		} else {
			w.send(rawICMP(client, lan, 1, 4, [4]byte{}, answer))
		}
		if _, err := c.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Read: %v, want ECONNREFUSED", err)
		}
		w.send(rawUDP(client, lan, 99, 53, []byte("again")))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "again" {
			t.Errorf("Read after the error: %q, %v", b[:n], err)
		}
		c.Close()
	}
}

// fault 65: a flood of SYNs costs a bounded amount of memory and goroutines, whatever the handler does, and leaves nothing.
// fault 66: another peer does not notice.
func TestSYNFlood(t *testing.T) {
	for _, accepts := range []bool{false, true} {
		checkGoroutines(t)
		honest := make(chan *netstack.Flow, 1)
		s, w := newTransit(t, func(f *netstack.Flow) {
			switch {
			case f.Peer() == peerC:
				honest <- f
				f.Refuse(syscall.ECONNREFUSED)
			case accepts:
				if c, err := f.Accept(); err == nil {
					c.Close()
					t.Error("a connection that nobody completes is accepted")
				}
			default:
				<-f.Context().Done() // as a dial to a black hole
			}
		})
		s.SetFlowLimits(1000, 500, 200, 100, 8)
		before := runtime.NumGoroutine()
		syn := flowSYN
		for i := range 20_000 {
			syn.SrcPort, syn.DstPort = uint16(1+i%60_000), uint16(1+i/60_000)
			w.send(rawTCP(addrB4, addrLAN4, syn, nil))
			for len(w.out) > 0 {
				<-w.out // SYN-ACKs
			}
		}
		stats, _ := s.FlowStats()
		if stats.Undecided != 100 || stats.Capped != 20_000-100 {
			t.Errorf("%+v, want 100 undecided ones", stats)
		}
		if n := runtime.NumGoroutine(); n > before+3*100 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		w.send(rawTCP(addrC4, addrLAN4, flowSYN, nil))
		<-honest
		s.ExpireFlows(netstack.UndecidedTimeout)
		if !eventually(func() bool { keys, _, undecided, buffered := s.FlowTable(); return keys+undecided+int(buffered) == 0 }) {
			t.Error("flows are left when they have timed out")
		}
		if !eventually(func() bool { return s.TransitEndpoints() == 0 }) {
			t.Errorf("%d endpoints are left", s.TransitEndpoints())
		}
		s.Close()
	}
}

// fault 67: more UDP flows than there may be: the one that was idle for longest goes.
func TestUDPFlowsAreBounded(t *testing.T) {
	conns := make(chan net.Conn, 1<<12)
	s, w := newTransit(t, func(f *netstack.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		conns <- c
		<-f.Context().Done()
	})
	const most, sent = 50, 1000
	s.SetFlowLimits(1000, most, 5000, 5000, 8)
	all := make([]net.Conn, 0, sent)
	for i := range sent {
		w.send(rawUDP(addrB4, addrLAN4, uint16(1000+i), 53, []byte("x")))
		all = append(all, <-conns) // none of them is evicted undecided
	}
	stats, peers := s.FlowStats()
	if stats.Open != most || stats.Evicted != sent-most || peers[peerB] != stats {
		t.Errorf("%+v, of the peer %+v, want %d open and %d evicted", stats, peers[peerB], most, sent-most)
	}
	b := make([]byte, 10)
	for i, c := range all {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		n, err := c.Read(b)
		if evicted := i < sent-most; evicted && !errors.Is(err, syscall.ECONNABORTED) || !evicted && (err != nil || n != 1) {
			t.Errorf("flow %d: %d bytes, %v", i, n, err)
		}
	}
	if keys, idle, _, _ := s.FlowTable(); keys != most || idle != most {
		t.Errorf("%d flows in the table, %d in the list, want %d", keys, idle, most)
	}
	s.Close()
	if !eventually(func() bool {
		keys, idle, undecided, buffered := s.FlowTable()
		return keys+idle+undecided+int(buffered) == 0
	}) {
		t.Error("flows are left after Close")
	}
}

// What is in use is not what was idle for longest.
func TestFlowInUseIsNotEvicted(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	s.SetFlowLimits(100, 3, 100, 100, 8)
	var all []*netstack.Flow
	begin := func(port uint16) {
		t.Helper()
		w.send(rawUDP(addrB4, addrC4, port, 53, nil))
		f := <-flows
		if err := f.Forward(); err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	for port := range uint16(3) {
		begin(1 + port)
	}
	for range 4 { // in steps that are shorter than what is noticed at once
		s.AgeFlows(600 * time.Millisecond)
		w.send(rawUDP(addrB4, addrC4, 1, 53, nil), rawUDP(addrC4, addrB4, 53, 2, nil))
	}
	begin(4)
	for i, f := range all {
		if evicted := f.Context().Err() != nil; evicted != (i == 2) {
			t.Errorf("flow %d is evicted: %v", i, evicted)
		}
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

// fault 24, for flows: nothing of a peer that has gone is kept but its counters' sum.
func TestGonePeersLeaveNothing(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for i := range 50 {
		s.SetRoutes(append(routes(netstack.PeerID(10+i), "10.0.0.2/32"), routes(peerC, "10.0.0.3/32")...))
		w.send(rawUDP(addrB4, addrLAN4, 9, 53, nil), rawUDP(addrB4, addrC4, 9, 53, nil))
		for range 2 {
			if err := (<-flows).Forward(); err != nil && !errors.Is(err, syscall.ENETUNREACH) {
				t.Fatal(err)
			}
		}
	}
	s.SetRoutes(nil)
	stats, peers := s.FlowStats()
	if stats.Forwarded != 50 || stats.Open+stats.Undecided != 0 || len(peers) != 0 {
		t.Errorf("%+v, of peers %+v", stats, peers)
	}
	if keys, idle, _, buffered := s.FlowTable(); keys+idle+int(buffered) != 0 {
		t.Errorf("%d keys, %d in the list, %d bytes", keys, idle, buffered)
	}
}

// A peer that has taken up all flows pays with its own for another peer's.
func TestFlowsAreShared(t *testing.T) {
	s, w := newTransit(t, func(f *netstack.Flow) {
		if err := f.Forward(); err != nil {
			t.Error(err)
		}
	})
	s.SetFlowLimits(10, 10, 100, 100, 2)
	forwarded := func(n uint64) {
		t.Helper()
		if !eventually(func() bool { stats, _ := s.FlowStats(); return stats.Forwarded == n }) {
			t.Fatal("flows are not forwarded")
		}
	}
	w.send(rawUDP(addrC4, addrB4, 1, 53, nil)) // the oldest of all
	forwarded(1)
	for i := range 20 {
		w.send(rawUDP(addrB4, addrC4, uint16(1000+i), 53, nil))
		forwarded(uint64(2 + i))
	}
	_, peers := s.FlowStats()
	if peers[peerC].Open != 1 || peers[peerC].Evicted != 0 || peers[peerB].Open != 9 {
		t.Errorf("%+v: the flow of the second peer, or of the first one, has gone", peers)
	}
}

// fault 18, for flows: Close, an end of the handler and another's beginning come at any moment under a flood of every kind.
func TestCloseUnderFloodOfFlows(t *testing.T) {
	checkGoroutines(t)
	for round := range 30 {
		decide := func(f *netstack.Flow) {
			switch f.Source().Port() % 4 {
			case 0:
				f.Refuse(syscall.EHOSTUNREACH)
			case 1:
				_ = f.Forward() // which has nobody to forward to, or may come too late
			default:
				if c, err := f.Accept(); err == nil {
					_, _ = c.Read(make([]byte, 10))
					_, _ = c.Write([]byte("abc"))
					c.Close()
				}
			}
		}
		s, err := netstack.New(netstack.Config{Addresses: testTransitAddresses})
		if err != nil {
			t.Fatal(err)
		}
		s.SetRoutes(append(routes(peerB, "10.0.0.2/32"), routes(peerC, "10.0.0.3/32")...))
		if err := s.HandleFlows(decide); err != nil {
			t.Fatal(err)
		}
		d := s.Device()
		halfway, ended := make(chan struct{}), make(chan struct{}, 2)
		go func() { // ends with the stack
			bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
			for {
				if _, err := d.Read(bufs, sizes, 0); err != nil {
					ended <- struct{}{}
					return
				}
			}
		}()
		go func() { // ends with the stack
			for i := 0; ; i++ {
				if i == 10*round {
					close(halfway)
				}
				port, dst := uint16(1+i%1000), []netip.Addr{addrLAN4, addrC4}[i/3%2]
				syn := flowSYN
				syn.SrcPort = port
				packets := [][]byte{rawTCP(addrB4, dst, syn, nil), rawUDP(addrB4, dst, port, 53, []byte("x")), echoRequest(addrB4, dst, port, 1, "x")}
				if _, err := d.Write([][]byte{packets[i%3]}, 0); err != nil {
					ended <- struct{}{}
					return
				}
			}
		}()
		<-halfway
		if round%2 == 0 {
			for _, handler := range []func(*netstack.Flow){nil, decide, nil} {
				if err := s.HandleFlows(handler); err != nil {
					t.Error(err)
				}
			}
		}
		if round%3 == 0 {
			s.SetRoutes(routes(peerC, "10.0.0.2/32"))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		<-ended
		if keys, idle, _, buffered := s.FlowTable(); keys+idle+int(buffered) != 0 {
			t.Errorf("%d keys, %d in the list, %d bytes are left", keys, idle, buffered)
		}
	}
}
