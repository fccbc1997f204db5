// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxDatagramPackets is how many packets of UDP and ICMP echo requests to a peer may wait before their writers do.
	maxDatagramPackets = 1024
	// maxControlPackets is how many packets that nobody waits for (ICMP answers and errors, RST) may wait for one peer,
	// before new ones are dropped and counted.
	maxControlPackets = 1024
	// maxAckPackets is the same for TCP segments without data, which strangers can call forth (SYN-ACK, duplicate
	// ACK). It is larger, since TCP has to repair what is lost.
	maxAckPackets = 8192
	// maxForwardedPackets is the same for packets from one peer to another, and for runs of up to 16 of them.
	maxForwardedPackets = 512
	// maxWaiting is how many packets to a peer without a session wait for one. Past it the oldest is dropped, as the
	// WireGuard paper has it (section 6.4), so that a writer to a dead peer never waits.
	maxWaiting = 16
	// waitLimit is how long they wait: as long as the device tries to get a session (Rekey-Attempt-Time, section 6.1).
	waitLimit = 90 * time.Second
	// askPause is the least time between two reports that packets to a peer wait for a session.
	askPause = time.Second

	// lanes is how many queues there are for each peer: one for UDP, one for ICMP, the rest for TCP by a hash of the ports.
	lanes        = 8
	icmpLane     = 0
	udpLane      = 1
	firstTCPLane = 2
	// quantum is how many packets of the link's MTU a lane's turn has, before which it begins no further segment. Those
	// of 64 KiB have 48 packets of the usual size.
	quantum = 40
	// keepCapacity is how many places an empty queue keeps.
	keepCapacity = 1024
)

// packetClass says what bounds a packet in the link's queues.
type packetClass uint8

const (
	classStream    packetClass = iota // TCP with data: bounded by TCP's send buffers
	classDatagram                     // bounded by the writers, who wait for room
	classAck                          // TCP without data: bounded by dropping
	classControl                      // bounded by dropping
	classForwarded                    // from another peer: bounded by dropping
	classes
)

// limit is how many packets of a class may wait for one peer before further ones are dropped; 0 is none.
func (c packetClass) limit() int {
	switch c {
	case classAck:
		return maxAckPackets
	case classControl:
		return maxControlPackets
	case classForwarded:
		return maxForwardedPackets
	}
	return 0
}

// queued is a packet with the queue's reference to it.
type queued struct {
	pkt    *stack.PacketBuffer
	class  packetClass
	number uint64 // in the order of arrival
}

// peerQueue is what waits for one peer. It is the link's: link.mu guards it.
//
// The packets of a flow stay in order. TCP connections have different lanes, but for accidents of the hash, and the lanes
// take turns (deficit round robin, Shreedhar and Varghese): a bulk transfer may have megabytes waiting, and what comes
// beside it does not wait for them.
type peerQueue struct {
	peer   PeerID
	lanes  [lanes]fifo[queued]
	turn   int // the lane that is served
	spent  int // packets of its turn's quantum
	counts [classes]int
	size   int    // packets in all lanes
	number uint64 // of the newest packet
	// room is closed, and taken away, when there is room again for datagrams. Nil when nobody waits.
	room chan struct{}

	// Times are the link's.
	session time.Duration // until when the peer has one
	pushed  time.Duration // when a packet last came to wait for a session
	asked   time.Duration // when a session was last asked for; 0 is never

	ready, waiting bool // in link.ready, in link.waiting

	// See pathmtu.go.
	pathMTU   int           // 0 if nothing is known
	pathUntil time.Duration // when it is forgotten

	// See flight.go.
	inFlight int           // packets out of the queue and not sent yet
	sending  int           // sends under way
	movedAt  time.Duration // when a packet was last taken out or sent
	stalled  bool          // what was in flight was taken for lost, and nothing was sent since
	flying   bool          // in link.flying
}

func (q *peerQueue) push(pkt *stack.PacketBuffer, class packetClass) {
	q.number++
	q.lanes[laneOf(pkt)].push(queued{pkt, class, q.number})
	q.counts[class]++
	q.size++
}

// pop takes out the oldest packet of the lane whose turn it is. There must be one.
func (q *peerQueue) pop() *stack.PacketBuffer {
	if q.spent >= quantum {
		q.turn, q.spent = (q.turn+1)%lanes, 0
	}
	for q.lanes[q.turn].len() == 0 {
		q.turn, q.spent = (q.turn+1)%lanes, 0
	}
	pkt := q.popFrom(&q.lanes[q.turn])
	q.spent += packetsIn(pkt, q.pathMTU)
	return pkt
}

// popOldest takes out the packet that came first. There must be one.
func (q *peerQueue) popOldest() *stack.PacketBuffer {
	var oldest *fifo[queued]
	for i := range q.lanes {
		lane := &q.lanes[i]
		if lane.len() > 0 && (oldest == nil || lane.first().number < oldest.first().number) {
			oldest = lane
		}
	}
	return q.popFrom(oldest)
}

func (q *peerQueue) popFrom(lane *fifo[queued]) *stack.PacketBuffer {
	p := lane.pop()
	q.counts[p.class]--
	q.size--
	if q.counts[classDatagram] < maxDatagramPackets/2 {
		q.release()
	}
	return p.pkt
}

// empty drops all packets but those of one class, or all (classes), and lets the writers go. What it drops is noted in
// dropped, if that is not nil, and the resets among those that stay are made to follow what was sent.
func (q *peerQueue) empty(but packetClass, dropped unsent) {
	for i := range q.lanes {
		lane := &q.lanes[i]
		for range lane.len() {
			p := lane.pop()
			if p.class == but {
				if dropped != nil {
					dropped.correct(p.pkt)
				}
				lane.push(p)
				continue
			}
			if dropped != nil {
				dropped.drop(p.pkt)
			}
			q.counts[p.class]--
			q.size--
			p.pkt.DecRef()
		}
	}
	q.release()
}

// release lets the writers go that wait for room.
func (q *peerQueue) release() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
}

// fifo is a queue. The zero value is empty.
type fifo[T any] struct {
	items []T
	head  int // index of the oldest in items
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

// first returns the oldest. There must be one.
func (f *fifo[T]) first() *T { return &f.items[f.head] }

func (f *fifo[T]) push(item T) {
	if len(f.items) == cap(f.items) && f.head > len(f.items)/2 {
		// Rather than grow, take the place of those that are gone. There are more of them than are moved.
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, item)
}

// pop takes the oldest out. There must be one.
func (f *fifo[T]) pop() T {
	var none T
	item := f.items[f.head]
	f.items[f.head] = none
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
		if cap(f.items) > keepCapacity {
			f.items = nil
		}
	}
	return item
}

// laneOf is the lane of a packet's flow. UDP has only one, since fragments do not show their ports and would overtake
// their flow; its writers wait past a bound anyway.
func laneOf(pkt *stack.PacketBuffer) int {
	switch transportOf(pkt) {
	case header.UDPProtocolNumber:
		return udpLane
	case header.TCPProtocolNumber:
		if h := pkt.TransportHeader().Slice(); len(h) >= 4 {
			// Fibonacci hashing: the upper bits of the product depend on all bits of the ports.
			return firstTCPLane + int(binary.BigEndian.Uint32(h)*0x9e3779b1>>16)%(lanes-firstTCPLane)
		}
	}
	return icmpLane
}

// packetsIn is how many packets of a path's MTU, or the link's if that is 0, a packet will be cut into.
func packetsIn(pkt *stack.PacketBuffer, pathMTU int) int {
	if pkt.GSOOptions.Type == stack.GSONone || pkt.GSOOptions.MSS == 0 {
		return 1
	}
	size := payloadSize(pkt, pathMTU)
	return max(1, (pkt.Data().Size()+size-1)/size)
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
