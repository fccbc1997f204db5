// SPDX-License-Identifier: MIT

package netstack_test

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// Packets made by hand, and a wire end to put them into a stack and see what comes out.

func tcpipAddr(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// rawIP puts an IP header before payload.
func rawIP(src, dst netip.Addr, proto tcpip.TransportProtocolNumber, payload []byte) []byte {
	if src.Is4() && dst.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
		ip := header.IPv4(b)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b) + len(payload)), ID: 7, TTL: 64, Protocol: uint8(proto),
			SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(payload)), TransportProtocol: proto, HopLimit: 64,
		SrcAddr: tcpipAddr(src), DstAddr: tcpipAddr(dst),
	})
	return append(b, payload...)
}

func rawUDP(src, dst netip.Addr, sport, dport uint16, payload []byte) []byte {
	b := append(make([]byte, header.UDPMinimumSize), payload...)
	u := header.UDP(b)
	u.Encode(&header.UDPFields{SrcPort: sport, DstPort: dport, Length: uint16(len(b))})
	u.SetChecksum(^checksum.Checksum(b, header.PseudoHeaderChecksum(header.UDPProtocolNumber, tcpipAddr(src), tcpipAddr(dst), uint16(len(b)))))
	return rawIP(src, dst, header.UDPProtocolNumber, b)
}

func rawTCP(src, dst netip.Addr, fields header.TCPFields, payload []byte) []byte {
	fields.DataOffset = header.TCPMinimumSize
	b := append(make([]byte, header.TCPMinimumSize), payload...)
	h := header.TCP(b)
	h.Encode(&fields)
	h.SetChecksum(^checksum.Checksum(b, header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpipAddr(src), tcpipAddr(dst), uint16(len(b)))))
	return rawIP(src, dst, header.TCPProtocolNumber, b)
}

// rawICMP makes a message of the family's ICMP: type, code, four bytes, data.
func rawICMP(src, dst netip.Addr, kind, code uint8, rest [4]byte, data []byte) []byte {
	b := append([]byte{kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]}, data...)
	if src.Is4() {
		header.ICMPv4(b).SetChecksum(^checksum.Checksum(b, 0))
		return rawIP(src, dst, header.ICMPv4ProtocolNumber, b)
	}
	header.ICMPv6(b).SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: header.ICMPv6(b), Src: tcpipAddr(src), Dst: tcpipAddr(dst),
	}))
	return rawIP(src, dst, header.ICMPv6ProtocolNumber, b)
}

// wire is the other end of a stack's device, in the test's hands.
type wire struct {
	tb  testing.TB
	dev *netstack.Device
	out chan []byte
}

// newWire reads from a stack until the test ends.
func newWire(tb testing.TB, s *netstack.Stack) *wire {
	w := &wire{tb: tb, dev: s.Device(), out: make(chan []byte, 1<<16)}
	done := make(chan struct{})
	go func() { // ended by the facade's Close
		defer close(done)
		buf, sizes := make([]byte, 1<<16), make([]int, 1)
		for {
			n, err := w.dev.Read([][]byte{buf}, sizes, 0)
			if err != nil {
				return
			}
			if n == 1 {
				w.out <- append([]byte(nil), buf[:sizes[0]]...)
			}
		}
	}()
	tb.Cleanup(func() {
		_ = w.dev.Close() // never fails
		<-done
	})
	return w
}

func (w *wire) send(packets ...[]byte) {
	w.tb.Helper()
	for _, p := range packets {
		if n, err := w.dev.Write([][]byte{p}, 0); n != 1 || err != nil {
			w.tb.Fatalf("Write: %d, %v", n, err)
		}
	}
}

// next returns the next packet of the stack.
func (w *wire) next() []byte {
	w.tb.Helper()
	select {
	case p := <-w.out:
		return p
	case <-time.After(10 * time.Second):
		w.tb.Fatal("the stack sent nothing")
		return nil
	}
}

// dissect takes a packet of the stack apart.
func dissect(p []byte) (src, dst netip.Addr, proto tcpip.TransportProtocolNumber, payload []byte) {
	if p[0]>>4 == 4 {
		h := header.IPv4(p)
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), h.TransportProtocol(), h.Payload()
	}
	h := header.IPv6(p)
	return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), tcpip.TransportProtocolNumber(h.NextHeader()), h.Payload()
}
