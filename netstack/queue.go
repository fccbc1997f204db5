// SPDX-License-Identifier: MIT

package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxDatagramPackets is how many packets of UDP and ICMP echo requests to a peer may wait before their writers do.
	maxDatagramPackets = 1024
	// maxControlPackets is how many packets that nobody waits for (ICMP answers and errors, RST) may wait, to all peers
	// together, before new ones are dropped and counted.
	maxControlPackets = 1024
	// maxAckPackets is the same for TCP segments without data, which strangers can call forth (SYN-ACK, duplicate
	// ACK). It is larger, since TCP has to repair what is lost.
	maxAckPackets = 8192
	// maxWaiting is how many packets to a peer without a session wait for one. Past it the oldest is dropped, as the
	// WireGuard paper has it (section 6.4), so that a writer to a dead peer never waits.
	maxWaiting = 16
	// askPause is the least time between two reports that packets to a peer wait for a session.
	askPause = time.Second
)

// packetClass says what bounds a packet in the link's queues.
type packetClass uint8

const (
	classStream   packetClass = iota // TCP with data: bounded by TCP's send buffers
	classDatagram                    // bounded by the writers, who wait for room
	classAck                         // TCP without data: bounded by dropping
	classControl                     // bounded by dropping
	classes
)

// queued is a packet with the queue's reference to it.
type queued struct {
	pkt   *stack.PacketBuffer
	class packetClass
}

// peerQueue is what waits for one peer, oldest first. It is the link's: link.mu guards it.
type peerQueue struct {
	peer    PeerID
	packets []queued
	head    int // index of the oldest in packets
	// datagrams counts those of classDatagram.
	datagrams int
	// room is closed, and taken away, when there is room again for datagrams. Nil when nobody waits.
	room chan struct{}
	// session is until when the peer has one, in the link's time.
	session time.Duration
	asked   time.Duration // when a session was last asked for; 0 is never
	ready   bool          // in link.ready
}

func (q *peerQueue) len() int { return len(q.packets) - q.head }

func (q *peerQueue) push(p queued) {
	if q.head > 0 && len(q.packets) == cap(q.packets) {
		// Rather than grow, take the place of those that are gone.
		n := copy(q.packets, q.packets[q.head:])
		clear(q.packets[n:])
		q.packets, q.head = q.packets[:n], 0
	}
	q.packets = append(q.packets, p)
	if p.class == classDatagram {
		q.datagrams++
	}
}

// pop takes the oldest packet out. There must be one.
func (q *peerQueue) pop() queued {
	p := q.packets[q.head]
	q.packets[q.head] = queued{}
	q.head++
	if q.head == len(q.packets) {
		q.packets, q.head = q.packets[:0], 0
	}
	if p.class == classDatagram {
		q.datagrams--
		if q.datagrams < maxDatagramPackets/2 {
			q.release()
		}
	}
	return p
}

// release lets the writers go that wait for room.
func (q *peerQueue) release() {
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
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
