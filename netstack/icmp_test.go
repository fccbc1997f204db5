// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// handshake begins a dial from a stack to the wire, and returns the SYN and where the dial's end will be told.
func handshake(t *testing.T, s *netstack.Stack, w *wire, dst netip.Addr) (syn []byte, ended <-chan error) {
	t.Helper()
	end := make(chan error, 1)
	go func() { // ended by what the test sends, or by the context
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := s.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(dst, 80))
		if err == nil {
			_ = c.SetLinger(0)
			c.Close()
		}
		end <- err
	}()
	for {
		p := w.next()
		if _, to, _, h := dissect(p); to == dst && header.TCP(h).Flags() == header.TCPFlagSyn {
			return p, end
		}
	}
}

func synAck(syn []byte) []byte {
	src, dst, _, p := dissect(syn)
	h := header.TCP(p)
	return rawTCP(dst, src, header.TCPFields{
		SrcPort: h.DestinationPort(), DstPort: h.SourcePort(), SeqNum: 1000, AckNum: h.SequenceNumber() + 1,
		Flags: header.TCPFlagSyn | header.TCPFlagAck, WindowSize: 10_000,
	}, nil)
}

// fault 45: ICMP errors in the middle of a handshake. Those that are about it end it or not, as RFC 1122, section
// 4.2.3.9, says; the broken ones do nothing at all.
func TestICMPErrorsDuringHandshake(t *testing.T) {
	router4, router6 := netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("fd00::fe")
	tests := []struct {
		name string
		v6   bool
		make func(syn []byte) []byte
		want error // nil: the handshake goes on
	}{
		{"port unreachable", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:28]) }, syscall.ECONNREFUSED},
		{"port unreachable", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 1, 4, [4]byte{}, syn) }, syscall.ECONNREFUSED},
		{"inner packet of 27 bytes", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:27]) }, nil},
		{"inner packet of 19 bytes", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:19]) }, nil},
		{"inner packet of 1 byte", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:1]) }, nil},
		{"no inner packet", false, func([]byte) []byte { return rawICMP(router4, addrA4, 3, 3, [4]byte{}, nil) }, nil},
		{"inner packet of 47 bytes", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 1, 4, [4]byte{}, syn[:47]) }, nil},
		{"inner packet of 39 bytes", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 1, 4, [4]byte{}, syn[:39]) }, nil},
		{"no inner packet", true, func([]byte) []byte { return rawICMP(router6, addrA6, 1, 4, [4]byte{}, nil) }, nil},
		{"inner header length 0", false, func(syn []byte) []byte {
			return rawICMP(router4, addrA4, 3, 3, [4]byte{}, edit(syn[:28], func(p []byte) { p[0] = 0x40 }))
		}, nil},
		{"inner header length 60, cut off", false, func(syn []byte) []byte {
			return rawICMP(router4, addrA4, 3, 3, [4]byte{}, edit(syn[:28], func(p []byte) { p[0] = 0x4f }))
		}, nil},
		{"inner packet of another connection", false, func(syn []byte) []byte {
			return rawICMP(router4, addrA4, 3, 3, [4]byte{}, edit(syn[:28], func(p []byte) { p[21] ^= 1 }))
		}, nil},
		{"inner packet from another host", false, func(syn []byte) []byte {
			return rawICMP(router4, addrA4, 3, 3, [4]byte{}, edit(syn[:28], func(p []byte) { p[15] ^= 1 }))
		}, nil},
		{"inner fragment header, cut off", true, func(syn []byte) []byte {
			return rawICMP(router6, addrA6, 1, 4, [4]byte{}, edit(syn[:44], func(p []byte) { p[6] = 44 }))
		}, nil},
		{"checksum", false, func(syn []byte) []byte {
			return edit(rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:28]), func(p []byte) { p[22] ^= 1 })
		}, nil},
		{"packet too big, MTU 0", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 2, 0, [4]byte{}, syn) }, nil},
		{"packet too big, MTU 1", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 2, 0, [4]byte{0, 0, 0, 1}, syn) }, nil},
		{"packet too big, huge MTU", true, func(syn []byte) []byte {
			return rawICMP(router6, addrA6, 2, 0, [4]byte{255, 255, 255, 255}, syn)
		}, nil},
		{"fragmentation needed, MTU 0", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 3, 4, [4]byte{}, syn[:28]) }, nil},
		{"time exceeded, unknown code", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 11, 200, [4]byte{}, syn[:28]) }, nil},
		{"parameter problem", true, func(syn []byte) []byte { return rawICMP(router6, addrA6, 4, 0, [4]byte{}, syn) }, nil},
		{"unknown type", false, func(syn []byte) []byte { return rawICMP(router4, addrA4, 77, 0, [4]byte{}, syn[:28]) }, nil},
		{"outer header with options", false, func(syn []byte) []byte {
			inner := rawICMP(router4, addrA4, 3, 3, [4]byte{}, syn[:28])
			p := slices.Concat(inner[:20], []byte{1, 1, 1, 0}, inner[20:])
			return edit4(p, func(p []byte) { p[0] = 0x46; binary.BigEndian.PutUint16(p[2:], uint16(len(p))) })
		}, syscall.ECONNREFUSED},
		{"inner header with options", false, func(syn []byte) []byte {
			inner := slices.Concat(syn[:20], []byte{1, 1, 1, 0}, syn[20:28])
			inner[0] = 0x46
			binary.BigEndian.PutUint16(inner[2:], uint16(len(syn)+4))
			return rawICMP(router4, addrA4, 3, 3, [4]byte{}, inner)
		}, syscall.ECONNREFUSED},
	}
	for _, test := range tests {
		name, dst := test.name+", IPv4", addrB4
		if test.v6 {
			name, dst = test.name+", IPv6", addrB6
		}
		t.Run(name, func(t *testing.T) {
			s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
			w := newWire(t, s)
			syn, ended := handshake(t, s, w, dst)
			w.send(test.make(syn))
			if test.want == nil {
				w.send(synAck(syn))
			}
			if err := <-ended; !errors.Is(err, test.want) {
				t.Errorf("the dial ended with %v, want %v", err, test.want)
			}
		})
	}
}

// fault 46: a reset that a stranger guesses does not end a connection (RFC 5961).
func TestBlindReset(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	w := newWire(t, s)
	for _, dst := range []netip.Addr{addrB4, addrB6} {
		syn, ended := handshake(t, s, w, dst)
		src, _, _, p := dissect(syn)
		port := header.TCP(p).SourcePort()
		reset := func(seq, ack uint32, flags header.TCPFlags) []byte {
			return rawTCP(dst, src, header.TCPFields{SrcPort: 80, DstPort: port, SeqNum: seq, AckNum: ack, Flags: flags}, nil)
		}
		// During the handshake: the acknowledgment has to fit.
		w.send(
			reset(0, 0, header.TCPFlagRst),
			reset(0, header.TCP(p).SequenceNumber()+77, header.TCPFlagRst|header.TCPFlagAck),
			synAck(syn),
		)
		if err := <-ended; err != nil {
			t.Fatalf("the dial ended with %v", err)
		}
	}
	// And when it is up.
	l := must[*netstack.TCPListener](t)(s.ListenTCP("tcp", netip.AddrPortFrom(addrA4, 80)))
	defer l.Close()
	w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 100, WindowSize: 1000}, nil))
	var ack uint32
	for {
		_, _, _, p := dissect(w.next())
		if h := header.TCP(p); h.DestinationPort() == 9 {
			ack = h.SequenceNumber() + 1
			break
		}
	}
	w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagAck, SeqNum: 101, AckNum: ack, WindowSize: 1000}, nil))
	c := must[*netstack.TCPConn](t)(l.AcceptTCP())
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint32{0, 100, 102, 500, 1 << 31} {
		w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagRst, SeqNum: seq}, nil))
		w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: seq}, nil))
	}
	w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagAck | header.TCPFlagPsh, SeqNum: 101, AckNum: ack, WindowSize: 1000}, []byte("alive")))
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "alive" {
		t.Errorf("after blind resets: %q, %v", buf[:n], err)
	}
	// The true one does end it.
	w.send(rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: 9, DstPort: 80, Flags: header.TCPFlagRst, SeqNum: 106}, nil))
	if _, err := c.Read(buf); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the true reset: %v", err)
	}
}

// fault 25: a peer that does not answer is reported, and what began the conversation is sent again on request.
func TestResend(t *testing.T) {
	t.Parallel()
	silent := make(chan netstack.PeerID, 10)
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24"), Silent: func(p netstack.PeerID) { silent <- p }})
	s.SetRoutes([]netstack.Route{{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Peer: 7}})
	w := newWire(t, s)
	syn, ended := handshake(t, s, w, addrB4)
	if peer := <-silent; peer != 7 {
		t.Errorf("peer %d is reported", peer)
	}
	s.Resend(8)
	s.Resend(7)
	if again := w.next(); !slices.Equal(syn, again) {
		t.Errorf("sent again:\n%x, want\n%x", again, syn)
	}
	s.Resend(7) // there is nothing more
	w.send(synAck(syn))
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
