// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
)

// FuzzSplitMerge cuts one segment over reads of every size and merges what comes out, in batches of every size.
func FuzzSplitMerge(f *testing.F) {
	// The usual: one segment of many packets, of either family, with timestamps.
	f.Add(pattern(5000), uint16(1368), uint8(12), uint8(ack|psh), uint16(0), uint32(7), uint8(64), false)
	f.Add(pattern(5000), uint16(1348), uint8(12), uint8(ack|psh), uint16(0), uint32(7), uint8(64), true)
	// Sequence number and ID wrap, ECN, IDs count (bit 0), the last packet is one byte.
	f.Add(pattern(3001), uint16(1000), uint8(0), uint8(ack), uint16(0x0301), uint32(1<<32-1500), uint8(3), false)
	// FIN, CWR and ECE, all of the options, views of a byte.
	f.Add(pattern(300), uint16(7), uint8(40), uint8(ack|psh|fin|ece|cwr), uint16(0xff00), uint32(0), uint8(1), true)
	// An empty segment and one without MSS.
	f.Add([]byte{}, uint16(1000), uint8(12), uint8(ack|rst), uint16(0), uint32(0), uint8(9), false)
	f.Add(pattern(100), uint16(0), uint8(12), uint8(ack), uint16(0), uint32(0), uint8(9), true)
	f.Fuzz(func(t *testing.T, payload []byte, mss uint16, optionsLen, flags uint8, misc uint16, seq uint32, sizes uint8, v6 bool) {
		if len(payload) > 20_000 || len(payload) > 2000*max(1, int(mss)) {
			return
		}
		p := base4()
		if v6 {
			p = base6()
		} else if misc&1 != 0 {
			p.fragment, p.id = 0, uint16(seq)
		}
		p.payload, p.flags, p.seq, p.options = payload, flags, seq, pattern(int(optionsLen)%11*4)
		p.tos, p.window, p.ttl, p.reserved = uint8(misc>>8), misc, uint8(seq>>8), uint8(misc>>4)&15
		step := int(mss)
		if step == 0 {
			step = max(1, len(payload))
		}

		l := newTestLink()
		var released atomic.Int32
		q := l.queueLocked(0)
		q.push(p.buffered(int(mss), &released, 1+int(sizes), 1+int(sizes)*9), classStream)
		l.offerLocked(q, true)
		var packets [][]byte
		for read := int(sizes); ; read++ {
			bufs, lengths := make([][]byte, 1+read%7), make([]int, 1+read%7)
			for i := range bufs {
				bufs[i] = make([]byte, 120+step+3)
			}
			n, _ := l.take(bufs, lengths, 3)
			if n == 0 {
				break
			}
			for i := range n {
				packets = append(packets, bufs[i][3:3+lengths[i]])
			}
		}
		parts := p.split(step)
		comparePackets(t, packets, parts)
		if released.Load() != 1 || l.segmenter.busy() {
			t.Fatalf("released %d times", released.Load())
		}

		var merged [][]byte
		for chunk := range slices.Chunk(packets, 1+int(misc)%batchSize) {
			batch := checkAll(t, chunk...)
			got, runs := mergeAll(batch)
			checkRuns(t, batch, runs, got)
			merged = append(merged, got...)
		}
		_, allLen := p.headerLens()
		var all []byte
		for _, m := range merged {
			all = append(all, m[allLen:]...)
		}
		if !bytes.Equal(all, payload) {
			t.Fatal("the bytes are others")
		}
	})
}

// FuzzCoalesce puts anything at all into a batch. Each packet has two bytes before it: its length, and in the highest
// bit whether its checksums are to be made right, past which nobody would get by chance.
func FuzzCoalesce(f *testing.F) {
	const resumBit = 0x8000
	batchOf := func(resum int, packets ...tcpPacket) (b []byte) {
		for _, packet := range bytesOf(packets...) {
			b = binary.BigEndian.AppendUint16(b, uint16(len(packet)|resum))
			b = append(b, packet...)
		}
		return b
	}
	for _, p := range []tcpPacket{base4(), base6()} {
		p.payload = pattern(20)
		next := p.follower(20)
		f.Add(batchOf(resumBit, p, next, next.follower(7)))                         // a run
		f.Add(batchOf(0, p, next, next.follower(7)))                                // a run that every change breaks
		f.Add(batchOf(resumBit, p, next.follower(20), next, p))                     // out of order, twice
		f.Add(batchOf(resumBit, p, base4(), next, base6()))                         // flows in turn
		f.Add(batchOf(resumBit, withoutOptions(p), withoutOptions(next)))           // the smallest headers
		f.Add(append(batchOf(resumBit, p), 0, 1, 0x45, 0, 2, 0x60, 0, 0x80, 0, 69)) // truncated, empty, without end
		f.Add(append(batchOf(resumBit, p), []byte{0x80, 20, 0x45, 0, 0, 20}...))    // a length, and no packet
		for _, u := range unlike {                                                  // one field apart
			if odd := next; u.family == 0 || u.family == 4 == p.src.Is4() {
				u.change(&odd)
				f.Add(batchOf(resumBit, p, odd, next))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := newTestInbound()
		var batch []inboundPacket
		for len(data) >= 2 && len(batch) < 2*batchSize {
			n := int(binary.BigEndian.Uint16(data))
			right := n&resumBit != 0
			n = min(n&^resumBit, len(data)-2)
			packet := slices.Clip(slices.Clone(data[2 : 2+n]))
			data = data[2+n:]
			if right {
				makeRight(packet)
			}
			var p inboundPacket
			if in.check(&p, packet) {
				batch = append(batch, p)
			}
		}
		before := make([][]byte, len(batch))
		for i := range batch {
			before[i] = slices.Clone(batch[i].packet)
		}
		got, runs := mergeAll(batch)
		for i := range batch {
			if !bytes.Equal(batch[i].packet, before[i]) {
				t.Fatalf("packet %d was changed", i)
			}
		}
		checkRuns(t, batch, runs, got)
	})
}

// makeRight sets the lengths and checksums that a packet should have, where it has them.
func makeRight(b []byte) {
	switch {
	case len(b) >= 40 && b[0]>>4 == 4:
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		if headerLen := int(b[0]&15) * 4; headerLen >= 20 && headerLen+20 <= len(b) {
			resum4(b)
			resum(b, headerLen)
		}
	case len(b) >= 60 && b[0]>>4 == 6:
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		resum(b, 40)
	}
}

// checkRuns holds what the coalescer has made of a batch against the rules, written down a second time.
func checkRuns(t *testing.T, batch []inboundPacket, runs []int, got [][]byte) {
	t.Helper()
	for i, n := range runs {
		run, packet := batch[:n], got[i]
		batch = batch[n:]
		if n == 1 {
			if !bytes.Equal(packet, run[0].packet) {
				t.Fatal("a packet alone was changed")
			}
			continue
		}
		first := run[0].packet
		ipLen := 20
		if first[0]>>4 == 6 {
			ipLen = 40
		}
		allLen := ipLen + int(first[ipLen+12]>>4)*4
		size := len(first) - allLen
		if len(packet) > 65_535 || size == 0 {
			t.Fatalf("a packet of %d bytes, of segments of %d", len(packet), size)
		}
		var payload []byte
		for j, p := range run {
			b := p.packet
			if len(b) <= allLen || len(b)-allLen > size || len(b)-allLen < size && j < n-1 {
				t.Fatalf("segment %d of %d has %d bytes, the first %d", j, n, len(b)-allLen, size)
			}
			if flags := b[ipLen+13]; flags != ack && (flags != ack|psh || j < n-1) {
				t.Fatalf("segment %d of %d has flags %#x", j, n, flags)
			}
			if !checksumsRight(b, ipLen) {
				t.Fatalf("segment %d has a wrong checksum: %x", j, head(b))
			}
			if h := alike(b, ipLen, allLen); !bytes.Equal(h, alike(first, ipLen, allLen)) || !bytes.Equal(h, alike(packet, ipLen, allLen)) {
				t.Fatalf("segment %d has another header:\n%x\n%x\n%x", j, head(first), head(b), head(packet))
			}
			seq := binary.BigEndian.Uint32(first[ipLen+4:]) + uint32(len(payload))
			if got := binary.BigEndian.Uint32(b[ipLen+4:]); got != seq {
				t.Fatalf("segment %d begins at %d, want %d", j, got, seq)
			}
			payload = append(payload, b[allLen:]...)
		}
		if !bytes.Equal(packet[allLen:], payload) {
			t.Fatal("the merged bytes are others")
		}
		if !bytes.Equal(packet[ipLen+4:ipLen+8], first[ipLen+4:ipLen+8]) || packet[ipLen+13] != run[n-1].packet[ipLen+13] {
			t.Fatal("the sequence number is not the first one's, or the flags are not the last one's")
		}
		length := int(binary.BigEndian.Uint16(packet[2:]))
		if ipLen == 40 {
			length = int(binary.BigEndian.Uint16(packet[4:])) + 40
		} else if onesSum(packet[:20]) != 0xffff {
			t.Fatal("the merged IP header has a wrong checksum")
		}
		if length != len(packet) {
			t.Fatalf("the merged packet says %d bytes and has %d", length, len(packet))
		}
	}
	if len(batch) != 0 {
		t.Fatalf("%d packets are gone", len(batch))
	}
}

func checksumsRight(b []byte, ipLen int) bool {
	if ipLen == 20 && onesSum(b[:20]) != 0xffff {
		return false
	}
	addresses := b[ipLen-8 : ipLen]
	if ipLen == 40 {
		addresses = b[8:40]
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(b)-ipLen))
	return onesSum(addresses, length, []byte{0, 6}, b[ipLen:]) == 0xffff
}

// alike is the header without what may differ within a run: length, ID, sequence number, PSH and the checksums.
func alike(b []byte, ipLen, allLen int) []byte {
	h := slices.Clone(b[:allLen])
	if ipLen == 20 {
		clear(h[2:6])
		clear(h[10:12])
	} else {
		clear(h[4:6])
	}
	clear(h[ipLen+4 : ipLen+8])
	h[ipLen+13] &^= psh
	clear(h[ipLen+16 : ipLen+18])
	return h
}

// CheckOutbound says what is wrong with a packet that a stack gave to the device, if it has no fragment in it.
func CheckOutbound(b []byte, mtu int) error {
	ipLen, proto, length := 40, b[6], 0
	if b[0]>>4 == 4 {
		ipLen, proto, length = 20, b[9], int(binary.BigEndian.Uint16(b[2:]))
	} else {
		length = 40 + int(binary.BigEndian.Uint16(b[4:]))
	}
	switch {
	case len(b) > mtu || length != len(b):
		return fmt.Errorf("a packet of %d bytes says %d, the MTU is %d", len(b), length, mtu)
	case proto == 6 && !checksumsRight(b, ipLen):
		return fmt.Errorf("a wrong checksum: %x", head(b))
	}
	return nil
}

// ChecksumErrors counts the TCP segments that gVisor itself found to be wrong.
func (s *Stack) ChecksumErrors() uint64 { return s.stack.Stats().TCP.ChecksumErrors.Value() }
