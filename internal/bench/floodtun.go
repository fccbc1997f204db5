// SPDX-License-Identifier: MIT

package main

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	// floodInFlight bounds the packets between floodTUN and floodBind. The device would take in gigabytes.
	floodInFlight = 256
	// floodPause is how long the TUN waits for what is due, or for what is in flight.
	floodPause = time.Millisecond
)

// floodTUN is the TUN of a peer that means harm: out of it come SYNs and datagrams at a pace, each of another tuple of
// addresses and ports. What comes back falls on the floor.
type floodTUN struct {
	src              netip.Addr
	synTo, udpTo     netip.Addr // the first of their targets; each has 65,536 tuples
	synRate, udpRate float64    // in packets a second

	started, done chan struct{}
	begin         time.Time // set before started is closed
	syns, udp     atomic.Uint64
	sent          atomic.Uint64 // of both, by floodBind
	events        chan tun.Event
	closing       sync.Once
}

func newFloodTUN(src, synTo, udpTo netip.Addr, synRate, udpRate float64) *floodTUN {
	return &floodTUN{
		src: src, synTo: synTo, udpTo: udpTo, synRate: synRate, udpRate: udpRate,
		started: make(chan struct{}), done: make(chan struct{}), events: make(chan tun.Event),
	}
}

// start lets the packets out.
func (f *floodTUN) start() {
	f.begin = time.Now()
	close(f.started)
}

// Read implements [tun.Device]: as many packets as are due.
func (f *floodTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-f.started:
	case <-f.done:
		return 0, os.ErrClosed
	}
	for {
		select {
		case <-f.done:
			return 0, os.ErrClosed
		default:
		}
		elapsed := time.Since(f.begin).Seconds()
		syns, udp := f.syns.Load(), f.udp.Load()
		n, most := 0, len(bufs)
		if f.sent.Load()+floodInFlight < syns+udp {
			most = 0
		}
		for ; n < most; n++ {
			syn, datagram := elapsed*f.synRate-float64(syns), elapsed*f.udpRate-float64(udp)
			switch {
			case syn < 1 && datagram < 1:
			case syn*f.udpRate >= datagram*f.synRate: // the one that is later in its own time
				sizes[n] = f.syn(bufs[n][offset:], syns)
				syns++
				continue
			default:
				sizes[n] = f.datagram(bufs[n][offset:], udp)
				udp++
				continue
			}
			break
		}
		f.syns.Store(syns)
		f.udp.Store(udp)
		if n > 0 {
			return n, nil
		}
		select {
		case <-time.After(floodPause):
		case <-f.done:
		}
	}
}

// floodBind counts what the device has sent of a floodTUN's packets.
type floodBind struct {
	*memBind
	tun *floodTUN
}

// Send implements [conn.Bind].
func (b floodBind) Send(bufs [][]byte, to conn.Endpoint) error {
	const data, keepalive = 4, 32 // a type of message, and a length
	for _, m := range bufs {
		if m[0] == data && len(m) > keepalive {
			b.tun.sent.Add(1)
		}
	}
	return b.memBind.Send(bufs, to)
}

// syn writes the SYN of tuple i.
func (f *floodTUN) syn(b []byte, i uint64) int {
	const size = 20
	f.header(b, 6, size, target(f.synTo, i))
	tcp := b[20 : 20+size]
	clear(tcp)
	binary.BigEndian.PutUint16(tcp, uint16(i))
	binary.BigEndian.PutUint16(tcp[2:], 80)
	binary.BigEndian.PutUint32(tcp[4:], uint32(i))
	tcp[12], tcp[13] = size/4<<4, 2 // SYN
	binary.BigEndian.PutUint16(tcp[14:], 65_535)
	binary.BigEndian.PutUint16(tcp[16:], ^sum(tcp, sum(b[12:20], 6+size)))
	return 20 + size
}

// datagram writes the one datagram of tuple i.
func (f *floodTUN) datagram(b []byte, i uint64) int {
	const size = 8 + 8
	f.header(b, 17, size, target(f.udpTo, i))
	udp := b[20 : 20+size]
	clear(udp) // no checksum, which IPv4 allows (RFC 768)
	binary.BigEndian.PutUint16(udp, uint16(i))
	binary.BigEndian.PutUint16(udp[2:], 53)
	binary.BigEndian.PutUint16(udp[4:], size)
	binary.BigEndian.PutUint64(udp[8:], i)
	return 20 + size
}

// target is the address of tuple i, whose lower bits are the source port.
func target(first netip.Addr, i uint64) netip.Addr {
	a := first.As4()
	binary.BigEndian.PutUint16(a[2:], binary.BigEndian.Uint16(a[2:])+uint16(i>>16))
	return netip.AddrFrom4(a)
}

// header writes an IPv4 header.
func (f *floodTUN) header(b []byte, proto byte, size int, dst netip.Addr) {
	clear(b[:20])
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+size))
	src, to := f.src.As4(), dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], to[:])
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20], 0))
}

// sum adds up 16-bit words, as the checksums of IP and TCP do (RFC 1071).
func sum(b []byte, initial uint16) uint16 {
	n := uint32(initial)
	for ; len(b) > 1; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
	}
	n = n&0xffff + n>>16
	return uint16(n + n>>16)
}

// Write implements [tun.Device].
func (f *floodTUN) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// Close implements [tun.Device].
func (f *floodTUN) Close() error {
	f.closing.Do(func() {
		close(f.done)
		close(f.events)
	})
	return nil
}

func (f *floodTUN) File() *os.File           { return nil }
func (f *floodTUN) MTU() (int, error)        { return mtu, nil }
func (f *floodTUN) Name() (string, error)    { return "flood", nil }
func (f *floodTUN) Events() <-chan tun.Event { return f.events }
func (f *floodTUN) BatchSize() int           { return memBatch }
