// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// forwarding is a handler that forwards, and fails the test if that fails.
func forwarding(t *testing.T) func(*netstack.Flow) {
	return func(f *netstack.Flow) {
		if err := f.Forward(); err != nil {
			t.Errorf("Forward: %v", err)
		}
	}
}

// without is a packet as it leaves: with a lower time to live.
func without(p []byte) []byte {
	if p[0]>>4 == 4 {
		return withTTL(p, p[8]-1)
	}
	return withTTL(p, p[7]-1)
}

func rawFlags(src, dst netip.Addr, sport, dport uint16, flags header.TCPFlags) []byte {
	return rawTCP(src, dst, header.TCPFields{SrcPort: sport, DstPort: dport, Flags: flags, SeqNum: 1, AckNum: 1, WindowSize: 1000}, nil)
}

// What is forwarded changes in nothing but the time to live, and its checksum stays right, for all values of it (RFC 1624).
func TestForwardedPackets(t *testing.T) {
	_, w := newTransit(t, forwarding(t))
	for _, family := range families {
		src, dst := transitAddrs[family][1], transitAddrs[family][2]
		for _, packet := range [][]byte{
			rawUDP(src, dst, 9, 53, []byte("datagram")), echoRequest(src, dst, 1, 1, "ping"), rawTCP(src, dst, flowSYN, nil),
			rawUDP(dst, src, 53, 9, []byte("answer")), rawTCP(dst, src, header.TCPFields{SrcPort: 80, DstPort: 99, Flags: header.TCPFlagSyn | header.TCPFlagAck}, nil),
		} {
			for ttl := 2; ttl < 256; ttl++ {
				for id := range uint16(3) {
					p := withTTL(packet, uint8(ttl))
					if family == "IPv4" {
						p = edit4(p, put16(4, id*0x7fff))
					}
					w.send(p)
					if got, want := w.next(), without(p); !bytes.Equal(got, want) {
						t.Fatalf("TTL %d: forwarded as\n%x, want\n%x", ttl, got, want)
					}
				}
			}
		}
	}
	w.quiet(t)
}

// Answers pass, and nothing else does that the handler has not seen.
func TestForwardedFlowsAreTracked(t *testing.T) {
	var seen []string
	decided := make(chan string, 100)
	_, w := newTransit(t, func(f *netstack.Flow) {
		if f.Peer() == peerB {
			if err := f.Forward(); err != nil {
				t.Errorf("Forward: %v", err)
			}
		} else {
			f.Drop()
		}
		decided <- f.Network() + " " + f.Source().String() + " " + f.Destination().String()
	})
	b, c := addrB4, addrC4
	router := netip.MustParseAddr("10.0.0.254") // behind no peer
	request := rawUDP(b, c, 9, 53, []byte("request"))
	tests := []struct {
		name   string
		packet []byte
		passes bool
		asked  bool
	}{
		{"a stranger's answer", rawUDP(c, b, 53, 9, nil), false, true},
		{"an error about nothing", rawICMP(c, b, 3, 3, [4]byte{}, request), false, false},
		{"request", request, true, true},
		{"answer", rawUDP(c, b, 53, 9, []byte("answer")), true, false},
		{"error about the request", rawICMP(c, b, 3, 3, [4]byte{}, request[:28]), true, false},
		{"time exceeded about the request", rawICMP(c, b, 11, 0, [4]byte{}, request), true, false},
		{"error about the answer", rawICMP(b, c, 3, 3, [4]byte{}, rawUDP(c, b, 53, 9, nil)), true, false},
		{"error to somebody else", rawICMP(c, addrLAN4, 3, 3, [4]byte{}, request), false, false},
		{"error about another port", rawICMP(c, b, 3, 3, [4]byte{}, rawUDP(b, c, 10, 53, nil)), false, false},
		{"error from nowhere", rawICMP(router, b, 3, 3, [4]byte{}, request), false, false},
		{"error, checksum", edit(rawICMP(c, b, 3, 3, [4]byte{}, request), func(p []byte) { p[22]++ }), false, false},
		{"answer from another port", rawUDP(c, b, 54, 9, nil), false, true},
		{"answer to another port", rawUDP(c, b, 53, 10, nil), false, true},
		{"echo reply without a request", rawICMP(c, b, 0, 0, [4]byte{0, 5}, nil), false, false},
		{"echo request", echoRequest(b, c, 5, 1, "ping"), true, true},
		{"its reply", rawICMP(c, b, 0, 0, [4]byte{0, 5, 0, 1}, []byte("ping")), true, false},
		{"echo request with 0", echoRequest(b, c, 0, 1, "ping"), true, true},
		{"its reply with 0", rawICMP(c, b, 0, 0, [4]byte{0, 0, 0, 1}, []byte("ping")), true, false},
		{"a request the other way with 0", echoRequest(c, b, 0, 1, "ping"), false, true},
		{"its reply with 0, again", rawICMP(c, b, 0, 0, [4]byte{0, 0, 0, 1}, []byte("ping")), true, false},
		{"a reply to another", rawICMP(c, b, 0, 0, [4]byte{0, 6, 0, 1}, []byte("ping")), false, false},
		{"SYN", rawFlags(b, c, 9, 80, header.TCPFlagSyn), true, true},
		{"SYN-ACK", rawFlags(c, b, 80, 9, header.TCPFlagSyn|header.TCPFlagAck), true, false},
		{"data", rawFlags(b, c, 9, 80, header.TCPFlagAck|header.TCPFlagPsh), true, false},
		{"SYN the other way", rawFlags(c, b, 81, 9, header.TCPFlagSyn), false, true},
		{"SYN from where answers come", rawFlags(c, b, 80, 9, header.TCPFlagSyn), false, true},
		{"that, checksum", edit(rawFlags(c, b, 80, 9, header.TCPFlagSyn), func(p []byte) { p[36]++ }), false, false},
		{"answer after it", rawFlags(c, b, 80, 9, header.TCPFlagAck), true, false},
	}
	for _, test := range tests {
		w.send(test.packet)
		if test.asked {
			select {
			case what := <-decided:
				seen = append(seen, what)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: the handler is not asked", test.name)
			}
		}
		if test.passes {
			if got, want := w.next(), without(test.packet); !bytes.Equal(got, want) {
				t.Errorf("%s: %x passes, want %x", test.name, got, want)
			}
		}
		t.Run(test.name, w.quiet)
	}
	if len(decided) > 0 {
		t.Errorf("the handler was asked about %s too, after %q", <-decided, seen)
	}
}

// Timeouts are those of RFC 4787 and RFC 5382.
func TestForwardedFlowsTimeOut(t *testing.T) {
	const ack, syn, fin, rst = header.TCPFlagAck, header.TCPFlagSyn, header.TCPFlagFin, header.TCPFlagRst
	b, c := addrB6, addrC6
	there := func(flags header.TCPFlags) []byte { return rawFlags(b, c, 9, 80, flags) }
	back := func(flags header.TCPFlags) []byte { return rawFlags(c, b, 80, 9, flags) }
	tests := []struct {
		name    string
		packets [][]byte
		limit   time.Duration
	}{
		{"UDP", [][]byte{rawUDP(b, c, 9, 53, nil), rawUDP(c, b, 53, 9, nil)}, netstack.UDPTimeout},
		{"ping", [][]byte{echoRequest(b, c, 1, 1, "")}, netstack.PingTimeout},
		{"SYN", [][]byte{there(syn)}, netstack.TransitoryTimeout},
		{"half a handshake", [][]byte{there(syn), back(syn | ack)}, netstack.TransitoryTimeout},
		{"established", [][]byte{there(syn), back(syn | ack), there(ack)}, netstack.EstablishedTimeout},
		{"FIN", [][]byte{there(syn), back(syn | ack), there(ack), there(fin | ack)}, netstack.TransitoryTimeout},
		{"reset", [][]byte{there(syn), back(syn | ack), there(ack), back(rst)}, netstack.TransitoryTimeout},
		{"begun anew", [][]byte{there(syn), back(rst | ack), there(syn), back(syn | ack), there(ack)}, netstack.EstablishedTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, w := newTransit(t, forwarding(t))
			for _, p := range test.packets {
				w.send(p)
				w.next()
			}
			s.ExpireFlows(test.limit - time.Minute/2)
			if stats, _ := s.FlowStats(); stats.Open != 1 {
				t.Errorf("%+v, want an open flow", stats)
			}
			s.ExpireFlows(test.limit)
			keys, idle, undecided, _ := s.FlowTable()
			if stats, _ := s.FlowStats(); stats.Open != 0 || keys+idle+undecided != 0 {
				t.Errorf("%+v, and %d keys, %d in the list, %d undecided, want nothing", stats, keys, idle, undecided)
			}
		})
	}
}

// What is too big is fragmented where it may be, and its sender told where it may not.
func TestForwardedSizes(t *testing.T) {
	_, w := newTransit(t, forwarding(t))
	const mtu = netstack.DefaultMTU
	dontFragment := func(p []byte) []byte { return edit4(p, func(p []byte) { p[6] |= 0x40 }) }
	data := bytes.Repeat([]byte("0123456789abcdef"), 200)
	whole4, whole6 := rawUDP(addrB4, addrC4, 9, 53, data), rawUDP(addrB6, addrC6, 9, 53, data)
	full4, full6 := rawUDP(addrB4, addrC4, 9, 53, data[:mtu-28]), rawUDP(addrB6, addrC6, 9, 53, data[:mtu-48])
	tests := []struct {
		name    string
		packets [][]byte
		want    []byte // what it is once it is put together, or nil if it is refused
	}{
		{"full", [][]byte{full4}, full4},
		{"full, IPv6", [][]byte{full6}, full6},
		{"larger", [][]byte{whole4}, whole4},
		{"larger, not to be fragmented", [][]byte{dontFragment(whole4)}, nil},
		{"larger, IPv6", [][]byte{whole6}, nil},
		{"fragments", slices.Collect(fragmentsOf4(whole4, 800)), whole4},
		{"fragments, IPv6", slices.Collect(fragmentsOf6(whole6, 800)), whole6},
		{"tiny fragments", slices.Collect(fragmentsOf4(full4, 400)), full4},
		{"tiny fragments, IPv6", slices.Collect(fragmentsOf6(full6, 400)), full6},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.send(test.packets...)
			if test.want == nil {
				src, kind, code, rest, inner := asMessage(t, w.next())
				if (kind != 3 || code != 4) && (kind != 2 || code != 0) || rest != mtu || (src != addrA4 && src != addrA6) ||
					!bytes.HasPrefix(test.packets[0], inner) {
					t.Errorf("ICMP %d, %d, MTU %d from %s, want packet too big", kind, code, rest, src)
				}
				w.quiet(t)
				return
			}
			want := without(test.want)
			have := 0
			got := make([]byte, len(want))
			for have < len(want) {
				p := w.next()
				if len(p) > mtu {
					t.Fatalf("a packet of %d bytes", len(p))
				}
				var n int
				if p[0]>>4 == 4 {
					h := header.IPv4(p)
					if !h.IsChecksumValid() || h.TTL() != 63 {
						t.Fatalf("fragment with TTL %d, checksum valid: %v", h.TTL(), h.IsChecksumValid())
					}
					n = copy(got[20+int(h.FragmentOffset()):], p[20:])
					if have == 0 {
						n += copy(got, p[:20])
					}
				} else if p[6] == header.IPv6FragmentHeader {
					offset := int(p[42])<<8 | int(p[43]&^7)
					n = copy(got[40+offset:], p[48:])
					if have == 0 {
						n += copy(got, p[:40])
					}
				} else {
					n = copy(got, p)
				}
				have += n
			}
			ipLen := 20
			if want[0]>>4 == 6 {
				ipLen = 40
			}
			if !bytes.Equal(got[ipLen:], want[ipLen:]) {
				t.Error("the fragments do not make the datagram")
			}
			w.quiet(t)
		})
	}
}

// fragmentsOf4 and fragmentsOf6 cut a packet into fragments with so many bytes each.
func fragmentsOf4(p []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for at := 20; at < len(p); at += size {
			f := append(slices.Clone(p[:20]), p[at:min(at+size, len(p))]...)
			more := uint16(0)
			if at+size < len(p) {
				more = 0x2000
			}
			if !yield(edit4(f, func(f []byte) {
				put16(2, uint16(len(f)))(f)
				put16(4, 77)(f)
				put16(6, more|uint16(at-20)>>3)(f)
			})) {
				return
			}
		}
	}
}

func fragmentsOf6(p []byte, size int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for at := 40; at < len(p); at += size {
			more := byte(0)
			if at+size < len(p) {
				more = 1
			}
			offset := uint16(at - 40)
			f := append(slices.Clone(p[:40]), p[6], 0, byte(offset>>8), byte(offset)|more, 0, 0, 0, 77)
			f = append(f, p[at:min(at+size, len(p))]...)
			f[6] = header.IPv6FragmentHeader
			put16(4, uint16(len(f)-40))(f)
			if !yield(f) {
				return
			}
		}
	}
}

// Packets for a peer that takes none are bounded.
func TestForwardedPacketsAreBounded(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: testTransitAddresses})
	s.SetRoutes(append(routes(peerB, "10.0.0.2/32"), routes(peerC, "10.0.0.3/32")...))
	if err := s.HandleFlows(forwarding(t)); err != nil {
		t.Fatal(err)
	}
	d := s.Device() // which nobody reads from
	packet := rawUDP(addrB4, addrC4, 9, 53, make([]byte, 1000))
	send := func() {
		if _, err := d.Write([][]byte{slices.Clone(packet)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if !eventually(func() bool { stats, _ := s.FlowStats(); return stats.Forwarded == 1 }) {
		t.Fatal("the flow is not forwarded")
	}
	for range 2 * netstack.MaxForwarded {
		send()
	}
	if q := s.LinkQueue(); q.Forwarded != netstack.MaxForwarded || q.Dropped != netstack.MaxForwarded+1 {
		t.Errorf("%+v, want %d packets that wait", q, netstack.MaxForwarded)
	}
}

// Without a peer that serves the destination there is nobody to forward to.
func TestForwardToNobody(t *testing.T) {
	flows, handler := flowsOf()
	_, w := newTransit(t, handler)
	w.send(rawUDP(addrB4, addrLAN4, 9, 53, nil))
	f := <-flows
	if _, ok := f.Target(); ok {
		t.Error("the flow has a target")
	}
	oe := new(net.OpError)
	if err := f.Forward(); !errors.Is(err, syscall.ENETUNREACH) || !errors.As(err, &oe) || oe.Op != "forward" {
		t.Errorf("Forward: %v", err)
	}
	f.Drop()
	if err := f.Forward(); err == nil {
		t.Error("Forward after Drop succeeds")
	}
	w.quiet(t)
}

// Both sides begin at once, as in hole punching: each flow has its own decision.
func TestForwardBothWays(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	there, back := rawUDP(addrB4, addrC4, 7, 8, []byte("there")), rawUDP(addrC4, addrB4, 8, 7, []byte("back"))
	w.send(there, back)
	for _, f := range []*netstack.Flow{<-flows, <-flows} {
		if err := f.Forward(); err != nil {
			t.Fatal(err)
		}
		want := without(there)
		if f.Peer() == peerC {
			want = without(back)
		}
		if got := w.next(); !bytes.Equal(got, want) {
			t.Errorf("%x passes, want %x", got, want)
		}
	}
	w.send(there, back)
	w.next()
	w.next()
	if err := s.HandleFlows(nil); err != nil {
		t.Fatal(err)
	}
	if keys, idle, _, _ := s.FlowTable(); keys+idle != 0 {
		t.Errorf("%d keys, %d in the list", keys, idle)
	}
}

// Both sides of a TCP connection begin at once (RFC 9293, section 3.5). The handler is asked about each, also when the first
// one's flow is forwarded already; what is known of the connection is known of both flows.
func TestForwardSimultaneousOpen(t *testing.T) {
	const syn, ack, fin = header.TCPFlagSyn, header.TCPFlagAck, header.TCPFlagFin
	asked := make(chan *netstack.Flow, 10)
	s, w := newTransit(t, func(f *netstack.Flow) {
		asked <- f
		if err := f.Forward(); err != nil {
			t.Errorf("Forward: %v", err)
		}
	})
	pass := func(p []byte) {
		t.Helper()
		w.send(p)
		if got, want := w.next(), without(p); !bytes.Equal(got, want) {
			t.Fatalf("%x passes, want %x", got, want)
		}
	}
	there := func(flags header.TCPFlags) []byte { return rawFlags(addrB4, addrC4, 9, 80, flags) }
	back := func(flags header.TCPFlags) []byte { return rawFlags(addrC4, addrB4, 80, 9, flags) }
	open := func() int { stats, _ := s.FlowStats(); return stats.Open }
	pass(there(syn))
	pass(back(syn))
	pass(there(syn | ack))
	s.ExpireFlows(netstack.TransitoryTimeout - time.Minute/2)
	if len(asked) != 2 || open() != 2 {
		t.Errorf("the handler is asked %d times, and %d flows are open, want 2", len(asked), open())
	}
	pass(back(syn | ack))
	s.ExpireFlows(netstack.EstablishedTimeout - time.Minute/2)
	if n := open(); n != 2 {
		t.Errorf("%d flows of an established connection are open, want 2", n)
	}
	first := <-asked
	first.Drop()
	pass(there(ack)) // as an answer to the other one
	pass(back(fin | ack))
	if n := open(); n != 1 {
		t.Errorf("%d flows are open, want 1", n)
	}
	s.ExpireFlows(netstack.TransitoryTimeout)
	if keys, idle, _, _ := s.FlowTable(); keys+idle != 0 {
		t.Errorf("%d keys, %d in the list when the connection has ended", keys, idle)
	}
}
