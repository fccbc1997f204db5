// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// checkAll does what Device.Write does with whole packets, and fails for packets that are not let in. The packets
// have no capacity behind their end, which would hide that something reads there.
func checkAll(tb testing.TB, packets ...[]byte) []inboundPacket {
	tb.Helper()
	batch := make([]inboundPacket, len(packets))
	for i, packet := range packets {
		proto, src, _, ok := parseAddresses(slices.Clip(packet))
		if !ok {
			tb.Fatalf("packet %d is not let in: %x", i, head(packet))
		}
		batch[i] = inboundPacket{packet: slices.Clip(packet), proto: proto, src: src}
		batch[i].parseSegment() // fragments too, as if there were no reassembly before
	}
	return batch
}

func newTestInbound() *inbound {
	own := new(ownPointer)
	own.Store(&ownAddresses{set: map[netip.Addr]struct{}{}})
	return &inbound{own: own}
}

type ownPointer = atomic.Pointer[ownAddresses]

// mergeAll does what Device.deliver does: what the stack would get.
func mergeAll(batch []inboundPacket) (packets [][]byte, runs []int) {
	for len(batch) > 0 {
		n, size := coalesce(batch)
		dst := batch[0].packet
		if n > 1 {
			dst = make([]byte, size)
			merge(dst, batch[:n])
		}
		packets, runs = append(packets, dst), append(runs, n)
		batch = batch[n:]
	}
	return packets, runs
}

func bytesOf(packets ...tcpPacket) [][]byte {
	var all [][]byte
	for _, p := range packets {
		all = append(all, p.bytes())
	}
	return all
}

// withoutChecksum clears the TCP checksum, which merge leaves as the first segment had it.
func withoutChecksum(p tcpPacket, packet []byte) []byte {
	ipLen, _ := p.headerLens()
	packet = slices.Clone(packet)
	packet[ipLen+16], packet[ipLen+17] = 0, 0
	return packet
}

// A run becomes the packet that the sender's TCP might have sent whole.
func TestCoalesce(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*tcpPacket)
		payloads []int
		pushed   bool // the last one
	}{
		"two":                        {nil, []int{1000, 1000}, false},
		"sixteen":                    {nil, slices.Repeat([]int{1360}, 16), false},
		"one byte each":              {nil, []int{1, 1, 1}, false},
		"odd":                        {nil, []int{333, 333, 333, 1}, false},
		"smaller at last":            {nil, []int{1000, 1000, 5}, false},
		"pushed at last":             {nil, []int{1000, 1000, 1000}, true},
		"no options":                 {func(p *tcpPacket) { p.options = nil }, []int{1000, 1000}, false},
		"all of options":             {func(p *tcpPacket) { p.options = pattern(40) }, []int{1000, 1000}, false},
		"ECN-capable":                {func(p *tcpPacket) { p.tos = 2 }, []int{1000, 1000}, true},
		"ECN, congested":             {func(p *tcpPacket) { p.tos = 3 }, []int{1000, 1000}, true},
		"sequence wraps":             {func(p *tcpPacket) { p.seq = 1<<32 - 1500 }, []int{1000, 1000, 1000}, false},
		"wraps to 0":                 {func(p *tcpPacket) { p.seq = 1<<32 - 1000 }, []int{1000, 1000}, false},
		"IDs count":                  {func(p *tcpPacket) { p.fragment &^= dontFragment }, []int{1000, 1000, 1000}, false},
		"urgent pointer without URG": {func(p *tcpPacket) { p.urgent = 9 }, []int{1000, 1000}, false},
		"reserved bits":              {func(p *tcpPacket) { p.reserved = 5 }, []int{1000, 1000}, false},
	} {
		for family, p := range map[string]tcpPacket{"IPv4": base4(), "IPv6": base6()} {
			t.Run(name+"/"+family, func(t *testing.T) {
				if c.change != nil {
					c.change(&p)
				}
				whole := p
				whole.payload = nil
				run := make([]tcpPacket, len(c.payloads))
				for i, n := range c.payloads {
					if p.payload = pattern(n); i > 0 {
						p = run[i-1].follower(n)
					}
					run[i] = p
					whole.payload = append(whole.payload, p.payload...)
				}
				if c.pushed {
					run[len(run)-1].flags |= psh
					whole.flags |= psh
				}
				got, runs := mergeAll(checkAll(t, bytesOf(run...)...))
				if len(runs) != 1 {
					t.Fatalf("runs of %d, want one", runs)
				}
				if want := whole.bytes(); !bytes.Equal(withoutChecksum(p, got[0]), withoutChecksum(p, want)) {
					t.Errorf("got %d bytes %x\nwant %d bytes %x", len(got[0]), head(got[0]), len(want), head(want))
				}
			})
		}
	}
}

// Each of these, as the second of three segments, differs from its neighbors in what a stack could see.
var unlike = []struct {
	name   string
	family int // 0 for both
	change func(*tcpPacket)
}{
	{"FIN", 0, func(p *tcpPacket) { p.flags |= fin }},
	{"SYN", 0, func(p *tcpPacket) { p.flags |= flagSYN }},
	{"RST", 0, func(p *tcpPacket) { p.flags |= rst }},
	{"URG", 0, func(p *tcpPacket) { p.flags |= urg }},
	{"ECE", 0, func(p *tcpPacket) { p.flags |= ece }},
	{"CWR", 0, func(p *tcpPacket) { p.flags |= cwr }},
	{"no ACK", 0, func(p *tcpPacket) { p.flags = 0 }},
	{"reserved bits", 0, func(p *tcpPacket) { p.reserved = 1 }},
	{"timestamp", 0, func(p *tcpPacket) { p.options = timestamps(6, 6) }},
	{"timestamp echo", 0, func(p *tcpPacket) { p.options = timestamps(5, 7) }},
	{"no options", 0, func(p *tcpPacket) { p.options = nil }},
	{"other options", 0, func(p *tcpPacket) { p.options = slices.Concat(p.options, []byte{1, 1, 1, 1}) }},
	{"acknowledgment", 0, func(p *tcpPacket) { p.ack++ }},
	{"window", 0, func(p *tcpPacket) { p.window++ }},
	{"urgent pointer", 0, func(p *tcpPacket) { p.urgent++ }},
	{"source port", 0, func(p *tcpPacket) { p.sport++ }},
	{"destination port", 0, func(p *tcpPacket) { p.dport++ }},
	{"source address", 0, func(p *tcpPacket) { p.src = p.src.Next().Next() }},
	{"destination address", 0, func(p *tcpPacket) { p.dst = p.dst.Next() }},
	{"gap", 0, func(p *tcpPacket) { p.seq++ }},
	{"overlap", 0, func(p *tcpPacket) { p.seq-- }},
	{"the same again", 0, func(p *tcpPacket) { p.seq -= 1000 }},
	{"half the sequence space away", 0, func(p *tcpPacket) { p.seq += 1 << 31 }},
	{"reordered", 0, func(p *tcpPacket) { p.seq += 1000 }},
	{"no payload", 0, func(p *tcpPacket) { p.payload = nil }},
	{"larger payload", 0, func(p *tcpPacket) { p.payload = pattern(1001) }},
	{"ECN", 0, func(p *tcpPacket) { p.tos |= 3 }},
	{"DSCP", 0, func(p *tcpPacket) { p.tos |= 0xb8 }},
	{"TTL", 0, func(p *tcpPacket) { p.ttl-- }},
	{"flow label", 6, func(p *tcpPacket) { p.flow++ }},
	{"no DF", 4, func(p *tcpPacket) { p.fragment &^= dontFragment }},
	{"reserved IP flag", 4, func(p *tcpPacket) { p.fragment |= 0x8000 }},
	{"first fragment", 4, func(p *tcpPacket) { p.fragment = moreFollow }},
	{"later fragment", 4, func(p *tcpPacket) { p.fragment = 100 }},
	{"IP options", 4, func(p *tcpPacket) { p.ipOptions = []byte{1, 1, 1, 0} }},
}

func TestCoalesceKeepsApart(t *testing.T) {
	for family, base := range map[int]tcpPacket{4: base4(), 6: base6()} {
		a := base
		b := a.follower(1000)
		c := b.follower(1000)
		if _, runs := mergeAll(checkAll(t, bytesOf(a, b, c)...)); len(runs) != 1 {
			t.Fatalf("IPv%d: unchanged, the three do not merge: %v", family, runs)
		}
		for _, u := range unlike {
			if u.family != 0 && u.family != family {
				continue
			}
			t.Run(fmt.Sprintf("%s/IPv%d", u.name, family), func(t *testing.T) {
				odd := b
				u.change(&odd)
				packets := bytesOf(a, odd, c)
				got, runs := mergeAll(checkAll(t, packets...))
				if !slices.Equal(runs, []int{1, 1, 1}) || !slices.EqualFunc(got, packets, bytes.Equal) {
					t.Errorf("runs of %v, or packets changed", runs)
				}
				// As the first of two it is to stop the run just as well.
				packets = bytesOf(odd, c)
				if got, runs := mergeAll(checkAll(t, packets...)); !slices.Equal(runs, []int{1, 1}) || !slices.EqualFunc(got, packets, bytes.Equal) {
					t.Errorf("as the first: runs of %v, or packets changed", runs)
				}
			})
		}
	}
}

// What may not be merged at all is not, among its like either.
func TestCoalesceKeepsAllApart(t *testing.T) {
	never := []string{
		"FIN", "SYN", "RST", "URG", "ECE", "CWR", "no ACK", "no payload", "first fragment", "later fragment", "IP options",
	}
	for family, base := range map[int]tcpPacket{4: base4(), 6: base6()} {
		for _, u := range unlike {
			if u.family != 0 && u.family != family || !slices.Contains(never, u.name) {
				continue
			}
			t.Run(fmt.Sprintf("%s/IPv%d", u.name, family), func(t *testing.T) {
				p := base
				u.change(&p)
				next := p.follower(len(p.payload))
				packets := bytesOf(p, next, next.follower(len(p.payload)))
				if got, runs := mergeAll(checkAll(t, packets...)); !slices.Equal(runs, []int{1, 1, 1}) || !slices.EqualFunc(got, packets, bytes.Equal) {
					t.Errorf("runs of %v, or packets changed", runs)
				}
			})
		}
	}
	t.Run("IP options in the place of the TCP header", func(t *testing.T) {
		a := base4()
		packets := bytesOf(a, a.follower(1000))
		for _, b := range packets {
			b[0] = 0x46 // the ports are now options, and all checksums are right at the old places
			resum4(b)
		}
		if _, runs := mergeAll(checkAll(t, packets...)); len(runs) != 2 {
			t.Errorf("runs of %v", runs)
		}
	})
}

// Each run ends where it has to, and nothing overtakes anything.
func TestCoalesceEndsRuns(t *testing.T) {
	line := func(base tcpPacket, payloads ...int) []tcpPacket {
		base.payload = pattern(payloads[0])
		packets := []tcpPacket{base}
		for i, n := range payloads[1:] {
			packets = append(packets, packets[i].follower(n))
		}
		return packets
	}
	flags := func(packets []tcpPacket, at int, flags uint8) []tcpPacket {
		packets[at].flags |= flags
		return packets
	}
	other := base4()
	other.sport++
	ours, theirs := line(base4(), 1000, 1000, 1000), line(other, 1000, 1000, 1000)
	for name, c := range map[string]struct {
		packets []tcpPacket
		want    []int
	}{
		"pushed in the middle":       {flags(line(base4(), 1000, 1000, 1000, 1000), 1, psh), []int{2, 2}},
		"pushed first":               {flags(line(base4(), 1000, 1000), 0, psh), []int{1, 1}},
		"smaller in the middle":      {line(base4(), 1000, 999, 1000, 1000), []int{2, 2}},
		"smaller again":              {line(base4(), 1000, 999, 998), []int{2, 1}},
		"larger at last":             {line(base4(), 1000, 1000, 1001), []int{2, 1}},
		"FIN at last":                {flags(line(base4(), 1000, 1000, 1000), 2, fin), []int{2, 1}},
		"interleaved with another":   {[]tcpPacket{ours[0], theirs[0], ours[1], theirs[1]}, []int{1, 1, 1, 1}},
		"one flow after another":     {slices.Concat(ours, theirs), []int{3, 3}},
		"reordered":                  {[]tcpPacket{ours[1], ours[0], ours[2]}, []int{1, 1, 1}},
		"backward":                   {[]tcpPacket{ours[2], ours[1], ours[0]}, []int{1, 1, 1}},
		"each twice":                 {[]tcpPacket{ours[0], ours[0], ours[1], ours[1]}, []int{1, 2, 1}},
		"families in turn":           {slices.Concat(line(base4(), 1000, 1000), line(base6(), 1000, 1000)), []int{2, 2}},
		"65,535 bytes":               {line(withoutOptions(base4()), slices.Repeat([]int{13_099}, 6)...), []int{5, 1}},
		"65,536 bytes":               {line(withoutOptions(base4()), slices.Repeat([]int{16_374}, 4)...), []int{3, 1}},
		"65,535 bytes over IPv6":     {line(withoutOptions(base6()), slices.Repeat([]int{13_095}, 6)...), []int{5, 1}},
		"65,536 bytes over IPv6":     {line(withoutOptions(base6()), slices.Repeat([]int{16_369}, 4)...), []int{3, 1}},
		"more than 65,535 in IPv6":   {line(withoutOptions(base6()), 65_515, 65_515), []int{1, 1}},
		"a run after the largest":    {line(base4(), slices.Repeat([]int{1368}, 100)...), []int{47, 47, 6}},
		"one packet":                 {line(base4(), 1000), []int{1}},
		"an empty one between":       {line(base4(), 1000, 0, 1000, 1000), []int{1, 1, 2}},
		"many pushed, as chatter is": {flags(flags(line(base4(), 10, 10, 10), 0, psh), 1, psh), []int{1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			got, runs := mergeAll(checkAll(t, bytesOf(c.packets...)...))
			if !slices.Equal(runs, c.want) {
				t.Errorf("runs of %v, want %v", runs, c.want)
			}
			var payload, want []byte
			for i, n := 0, 0; i < len(runs); i, n = i+1, n+runs[i] {
				_, allLen := c.packets[n].headerLens()
				payload = append(payload, got[i][allLen:]...)
			}
			for _, p := range c.packets {
				want = append(want, p.payload...)
			}
			if !bytes.Equal(payload, want) {
				t.Error("the bytes are others, or in another order")
			}
		})
	}
}

func withoutOptions(p tcpPacket) tcpPacket {
	p.options = nil
	return p
}

// Segments that are wrong as they are (fault 40) are left for gVisor to judge, and take no neighbor with them.
func TestCoalesceLeavesBrokenAlone(t *testing.T) {
	for family, base := range map[int]tcpPacket{4: base4(), 6: base6()} {
		ipLen, allLen := base.headerLens()
		for name, c := range map[string]struct {
			family int
			damage func([]byte)
		}{
			"TCP checksum":             {0, func(b []byte) { b[ipLen+16]++ }},
			"TCP checksum of 0":        {0, func(b []byte) { b[ipLen+16], b[ipLen+17] = 0, 0 }},
			"first payload byte":       {0, func(b []byte) { b[allLen] ^= 1 }},
			"last payload byte":        {0, func(b []byte) { b[len(b)-1] ^= 0x80 }},
			"window, without checksum": {0, func(b []byte) { b[ipLen+14]++ }},
			"data offset under 20":     {0, func(b []byte) { b[ipLen+12] = 4 << 4; resum(b, ipLen) }},
			"data offset of 0":         {0, func(b []byte) { b[ipLen+12] = 0; resum(b, ipLen) }},
			"IP header checksum":       {4, func(b []byte) { b[10]++ }},
			"another transport":        {0, func(b []byte) { b[map[int]int{4: 9, 6: 6}[family]] = 17; resum4(b) }},
			"extension header":         {6, func(b []byte) { b[6] = 0 }},
			"fragment header":          {6, func(b []byte) { b[6] = 44 }},
			"routing header":           {6, func(b []byte) { b[6] = 43 }},
		} {
			if c.family != 0 && c.family != family {
				continue
			}
			t.Run(fmt.Sprintf("%s/IPv%d", name, family), func(t *testing.T) {
				a := base
				b := a.follower(1000)
				broken := bytesOf(a, b, b.follower(1000))
				c.damage(broken[1])
				batch := checkAll(t, broken...)
				if batch[1].isSegment() {
					t.Error("taken for a segment with a valid checksum")
				}
				if got, runs := mergeAll(batch); !slices.Equal(runs, []int{1, 1, 1}) || !slices.EqualFunc(got, broken, bytes.Equal) {
					t.Errorf("runs of %v, or packets changed", runs)
				}
			})
		}
		t.Run(fmt.Sprintf("data offset past the end/IPv%d", family), func(t *testing.T) {
			p := base
			p.options, p.payload = nil, pattern(3)
			for offset := 6; offset < 16; offset++ {
				b := p.bytes()
				b[ipLen+12] = uint8(offset << 4)
				resum(b, ipLen)
				if batch := checkAll(t, b); batch[0].isSegment() {
					t.Errorf("offset %d", offset)
				}
			}
		})
		t.Run(fmt.Sprintf("no whole TCP header/IPv%d", family), func(t *testing.T) {
			for n := range 20 {
				if batch := checkAll(t, base.wrap(6, pattern(n))); batch[0].isSegment() {
					t.Errorf("%d bytes", n)
				}
			}
		})
	}
}

// resum makes the TCP checksum right again; resum4 that of the IPv4 header.
func resum(b []byte, ipLen int) {
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if isIPv4(b) {
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	}
	segment := b[ipLen:]
	segment[16], segment[17] = 0, 0
	binary.BigEndian.PutUint16(segment[16:], ^onesSum(pseudoHeader(src, dst, 6, len(segment)), segment))
}

func resum4(b []byte) {
	if isIPv4(b) {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^onesSum(b[:int(b[0]&15)*4]))
	}
}

// Others than TCP pass the coalescer as they are.
func TestCoalesceLeavesOthersAlone(t *testing.T) {
	for name, packet := range completePackets() {
		if strings.Contains(name, "fragment") {
			continue // it has to wait for the others, before the coalescer
		}
		t.Run(name, func(t *testing.T) {
			got, runs := mergeAll(checkAll(t, packet, packet))
			if !slices.Equal(runs, []int{1, 1}) || !bytes.Equal(got[0], packet) || !bytes.Equal(got[1], packet) {
				t.Errorf("runs of %v, or packets changed", runs)
			}
		})
	}
}

// randomPacket is a segment with everything in it that may be merged.
func randomPacket(r *rand.Rand) tcpPacket {
	p := base4()
	if r.IntN(2) == 0 {
		p = base6()
	}
	p.tos, p.ttl, p.seq, p.ack, p.window = uint8(r.Uint32()), uint8(1+r.IntN(255)), r.Uint32(), r.Uint32(), uint16(r.Uint32())
	p.options = pattern(4 * r.IntN(11))
	if p.src.Is4() {
		p.id, p.fragment = uint16(r.Uint32()), uint16(r.IntN(2)*dontFragment)
	} else {
		p.flow = r.Uint32N(1 << 20)
	}
	if r.IntN(2) == 0 {
		p.flags |= psh
	}
	return p
}

// split(merge(x)) is x, to the last bit of every checksum; merge(split(x)) is x but for the TCP checksum.
func TestSplitMergeRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		p := randomPacket(r)
		mss := 1 + r.IntN(1400)
		p.payload = pattern(mss + 1 + r.IntN(min(50*mss, 65_000-mss)))
		segments := bytesOf(p.split(mss)...)
		merged, runs := mergeAll(checkAll(t, segments...))
		if len(runs) != 1 {
			t.Fatalf("%d segments of %d bytes make runs of %v", len(segments), mss, runs)
		}
		if want := p.bytes(); !bytes.Equal(withoutChecksum(p, merged[0]), withoutChecksum(p, want)) {
			t.Fatalf("merged: got %x, want %x", head(merged[0]), head(want))
		}
		var released atomic.Int32
		again := cut(new(segmenter), p.buffered(mss, &released, 1+r.IntN(2000)))
		if !slices.EqualFunc(again, segments, bytes.Equal) {
			t.Fatalf("split again, the segments are others: %d, were %d", len(again), len(segments))
		}
	}
}

// What verifying costs is the difference between the first two; the third is what one pass could save of it.
func BenchmarkCoalesce(b *testing.B) {
	for family, p := range map[string]tcpPacket{"IPv4": base4(), "IPv6": base6()} {
		p.payload = pattern(1348)
		run := []tcpPacket{p}
		for len(run) < batchSize {
			run = append(run, run[len(run)-1].follower(1348))
		}
		packets := bytesOf(run...)
		ipLen, allLen := p.headerLens()
		in, dst := newTestInbound(), make([]byte, 1<<16)
		batch := make([]inboundPacket, len(packets))
		coalesceOnce := func(b *testing.B) {
			n, size := coalesce(batch)
			if n != len(batch) {
				b.Fatalf("a run of %d", n)
			}
			merge(dst[:size], batch)
		}
		b.Run("verified/"+family, func(b *testing.B) {
			b.SetBytes(int64(len(packets) * len(packets[0])))
			b.ReportAllocs()
			for b.Loop() {
				for i, packet := range packets {
					in.check(&batch[i], packet)
				}
				coalesceOnce(b)
			}
		})
		b.Run("unverified/"+family, func(b *testing.B) {
			b.SetBytes(int64(len(packets) * len(packets[0])))
			for b.Loop() {
				for i, packet := range packets {
					proto, src, dst, _ := parseAddresses(packet)
					if in.validSource(src) && validDestination(dst) {
						batch[i] = inboundPacket{packet: packet, proto: proto, src: src, ipLen: ipLen, allLen: allLen}
					}
				}
				coalesceOnce(b)
			}
		})
		b.Run("checksum alone/"+family, func(b *testing.B) {
			b.SetBytes(int64(len(packets) * len(packets[0])))
			for b.Loop() {
				for _, packet := range packets {
					if !checksumValid(packet, ipLen) {
						b.Fatal("wrong checksum")
					}
				}
			}
		})
	}
}
