// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/internal/nettests"
	"example.com/wgnet/netstack"
)

// Datagrams are not lost inside of the process, and stay in order, however slow the device is.
func TestDatagramsWaitForTheDevice(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	const writers, each = 4, 5_000
	var wg sync.WaitGroup
	for i := range writers {
		pc := listenAt(t, s, addrA4)
		wg.Go(func() { // ends with its share
			for n := range each {
				b := binary.BigEndian.AppendUint32([]byte{byte(i)}, uint32(n))
				if _, err := pc.WriteToUDPAddrPort(b, netip.AddrPortFrom(addrB4, 9)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	if !eventually(func() bool { return s.LinkQueue().Waiting }) {
		t.Fatalf("nobody waits: %+v", s.LinkQueue())
	}
	if q := s.LinkQueue(); q.Datagram > netstack.MaxDatagramPackets+writers {
		t.Errorf("%d datagrams wait, want %d and one for each writer at most", q.Datagram, netstack.MaxDatagramPackets)
	}
	d := s.Device()
	const offset = 20
	bufs, sizes := make([][]byte, d.BatchSize()), make([]int, d.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 2000)
	}
	next := make([]uint32, writers)
	for got := 0; got < writers*each; {
		n, err := d.Read(bufs, sizes, offset)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			_, _, proto, p := dissect(bufs[i][offset : offset+sizes[i]])
			if proto != header.UDPProtocolNumber || len(p) != 13 {
				t.Fatalf("a packet of protocol %d, %d bytes", proto, len(p))
			}
			w := p[8]
			if num := binary.BigEndian.Uint32(p[9:]); num != next[w] {
				t.Fatalf("writer %d: datagram %d, want %d", w, num, next[w])
			}
			next[w]++
		}
		got += n
	}
	wg.Wait()
	if q := s.LinkQueue(); q != (netstack.LinkQueue{}) {
		t.Errorf("after the last one: %+v", q)
	}
}

// A writer that waits for the device obeys its deadline and Close, and does not keep the loopback from working.
func TestWaitingWriter(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	pc := listenAt(t, s, addrA4)
	to := netip.AddrPortFrom(addrB4, 9)
	if err := pc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := pc.WriteToUDPAddrPort(make([]byte, 100), to); err != nil {
			nettests.CheckError(t, err, os.ErrDeadlineExceeded, true)
			break
		}
	}
	if !s.LinkQueue().Waiting {
		t.Fatalf("the queue is not full: %+v", s.LinkQueue())
	}
	// What stays in the stack does not go through the queue.
	local := listenAt(t, s, addrA4)
	if err := local.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := local.WriteTo([]byte("x"), local.LocalAddr()); err != nil {
		t.Error(err)
	}
	if _, _, err := local.ReadFrom(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	got := make(chan error)
	if err := pc.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, err := pc.WriteToUDPAddrPort([]byte("x"), to); got <- err }() // ended by Close
	pc.Close()
	nettests.CheckError(t, <-got, net.ErrClosed, false)
}

// Nobody waits for answers that the stack gives by itself: they are dropped beyond a bound, and counted, and
// Device.Write never blocks.
func TestControlPacketsAreBounded(t *testing.T) {
	tests := []struct {
		name  string
		limit int
		count func(netstack.LinkQueue) int
		send  func(i int) []byte
	}{
		{"echo replies", netstack.MaxControlPackets, func(q netstack.LinkQueue) int { return q.Control }, func(i int) []byte {
			return rawICMP(addrB4, addrA4, uint8(header.ICMPv4Echo), 0, [4]byte{}, nil)
		}},
		{"echo replies, IPv6", netstack.MaxControlPackets, func(q netstack.LinkQueue) int { return q.Control }, func(i int) []byte {
			return rawICMP(addrB6, addrA6, uint8(header.ICMPv6EchoRequest), 0, [4]byte{}, nil)
		}},
		{"resets", netstack.MaxControlPackets, func(q netstack.LinkQueue) int { return q.Control }, func(i int) []byte {
			return rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: uint16(i), DstPort: 81, Flags: header.TCPFlagSyn, SeqNum: 1, WindowSize: 1000}, nil)
		}},
		{"SYN-ACKs", netstack.MaxAckPackets, func(q netstack.LinkQueue) int { return q.Ack }, func(i int) []byte {
			return rawTCP(addrB4, addrA4, header.TCPFields{SrcPort: uint16(i), DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: 1, WindowSize: 1000}, nil)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
			l := must[*netstack.TCPListener](t)(s.ListenTCP("tcp", netip.AddrPortFrom(addrA4, 80)))
			defer l.Close()
			d := s.Device()
			for i := range 3 * test.limit {
				if _, err := d.Write([][]byte{test.send(i)}, 0); err != nil {
					t.Fatal(err)
				}
			}
			// TCP answers from its own goroutines, and may not take in all.
			if !eventually(func() bool { q := s.LinkQueue(); return test.count(q) == test.limit && q.Dropped > 0 }) {
				t.Errorf("want %d in the queue and the rest dropped: %+v", test.limit, s.LinkQueue())
			}
			if n := test.count(s.LinkQueue()); n > test.limit {
				t.Errorf("%d in the queue, want %d", n, test.limit)
			}
		})
	}
}

// The fragments of a large echo reply are no datagrams of ours, for which somebody waits.
func TestFragmentedAnswersAreBounded(t *testing.T) {
	a, b := newStacks(t)
	d := a.Device()
	for _, own := range []netip.Addr{addrA4, addrA6} {
		peer, echo := addrB4, uint8(header.ICMPv4Echo)
		if own.Is6() {
			peer, echo = addrB6, uint8(header.ICMPv6EchoRequest)
		}
		request := rawICMP(peer, own, echo, 0, [4]byte{}, make([]byte, 8000))
		for range 500 {
			if _, err := d.Write([][]byte{request}, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if q := a.LinkQueue(); q.Control != netstack.MaxControlPackets || q.Datagram != 0 || q.Dropped == 0 {
		t.Errorf("the queue: %+v", q)
	}
	// Fragments of our own datagrams are.
	pc := listenAt(t, b, addrB6)
	if _, err := pc.WriteToUDPAddrPort(make([]byte, 8000), netip.AddrPortFrom(addrA6, 9)); err != nil {
		t.Fatal(err)
	}
	if q := b.LinkQueue(); q.Datagram < 6 || q.Control != 0 {
		t.Errorf("the queue: %+v", q)
	}
}

// Read fills as many buffers as it has packets for, each at its offset, and leaves the rest alone.
func TestReadFillsBatches(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	pc := listenAt(t, s, addrA4)
	const total, offset = 40, 16
	for i := range total {
		if _, err := pc.WriteToUDPAddrPort(bytes.Repeat([]byte{byte(i)}, 10+i), netip.AddrPortFrom(addrB4, 9)); err != nil {
			t.Fatal(err)
		}
	}
	d := s.Device()
	got := 0
	for _, want := range []int{1, 16, 16, 7} {
		size := min(want, d.BatchSize())
		bufs, sizes := make([][]byte, size), make([]int, size)
		if want == 7 {
			bufs, sizes = make([][]byte, 16), make([]int, 16)
		}
		for i := range bufs {
			bufs[i] = bytes.Repeat([]byte{0xee}, 200)
		}
		n, err := d.Read(bufs, sizes, offset)
		if n != want || err != nil {
			t.Fatalf("read %d packets, %v; want %d", n, err, want)
		}
		for i := range n {
			_, _, _, p := dissect(bufs[i][offset : offset+sizes[i]])
			if !bytes.Equal(p[8:], bytes.Repeat([]byte{byte(got)}, 10+got)) {
				t.Errorf("packet %d: %x", got, p)
			}
			rest := append(bufs[i][:offset:offset], bufs[i][offset+sizes[i]:]...)
			if !bytes.Equal(rest, bytes.Repeat([]byte{0xee}, len(rest))) {
				t.Errorf("packet %d: bytes outside of it were written", got)
			}
			got++
		}
	}
}

// The packets that a reset is made of leave even when the stack ends (see Stack.Close), and nothing else does.
func TestLastPackets(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	pc := listenAt(t, s, addrA4)
	if _, err := pc.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addrB4, 9)); err != nil {
		t.Fatal(err)
	}
	if err := s.SendRST(); err != nil {
		t.Fatal(err)
	}
	closeIt(t, s)
	if err := s.SendRST(); err == nil {
		t.Error("a packet after the end")
	}
	d := s.Device()
	bufs, sizes := [][]byte{make([]byte, 100), make([]byte, 100)}, make([]int, 2)
	if n, err := d.Read(bufs, sizes, 0); n != 1 || err != nil || sizes[0] != header.IPv4MinimumSize+header.TCPMinimumSize {
		t.Errorf("read %d packets, the first of %d bytes, %v", n, sizes[0], err)
	}
	if n, err := d.Read(bufs, sizes, 0); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("read %d packets, %v", n, err)
	}
}

// Each packet that is read counts as its peer's, also when packets of several come in one read.
func TestReadCounts(t *testing.T) {
	read := map[netstack.PeerID]int{} // by the reader's goroutine, this one
	s := newStack(t, netstack.Config{
		Addresses: prefixes("10.0.0.1/24"), MTU: 1280, Read: func(peer netstack.PeerID, packets int) { read[peer] += packets },
	})
	s.SetRoutes([]netstack.Route{
		{Prefix: netip.MustParsePrefix("10.0.0.2/32"), Peer: 5}, {Prefix: netip.MustParsePrefix("10.0.0.3/32"), Peer: 6},
	})
	pc := listenAt(t, s, addrA4)
	for i, size := range []int{100, 100, 4000, 100} { // 4,008 bytes are four fragments of 1,256 at most
		to := netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i%2)})
		if _, err := pc.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(to, 9)); err != nil {
			t.Fatal(err)
		}
	}
	d := s.Device()
	for _, step := range []struct{ buffers, peer5, peer6 int }{{1, 1, 0}, {3, 2, 2}, {3, 5, 2}} {
		bufs, sizes := make([][]byte, step.buffers), make([]int, step.buffers)
		for i := range bufs {
			bufs[i] = make([]byte, 2000)
		}
		for got := 0; got < step.buffers; {
			n, err := d.Read(bufs[got:], sizes[got:], 0)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
		if read[5] != step.peer5 || read[6] != step.peer6 {
			t.Errorf("%v after %d more packets, want %d to peer 5 and %d to peer 6", read, step.buffers, step.peer5, step.peer6)
		}
	}
}

// The way of a datagram out of the stack, and of its answer into it.
func BenchmarkUDP(b *testing.B) {
	s := newStack(b, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	pc := listenAt(b, s, addrA4)
	port := portOf(pc.LocalAddr())
	d := s.Device()
	out, in := make([]byte, 1200), make([]byte, 1500)
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	answer := [][]byte{rawUDP(addrB4, addrA4, 9, port, out)}
	b.SetBytes(2 * 1200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pc.WriteToUDPAddrPort(out, netip.AddrPortFrom(addrB4, 9)); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Read(bufs, sizes, 0); err != nil {
			b.Fatal(err)
		}
		if _, err := d.Write(answer, 0); err != nil {
			b.Fatal(err)
		}
		if _, _, err := pc.ReadFromUDPAddrPort(in); err != nil {
			b.Fatal(err)
		}
	}
}
