// SPDX-License-Identifier: MIT

package memnet

import (
	"math/bits"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxPayload4 and maxPayload6 are the largest UDP payloads: 65,535 bytes in the length field of IPv4 (RFC 791
	// section 3.1) and of UDP (RFC 768), less the headers that they include.
	maxPayload4 = 65535 - 20 - 8
	maxPayload6 = 65535 - 8

	// header4 and header6 are the bytes that IP and UDP add to a payload on a link.
	header4 = 20 + 8
	header6 = 40 + 8

	minClass = 8  // 256 bytes
	maxClass = 16 // 64 KiB
)

// pools has the free datagrams, by the binary logarithm of their buffers' size.
var pools [maxClass + 1]sync.Pool

// A datagram is one payload under way or in a receive buffer. It is in one list at a time.
type datagram struct {
	next     *datagram
	buf      []byte // its capacity is 1<<class
	class    uint8
	charged  bool // counts in Network.inFlight
	from, to netip.AddrPort

	delay   time.Duration // latency with jitter, as drawn
	arrival time.Duration // in link.pipe: when it arrives
	until   time.Duration // in link.held: when it goes on anyway
	after   uint64        // in link.held: it goes on once link.passed is this
}

// newDatagram copies b, which is not longer than maxPayload6.
func newDatagram(b []byte, from, to netip.AddrPort) *datagram {
	class := sizeClass(len(b))
	d, _ := pools[class].Get().(*datagram)
	if d == nil {
		d = &datagram{buf: make([]byte, 0, 1<<class), class: class}
	}
	d.buf = append(d.buf[:0], b...)
	d.from, d.to = from, to
	return d
}

// free gives d back. Nobody may use it any more.
func (d *datagram) free() { pools[d.class].Put(d) }

// memory is what d counts for in buffers that are bounded by memory.
func (d *datagram) memory() int { return 1 << d.class }

func sizeClass(size int) uint8 { return uint8(max(minClass, bits.Len(uint(max(size-1, 0))))) }

// overhead is the size of the headers before a payload sent to an address.
func overhead(to netip.Addr) int {
	if to.Is4() {
		return header4
	}
	return header6
}

func maxPayload(to netip.Addr) int {
	if to.Is4() {
		return maxPayload4
	}
	return maxPayload6
}

// A queue is a list of datagrams, first in, first out. Whoever owns it guards it.
type queue struct {
	head, tail *datagram
	len        int
}

func (q *queue) push(d *datagram) {
	d.next = nil
	if q.tail == nil {
		q.head = d
	} else {
		q.tail.next = d
	}
	q.tail = d
	q.len++
}

// pop takes the first datagram, or nil.
func (q *queue) pop() *datagram {
	d := q.head
	if d == nil {
		return nil
	}
	q.head, d.next = d.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.len--
	return d
}

// clear frees all datagrams.
func (q *queue) clear() {
	for d := q.pop(); d != nil; d = q.pop() {
		d.free()
	}
}
