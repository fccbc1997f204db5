// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	dontFragment = 0x4000
	moreFollow   = 0x2000

	fin, flagSYN, rst, psh, ack, urg, ece, cwr = 1, 2, 4, 8, 16, 32, 64, 128
)

// tcpPacket is a TCP segment in an IP packet. It is written and read here without gVisor's helpers and by another way
// of summing, so that these tests do not check the code by itself.
type tcpPacket struct {
	src, dst         netip.Addr
	tos, ttl         uint8
	flow             uint32 // of IPv6
	id, fragment     uint16 // of IPv4; fragment has flags and offset
	ipOptions        []byte // of IPv4; of IPv6 the extension headers, without a place in split and merge
	sport, dport     uint16
	seq, ack         uint32
	reserved, flags  uint8
	window, urgent   uint16
	options, payload []byte
}

// base4 and base6 are segments in the middle of a transfer.
func base4() tcpPacket {
	return tcpPacket{
		src: netip.MustParseAddr("10.0.0.1"), dst: netip.MustParseAddr("10.0.0.2"), tos: 0, ttl: 64, fragment: dontFragment,
		sport: 4000, dport: 80, seq: 1_000_000, ack: 77, flags: ack, window: 512, options: timestamps(5, 6),
		payload: pattern(1000),
	}
}

func base6() tcpPacket {
	p := base4()
	p.src, p.dst, p.fragment, p.flow = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 0, 0xabcde
	return p
}

func timestamps(value, echo uint32) []byte {
	b := []byte{1, 1, 8, 10}
	b = binary.BigEndian.AppendUint32(b, value)
	return binary.BigEndian.AppendUint32(b, echo)
}

// pattern is n bytes of which no two stretches are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// onesSum is the one's complement sum of RFC 1071 over parts that are even but for the last one.
func onesSum(parts ...[]byte) uint16 {
	sum := 0
	for _, part := range parts {
		for i, b := range part {
			if i%2 == 0 {
				sum += int(b) << 8
			} else {
				sum += int(b)
			}
		}
	}
	return uint16(sum%0xffff) | map[bool]uint16{true: 0xffff}[sum > 0 && sum%0xffff == 0]
}

func pseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	b := slices.Concat(src.AsSlice(), dst.AsSlice())
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, proto)
}

func (p tcpPacket) segment() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.sport)
	b = binary.BigEndian.AppendUint16(b, p.dport)
	b = binary.BigEndian.AppendUint32(b, p.seq)
	b = binary.BigEndian.AppendUint32(b, p.ack)
	b = append(b, uint8(20+len(p.options))<<2|p.reserved, p.flags)
	b = binary.BigEndian.AppendUint16(b, p.window)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, p.urgent)
	b = slices.Concat(b, p.options, p.payload)
	binary.BigEndian.PutUint16(b[16:], ^onesSum(pseudoHeader(p.src, p.dst, 6, len(b)), b))
	return b
}

func (p tcpPacket) bytes() []byte { return p.wrap(6, p.segment()) }

// wrap puts p's IP header before any payload.
func (p tcpPacket) wrap(proto uint8, payload []byte) []byte {
	if p.src.Is6() {
		b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.tos)<<20|p.flow)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.ipOptions)+len(payload)))
		b = append(b, proto, p.ttl)
		return slices.Concat(b, p.src.AsSlice(), p.dst.AsSlice(), p.ipOptions, payload)
	}
	headerLen := 20 + len(p.ipOptions)
	b := []byte{4<<4 | uint8(headerLen/4), p.tos}
	b = binary.BigEndian.AppendUint16(b, uint16(headerLen+len(payload)))
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = binary.BigEndian.AppendUint16(b, p.fragment)
	b = append(b, p.ttl, proto, 0, 0)
	b = slices.Concat(b, p.src.AsSlice(), p.dst.AsSlice(), p.ipOptions)
	binary.BigEndian.PutUint16(b[10:], ^onesSum(b))
	return append(b, payload...)
}

func (p tcpPacket) headerLens() (ip, all int) {
	ip = 20 + len(p.ipOptions)
	if p.src.Is6() {
		ip += 20
	}
	return ip, ip + 20 + len(p.options)
}

// split says what packets p is to become.
func (p tcpPacket) split(mss int) []tcpPacket {
	var packets []tcpPacket
	for rest := p.payload; ; rest = rest[mss:] {
		part := p
		part.seq += uint32(len(packets) * mss)
		if p.src.Is4() && p.fragment&dontFragment == 0 {
			part.id += uint16(len(packets))
		}
		if len(rest) <= mss {
			part.payload = rest
			return append(packets, part)
		}
		part.payload = rest[:mss]
		part.flags &^= fin | psh
		packets = append(packets, part)
	}
}

// follower is the segment after p.
func (p tcpPacket) follower(payload int) tcpPacket {
	next := p
	next.seq += uint32(len(p.payload))
	next.payload = pattern(payload)
	if p.fragment&dontFragment == 0 {
		next.id++
	}
	return next
}

// buffered is the packet as gVisor's TCP hands it to a link: headers in a view with room before them, and
// the payload in views of the sizes given, over and over.
func (p tcpPacket) buffered(mss int, released *atomic.Int32, viewSizes ...int) *stack.PacketBuffer {
	b := p.bytes()
	ipLen, allLen := p.headerLens()
	var data buffer.Buffer
	for i, rest := 0, b[allLen:]; len(rest) > 0; i++ {
		n := len(rest)
		if len(viewSizes) > 0 {
			n = min(n, viewSizes[i%len(viewSizes)])
		}
		_ = data.Append(buffer.NewViewWithData(rest[:n])) // fails for a nil view alone
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: allLen + 13, Payload: data, OnRelease: func() { released.Add(1) },
	})
	copy(pkt.TransportHeader().Push(allLen-ipLen), b[ipLen:])
	copy(pkt.NetworkHeader().Push(ipLen), b)
	header.TCP(pkt.TransportHeader().Slice()).SetChecksum(0x1234) // gVisor leaves a part of it
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	pkt.NetworkProtocolNumber = ipv4.ProtocolNumber
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: uint16(mss)}
	if p.src.Is6() {
		pkt.NetworkProtocolNumber = ipv6.ProtocolNumber
		pkt.GSOOptions.Type = stack.GSOTCPv6
	}
	return pkt
}

// cut runs a packet through a segmenter.
func cut(s *segmenter, pkt *stack.PacketBuffer) [][]byte {
	s.start(pkt, 0)
	var packets [][]byte
	for s.busy() {
		dst := make([]byte, 1<<16)
		packets = append(packets, dst[:s.next(dst)])
	}
	return packets
}

func comparePackets(tb testing.TB, got [][]byte, want []tcpPacket) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range want {
		if w := want[i].bytes(); !bytes.Equal(got[i], w) {
			tb.Fatalf("packet %d:\n got %d bytes %x\nwant %d bytes %x", i, len(got[i]), head(got[i]), len(w), head(w))
		}
	}
}

func head(b []byte) []byte { return b[:min(len(b), 100)] }

var segmenterCases = []struct {
	name    string
	change  func(*tcpPacket)
	payload int
	mss     int
	packets int
}{
	{"pure ACK", nil, 0, 1000, 1},
	{"RST of a connection", func(p *tcpPacket) { p.flags = rst | ack }, 0, 1000, 1},
	{"FIN without data", func(p *tcpPacket) { p.flags = fin | ack }, 0, 1000, 1},
	{"one byte", nil, 1, 1000, 1},
	{"MSS less one", nil, 999, 1000, 1},
	{"MSS", nil, 1000, 1000, 1},
	{"MSS and one", nil, 1001, 1000, 2},
	{"MSS, odd", nil, 1999, 333, 7},
	{"exact multiple", nil, 5000, 1000, 5},
	{"MSS of one byte", nil, 100, 1, 100},
	{"no MSS", nil, 5000, 0, 1},
	{"the largest that gVisor makes", nil, 65_374, 1368, 48},
	{"FIN and PSH", func(p *tcpPacket) { p.flags = fin | psh | ack }, 2500, 1000, 3},
	{"PSH, one packet", func(p *tcpPacket) { p.flags = psh | ack }, 10, 1000, 1},
	{"ECE and URG", func(p *tcpPacket) { p.flags, p.urgent = ack|ece|urg, 99 }, 2500, 1000, 3},
	{"ECN-capable, traffic class", func(p *tcpPacket) { p.tos = 0xb8 | 2 }, 2500, 1000, 3},
	{"hop limit", func(p *tcpPacket) { p.ttl = 1 }, 2500, 1000, 3},
	{"no TCP options", func(p *tcpPacket) { p.options = nil }, 2500, 1000, 3},
	{"all of TCP options", func(p *tcpPacket) { p.options = pattern(40) }, 2500, 1000, 3},
	{"sequence wraps", func(p *tcpPacket) { p.seq = 1<<32 - 1500 }, 2500, 1000, 3},
	{"reserved bits", func(p *tcpPacket) { p.reserved = 1 }, 2500, 1000, 3},
}

func TestSegmenter(t *testing.T) {
	viewSizes := map[string][]int{"one view": nil, "bytes": {1}, "odd views": {7, 1, 1460, 3}, "views of MSS": {1000}}
	for _, c := range segmenterCases {
		for family, p := range map[string]tcpPacket{"IPv4": base4(), "IPv6": base6()} {
			for views, sizes := range viewSizes {
				t.Run(fmt.Sprintf("%s/%s/%s", c.name, family, views), func(t *testing.T) {
					p := p
					p.payload = pattern(c.payload)
					if c.change != nil {
						c.change(&p)
					}
					var released atomic.Int32
					pkt := p.buffered(c.mss, &released, sizes...)
					before := pkt.ToView().ToSlice()
					pkt.IncRef()
					mss := c.mss
					if mss == 0 {
						mss = max(len(p.payload), 1)
					}
					want := p.split(mss)
					if len(want) != c.packets {
						t.Fatalf("the case wants %d packets and expects %d", c.packets, len(want))
					}
					comparePackets(t, cut(new(segmenter), pkt), want)
					if after := pkt.ToView().ToSlice(); !bytes.Equal(before, after) {
						t.Error("the packet was changed, which TCP may send again")
					}
					pkt.DecRef()
					if n := released.Load(); n != 1 {
						t.Errorf("released %d times", n)
					}
				})
			}
		}
	}
}

// What may be fragmented has an ID of its own, what may not has the one that it came with (RFC 6864, section 4.3).
func TestSegmenterIDs(t *testing.T) {
	for name, c := range map[string]struct {
		id, fragment uint16
		want         []uint16
	}{
		"may be fragmented": {100, 0, []uint16{100, 101, 102}},
		"wraps":             {0xffff, 0, []uint16{0xffff, 0, 1}},
		"atomic":            {0, dontFragment, []uint16{0, 0, 0}},
		"atomic with an ID": {9, dontFragment, []uint16{9, 9, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			p := base4()
			p.id, p.fragment, p.payload, p.ipOptions = c.id, c.fragment, pattern(2500), []byte{1, 1, 1, 0}
			var released atomic.Int32
			packets := cut(new(segmenter), p.buffered(1000, &released))
			comparePackets(t, packets, p.split(1000))
			for i, packet := range packets {
				if id := binary.BigEndian.Uint16(packet[4:]); id != c.want[i] {
					t.Errorf("packet %d has ID %d, want %d", i, id, c.want[i])
				}
			}
		})
	}
}

// complete4 and so on are packets that leave gVisor complete.
func completePackets() map[string][]byte {
	packets := map[string][]byte{}
	for family, p := range map[string]tcpPacket{"IPv4": base4(), "IPv6": base6()} {
		for name, flags := range map[string]uint8{"SYN": flagSYN, "SYN-ACK": flagSYN | ack, "RST": rst, "ACK": ack} {
			p.payload, p.flags = nil, flags
			packets[name+"/"+family] = p.bytes()
		}
		packets["UDP/"+family] = p.wrap(17, pattern(1400))
		packets["ICMP/"+family] = p.wrap(1, pattern(64))
		packets["nothing inside/"+family] = p.wrap(59, nil)
	}
	p := base4()
	p.fragment = moreFollow
	packets["fragment of UDP/IPv4"] = p.wrap(17, pattern(1400))
	p.fragment = 175
	packets["last fragment of TCP/IPv4"] = p.wrap(6, pattern(11))
	packets["fragment/IPv6"] = base6().wrap(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 7}, pattern(1232)...))
	return packets
}

func completeBuffer(packet []byte, released *atomic.Int32) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: 20, Payload: buffer.MakeWithData(packet), OnRelease: func() { released.Add(1) },
	})
	size := header.IPv6MinimumSize
	pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	if isIPv4(packet) {
		size = header.IPv4MinimumSize
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	}
	pkt.NetworkHeader().Consume(size)
	return pkt
}

func TestSegmenterLeavesOthersAlone(t *testing.T) {
	for name, packet := range completePackets() {
		t.Run(name, func(t *testing.T) {
			var released atomic.Int32
			got := cut(new(segmenter), completeBuffer(packet, &released))
			if len(got) != 1 || !bytes.Equal(got[0], packet) {
				t.Errorf("got %x, want %x", got, packet)
			}
			if released.Load() != 1 {
				t.Errorf("released %d times", released.Load())
			}
		})
	}
	t.Run("segment that needs no checksum", func(t *testing.T) {
		var released atomic.Int32
		p := base4()
		pkt := p.buffered(100, &released)
		pkt.GSOOptions.NeedsCsum = false
		want := pkt.ToView().ToSlice()
		if got := cut(new(segmenter), pkt); len(got) != 1 || !bytes.Equal(got[0], want) {
			t.Errorf("got %x, want %x", got, want)
		}
	})
}

// A buffer that a packet does not fit into is no reason to panic, and half a packet is of no use.
func TestSegmenterDropsWhatDoesNotFit(t *testing.T) {
	var released atomic.Int32
	s := new(segmenter)
	for name, pkt := range map[string]*stack.PacketBuffer{
		"segment":  base4().buffered(1000, &released),
		"datagram": completeBuffer(base4().wrap(17, pattern(1000)), &released),
	} {
		released.Store(0)
		s.start(pkt, 0)
		if n := s.next(make([]byte, 1000)); n != 0 || s.busy() || released.Load() != 1 {
			t.Errorf("%s: size %d, busy %v, released %d times", name, n, s.busy(), released.Load())
		}
	}
}

func newTestLink() *link {
	s := &Stack{done: make(chan struct{})}
	s.silence, s.senders = newSilenceWatch(&s.routes, nil), newSenderWatch(nil)
	return newLink(s, Config{MTU: DefaultMTU})
}

// Read goes on where the one before ended, however many buffers each brings, and writes at offset only. The packets are
// of two flows, which take turns.
func TestReadResumes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for batch := 1; batch <= 20; batch++ {
		l := newTestLink()
		var want [2][][]byte
		var released atomic.Int32
		var list stack.PacketBufferList
		put := func(flow int, pkt *stack.PacketBuffer, packets ...[]byte) {
			list.PushBack(pkt)
			want[flow] = append(want[flow], packets...)
		}
		for _, packet := range completePackets() {
			pkt := completeBuffer(packet, &released)
			pkt.NetworkProtocolNumber = ipv4.ProtocolNumber
			pkt.TransportProtocolNumber = header.UDPProtocolNumber
			put(0, pkt, packet)
			p := base4()
			if r.IntN(2) == 0 {
				p = base6()
			}
			p.payload, p.flags = pattern(r.IntN(10_000)), ack|psh
			mss := 1 + r.IntN(1300)
			var packets [][]byte
			for _, part := range p.split(mss) {
				packets = append(packets, part.bytes())
			}
			put(1, p.buffered(mss, &released, 1+r.IntN(3000)), packets...)
		}
		count := list.Len()
		if n, err := l.WritePackets(list); n != count || err != nil {
			t.Fatal(n, err)
		}
		list.Reset() // and the caller's references with it

		const offset = 16
		bufs, sizes := make([][]byte, batch), make([]int, batch)
		for i := range bufs {
			bufs[i] = make([]byte, 1<<14)
		}
		var got [][]byte
		for {
			for _, buf := range bufs {
				for i := range buf {
					buf[i] = 0xee
				}
			}
			n, _ := l.take(bufs, sizes, offset)
			if n == 0 {
				break
			}
			for i := range n {
				got = append(got, slices.Clone(bufs[i][offset:offset+sizes[i]]))
				clear(bufs[i][offset : offset+sizes[i]])
				outside := slices.Concat(bufs[i][:offset], bufs[i][offset+sizes[i]:])
				if bytes.Count(outside, []byte{0xee}) != len(outside) {
					t.Fatal("something was written outside of the packet")
				}
			}
		}
		for i, packet := range got {
			flow := 0
			if len(want[0]) == 0 || !bytes.Equal(packet, want[0][0]) {
				flow = 1
			}
			if len(want[flow]) == 0 || !bytes.Equal(packet, want[flow][0]) {
				t.Fatalf("batches of %d: packet %d is not the next one of a flow", batch, i)
			}
			want[flow] = want[flow][1:]
		}
		if left := len(want[0]) + len(want[1]); left > 0 {
			t.Fatalf("batches of %d: %d packets were not read", batch, left)
		}
		if int(released.Load()) != count {
			t.Fatalf("batches of %d: %d packets released, want %d", batch, released.Load(), count)
		}
		if q := l.queues[0]; q.size != 0 || q.counts != [classes]int{} {
			t.Fatalf("counts at the end: %v, %d packets", q.counts, q.size)
		}
	}
}

// A packet that is half cut when the link is closed is let go, once.
func TestCloseWhileCutting(t *testing.T) {
	l := newTestLink()
	var released atomic.Int32
	var list stack.PacketBufferList
	p := base4()
	p.payload = pattern(5000)
	list.PushBack(p.buffered(1000, &released))
	if _, err := l.WritePackets(list); err != nil {
		t.Fatal(err)
	}
	list.Reset()
	bufs, sizes := [][]byte{make([]byte, 1<<12), make([]byte, 1<<12)}, make([]int, 2)
	if n, _ := l.take(bufs, sizes, 0); n != 2 {
		t.Fatalf("took %d", n)
	}
	l.close()
	if n, _ := l.take(bufs, sizes, 0); n != 0 || released.Load() != 1 {
		t.Errorf("took %d after close, released %d times", n, released.Load())
	}
}

func BenchmarkSegmenter(b *testing.B) {
	for family, p := range map[string]tcpPacket{"IPv4": base4(), "IPv6": base6()} {
		b.Run(family, func(b *testing.B) {
			p.payload = pattern(65_374)
			var released atomic.Int32
			pkt := p.buffered(1360, &released, 16<<10)
			s, dst := new(segmenter), make([]byte, 1<<11)
			b.SetBytes(int64(len(p.payload)))
			b.ReportAllocs()
			for b.Loop() {
				s.start(pkt.IncRef(), 0)
				for s.busy() {
					s.next(dst)
				}
			}
			pkt.DecRef()
		})
	}
}
