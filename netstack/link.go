// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxDatagramPackets is how many packets of UDP and ICMP echo requests may wait before their writers do.
	maxDatagramPackets = 1024
	// maxControlPackets is how many packets that nobody waits for (ICMP answers and errors, RST) may wait before
	// new ones are dropped and counted.
	maxControlPackets = 1024
	// maxAckPackets is the same for TCP segments without data, which strangers can call forth (SYN-ACK, duplicate
	// ACK). It is larger, since TCP has to repair what is lost.
	maxAckPackets = 8192
)

// packetClass says what bounds a packet in the link's queue.
type packetClass uint8

const (
	classStream   packetClass = iota // TCP with data: bounded by TCP's send buffers
	classDatagram                    // bounded by the writers, who wait in wait
	classAck                         // TCP without data: bounded by dropping
	classControl                     // bounded by dropping
)

// link is the stack's link endpoint: the queue between gVisor and the device's TUN reader.
//
// Its invariants:
//   - WritePackets never blocks: it runs inside of the device's own write path too, for echo replies and RSTs;
//   - every packet in the queue has one reference that the queue owns;
//   - once closed, nothing is put into the queue and no writer waits for it;
//   - nobody ever sends on a channel that may be closed: wake is never closed, done is closed once.
type link struct {
	mtu     uint32
	done    <-chan struct{} // the stack's: closed when it is
	wake    chan struct{}   // holds one token when there may be something to read
	silence *silenceWatch

	// readMu guards reading, and lets one device's reader at a time copy. Lock order: readMu, mu.
	readMu sync.Mutex
	// reading is what the reader has taken over; of that, the first copied packets are gone.
	reading []queued
	copied  int

	mu    sync.Mutex // guards what follows
	queue []queued
	// counts are the packets of each class in queue and in reading that are not copied yet.
	counts [classControl + 1]int
	// room is closed, and taken away, when the queue has room again for datagrams. Nil when nobody waits.
	room       chan struct{}
	closed     bool
	dropped    uint64 // packets that found their class's place in the queue full
	dispatcher stack.NetworkDispatcher
}

type queued struct {
	pkt   *stack.PacketBuffer
	class packetClass
}

func newLink(mtu int, done <-chan struct{}, silence *silenceWatch) *link {
	return &link{mtu: uint32(mtu), done: done, wake: make(chan struct{}, 1), silence: silence}
}

// WritePackets implements [stack.LinkWriter]. A packet that is dropped for want of room is no error: it is lost, as on
// any link.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		l.silence.sent(pkt)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return 0, &tcpip.ErrClosedForSend{}
	}
	for _, pkt := range pkts.AsSlice() {
		l.pushLocked(pkt)
	}
	l.mu.Unlock()
	l.notify()
	return pkts.Len(), nil
}

// resend queues packets a second time. It takes over the caller's references.
func (l *link) resend(pkts []*stack.PacketBuffer) {
	l.mu.Lock()
	for _, pkt := range pkts {
		if !l.closed {
			l.pushLocked(pkt)
		}
		pkt.DecRef()
	}
	l.mu.Unlock()
	l.notify()
}

func (l *link) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// The caller holds l.mu.
func (l *link) pushLocked(pkt *stack.PacketBuffer) {
	class := classify(pkt)
	if class == classControl && l.counts[class] >= maxControlPackets || class == classAck && l.counts[class] >= maxAckPackets {
		l.dropped++
		return
	}
	l.counts[class]++
	l.queue = append(l.queue, queued{pkt.IncRef(), class})
}

func classify(pkt *stack.PacketBuffer) packetClass {
	switch transportOf(pkt) {
	case header.TCPProtocolNumber:
		switch h := header.TCP(pkt.TransportHeader().Slice()); {
		case len(h) >= header.TCPMinimumSize && h.Flags().Contains(header.TCPFlagRst):
			return classControl
		case pkt.Data().Size() == 0:
			return classAck
		}
		return classStream
	case header.UDPProtocolNumber:
		return classDatagram
	}
	// Our own echo requests are never fragments; the answer to a stranger's may be one.
	if isEchoRequest(pkt) {
		return classDatagram
	}
	return classControl
}

// transportOf is a packet's transport protocol, also of a fragment, which gVisor does not mark.
func transportOf(pkt *stack.PacketBuffer) tcpip.TransportProtocolNumber {
	if pkt.TransportProtocolNumber != 0 {
		return pkt.TransportProtocolNumber
	}
	h := pkt.NetworkHeader().Slice()
	switch {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(h) >= header.IPv4MinimumSize:
		return header.IPv4(h).TransportProtocol()
	case pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber && len(h) > header.IPv6MinimumSize:
		return tcpip.TransportProtocolNumber(h[header.IPv6MinimumSize]) // the fragment header's next header
	}
	return 0
}

func isEchoRequest(pkt *stack.PacketBuffer) bool {
	h := pkt.TransportHeader().Slice()
	if len(h) == 0 {
		return false
	}
	switch pkt.TransportProtocolNumber {
	case header.ICMPv4ProtocolNumber:
		return header.ICMPv4Type(h[0]) == header.ICMPv4Echo
	case header.ICMPv6ProtocolNumber:
		return header.ICMPv6Type(h[0]) == header.ICMPv6EchoRequest
	}
	return false
}

// wait returns nil when there is room for a datagram, else a channel that is closed when there may be.
// The bound may be passed by what the writers that saw room at the same time put in, a datagram each.
func (l *link) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.counts[classDatagram] < maxDatagramPackets || l.closed {
		return nil
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	return l.room
}

// read waits until there are packets, closed is closed or the stack is, and copies as many packets as bufs has
// place for, each at offset into its buffer. After the stack's end it still returns what close has left.
func (l *link) read(bufs [][]byte, sizes []int, offset int, closed <-chan struct{}) (int, error) {
	for {
		if isClosed(closed) {
			l.notify() // the token that woke us may have been meant for the reader of the next facade
			return 0, os.ErrClosed
		}
		if n := l.take(bufs, sizes, offset); n > 0 {
			return n, nil
		}
		select {
		case <-l.wake:
		case <-closed:
		case <-l.done:
			if n := l.take(bufs, sizes, offset); n > 0 {
				return n, nil
			}
			return 0, os.ErrClosed
		}
	}
}

func (l *link) take(bufs [][]byte, sizes []int, offset int) int {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if l.copied == len(l.reading) {
		// The two slices take turns: what the writers fill and what the reader empties.
		l.mu.Lock()
		l.queue, l.reading, l.copied = l.reading[:0], l.queue, 0
		l.mu.Unlock()
	}
	batch := l.reading[l.copied:]
	batch = batch[:min(len(bufs), len(batch))]
	n := len(batch)
	if n == 0 {
		return 0
	}
	var taken [classControl + 1]int
	for i, q := range batch {
		sizes[i] = copyPacket(bufs[i][offset:], q.pkt)
		taken[q.class]++
		q.pkt.DecRef()
		batch[i] = queued{}
	}
	l.copied += n

	l.mu.Lock()
	defer l.mu.Unlock()
	for class, count := range taken {
		l.counts[class] -= count
	}
	if l.room != nil && l.counts[classDatagram] < maxDatagramPackets/2 {
		close(l.room)
		l.room = nil
	}
	return n
}

// copyPacket copies the whole packet, headers first, and returns its size.
func copyPacket(dst []byte, pkt *stack.PacketBuffer) int {
	views, skip := pkt.AsViewList()
	n := 0
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n += copy(dst[n:], b[skip:])
		skip = 0
	}
	return n
}

// close lets every writer that waits for room go and empties the queue, but for control packets: the RSTs by which
// the other sides learn of the end, should there still be a reader. See Stack.Close for the order.
func (l *link) close() {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var last []queued
	for _, q := range slices.Concat(l.reading[l.copied:], l.queue) {
		if q.class == classControl {
			last = append(last, q)
		} else {
			q.pkt.DecRef()
		}
	}
	l.reading, l.copied, l.queue = nil, 0, last
	l.counts = [classControl + 1]int{classControl: len(last)}
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// deliver hands an inbound packet to gVisor. It reports false when the stack is gone.
func (l *link) deliver(pkt *stack.PacketBuffer, proto tcpip.NetworkProtocolNumber) bool {
	l.mu.Lock()
	d := l.dispatcher
	l.mu.Unlock()
	if d == nil {
		return false
	}
	d.DeliverNetworkPacket(proto, pkt)
	return true
}

// Attach implements [stack.NetworkLinkEndpoint]; the dispatcher is nil when the NIC goes.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements [stack.NetworkLinkEndpoint].
func (l *link) IsAttached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dispatcher != nil
}

// MTU implements [stack.NetworkLinkEndpoint].
func (l *link) MTU() uint32 { return l.mtu }

// The rest of [stack.NetworkLinkEndpoint] is for links with addresses and headers, which a tunnel has not.

func (l *link) SetMTU(uint32)                                {}
func (l *link) MaxHeaderLength() uint16                      { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress               { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)             {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }
func (l *link) Wait()                                        {}
func (l *link) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)                {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (l *link) Close()                                       {}
func (l *link) SetOnCloseAction(func())                      {}
