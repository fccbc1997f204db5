// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// A reader of captures that shares no code with their writer.

type captureFile struct {
	interfaces []captureInterface
	packets    []capturedPacket
}

type captureInterface struct {
	name, description, filter string
	snapLen                   uint32
	statistics                int // how often there are some
	received, dropped         uint64
	packets                   int
}

type capturedPacket struct {
	peer     string // the interface's name
	at       time.Time
	outbound bool
	length   int // of the packet on the wire
	data     []byte

	src, dst     netip.AddrPort // without a port if it is neither TCP nor UDP
	protocol     byte
	flags        byte // of TCP
	seq          uint32
	payload      []byte
	checksumsBad bool // of a packet that is there in full
}

func readCapture(tb testing.TB, file []byte) *captureFile {
	tb.Helper()
	le := binary.LittleEndian
	c := &captureFile{}
	for n := 0; len(file) > 0; n++ {
		if len(file) < 12 || int(le.Uint32(file[4:])) > len(file) || le.Uint32(file[4:]) < 12 {
			tb.Fatalf("block %d has %d bytes: %x", n, len(file), file[:min(len(file), 12)])
		}
		kind, total := le.Uint32(file), le.Uint32(file[4:])
		body := file[8 : total-4]
		if le.Uint32(file[total-4:]) != total || n == 0 && (kind != 0x0a0d0d0a || le.Uint32(body) != 0x1a2b3c4d) {
			tb.Fatalf("block %d of type %#x begins with length %d and ends with %d", n, kind, total, le.Uint32(file[total-4:]))
		}
		file = file[total:]
		switch kind {
		case 1:
			o := readOptions(body[8:])
			c.interfaces = append(c.interfaces, captureInterface{
				name: string(o[2]), description: string(o[3]), filter: string(o[11]), snapLen: le.Uint32(body[4:]),
			})
			if le.Uint16(body) != 12 || o[9][0] != 9 {
				tb.Fatalf("link type %d, time unit 10^-%d", le.Uint16(body), o[9][0])
			}
		case 5:
			i, o := &c.interfaces[le.Uint32(body)], readOptions(body[12:])
			i.statistics++
			i.received, i.dropped = le.Uint64(o[4]), le.Uint64(o[5])
		case 6:
			i, size := &c.interfaces[le.Uint32(body)], le.Uint32(body[12:])
			i.packets++
			p := capturedPacket{
				peer: i.name, at: time.Unix(0, int64(le.Uint32(body[4:]))<<32|int64(le.Uint32(body[8:]))),
				data: body[20 : 20+size], length: int(le.Uint32(body[16:])),
			}
			switch flags := readOptions(body[20+(size+3)/4*4:])[2]; flags[0] {
			case 1:
			case 2:
				p.outbound = true
			default:
				tb.Fatalf("a packet's flags are %x", flags)
			}
			if !p.parse() && len(p.data) == p.length {
				tb.Fatalf("this is no IP packet: %x", p.data)
			}
			c.packets = append(c.packets, p)
		}
	}
	return c
}

func readOptions(b []byte) map[uint16][]byte {
	options := map[uint16][]byte{}
	for len(b) >= 4 {
		code, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if code == 0 {
			break
		}
		options[code] = b[4 : 4+size]
		b = b[4+(size+3)/4*4:]
	}
	return options
}

// parse reads an IP packet without extension headers.
func (p *capturedPacket) parse() bool {
	be, b := binary.BigEndian, p.data
	var src, dst netip.Addr
	var rest []byte
	var sum uint32 // of the pseudo header
	switch {
	case len(b) >= 20 && b[0]>>4 == 4: // without options
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.protocol, rest, sum = b[9], b[20:], sum16(b[12:20], 0)
		p.checksumsBad = fold(sum16(b[:20], 0)) != 0xffff || int(be.Uint16(b[2:])) != p.length
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.protocol, rest, sum = b[6], b[40:], sum16(b[8:40], 0)
		p.checksumsBad = int(be.Uint16(b[4:]))+40 != p.length
	default:
		return false
	}
	sum = sum16(rest, sum+uint32(p.protocol)+uint32(len(rest)))
	if p.protocol == 1 { // ICMP of IPv4 has no pseudo header
		sum = sum16(rest, 0)
	}
	fragment := src.Is4() && be.Uint16(b[6:])&0x3fff != 0 || p.protocol == 44
	if len(b) == p.length && !fragment && fold(sum) != 0xffff {
		p.checksumsBad = true
	}
	var ports [2]uint16
	switch {
	case p.protocol == 6 && len(rest) >= 20:
		p.seq, p.flags, p.payload = be.Uint32(rest[4:]), rest[13], rest[int(rest[12]>>4)*4:]
		ports = [2]uint16{be.Uint16(rest), be.Uint16(rest[2:])}
	case p.protocol == 17 && len(rest) >= 8:
		p.payload = rest[8:]
		ports = [2]uint16{be.Uint16(rest), be.Uint16(rest[2:])}
	}
	p.src, p.dst = netip.AddrPortFrom(src, ports[0]), netip.AddrPortFrom(dst, ports[1])
	return true
}

func sum16(b []byte, sum uint32) uint32 {
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	return sum
}

func fold(sum uint32) uint32 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}
