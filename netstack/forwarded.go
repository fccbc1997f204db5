// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tcpTrack is what is known of a forwarded TCP connection: which side has sent an ACK, and which a FIN or a reset. It
// only chooses a timeout (RFC 5382, section 5): that a segment is one that the receiver accepts is not checked.
type tcpTrack struct{ acked, over [2]bool }

// established says whether both sides have spoken, and neither has ended.
func (k *tcpTrack) established() bool {
	return k.acked[0] && k.acked[1] && !k.over[0] && !k.over[1]
}

// establishedLocked says whether a forwarded connection is. If both sides have begun, each side is tracked by its own flow.
func (f *Flow) establishedLocked() bool {
	k := f.tracked
	if other := f.transit.flows[f.key.reverse()]; other != nil && other != f && other.state == flowForwarded {
		k.acked[1] = k.acked[1] || other.tracked.acked[0]
		k.over[1] = k.over[1] || other.tracked.over[0]
	}
	return k.established()
}

// trackLocked notes a packet of a forwarded flow. The caller holds transit.mu.
func (f *Flow) trackLocked(p *transitPacket) {
	if p.kind != kindTCP {
		return
	}
	side := 0
	if p.key != f.key {
		side = 1
	}
	switch flags := p.tcp().Flags(); {
	case flags&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn:
		f.tracked = tcpTrack{} // it begins, maybe anew
	case flags&(header.TCPFlagFin|header.TCPFlagRst) != 0:
		f.tracked.over[side] = true
	case flags.Contains(header.TCPFlagAck):
		f.tracked.acked[side] = true
	}
}

// forward passes a packet on to the peer that serves its destination. It reports false if the packet is too big for the
// tunnel and must not be fragmented.
func (t *transit) forward(p *transitPacket) bool {
	mtu := int(t.stack.link.mtu)
	size, headers := len(p.b), 0
	if p.mss > 0 {
		headers = p.ipLen + int(p.tcp().DataOffset())
		size = headers + p.mss
	}
	if size > mtu && !p.whole && (!isIPv4(p.b) || header.IPv4(p.b).Flags()&header.IPv4FlagDontFragment != 0) {
		// RFC 1191, section 4; RFC 8200, section 5. A packet that came in fragments was not found too big by its sender.
		return false
	}
	if p.mss > 0 {
		t.stack.link.forward([][]byte{p.b}, min(p.mss, mtu-headers)) // where segments end means nothing to TCP
	} else {
		t.stack.link.forward(fragmented(p.b, mtu), 0)
	}
	return true
}

// decrementTTL takes one from the time to live or hop limit of a header, and mends IPv4's checksum for it: the checksum is
// the complement of a sum, of which the old word is taken away and to which the new one is added (RFC 1624, equation 3).
func decrementTTL(b []byte) {
	if !isIPv4(b) {
		b[7]--
		return
	}
	old := binary.BigEndian.Uint16(b[8:])
	b[8]--
	sum := uint32(^binary.BigEndian.Uint16(b[10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(b[8:]))
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
}

// forward queues copies of packets to another peer, a hop further. Nobody waits for them: past a bound they are dropped.
// With mss they are runs of segments, which are cut again.
func (l *link) forward(packets [][]byte, mss int) {
	var list stack.PacketBufferList
	defer list.DecRef()
	for _, b := range packets {
		pkt := packetBuffer(b)
		decrementTTL(pkt.NetworkHeader().Slice())
		if mss > 0 {
			pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, MSS: uint16(mss)}
			if isIPv4(b) {
				pkt.GSOOptions.Type = stack.GSOTCPv4
			}
		}
		list.PushBack(pkt)
		l.silence.sent(pkt)
	}
	l.mu.Lock()
	if !l.closed {
		for _, pkt := range list.AsSlice() {
			l.pushLocked(pkt, classForwarded)
		}
	}
	l.mu.Unlock()
	l.notify()
}

// relayError gives an ICMP error to the flow that it is about.
func (t *transit) relayError(p *transitPacket) {
	peer, ok := t.stack.routes.Load().lookup(sourceOf(p.b))
	t.mu.Lock()
	f := t.flows[p.key]
	if f == nil {
		f = t.flows[p.key.reverse()] // about what we have sent
	}
	if !ok || f == nil || peer != f.id && (!f.hasTarget || peer != f.target) {
		t.mu.Unlock()
		return
	}
	state, conn, tcp := f.state, f.conn, t.tcp
	t.mu.Unlock()
	switch {
	case state == flowForwarded:
		t.forward(p)
	case peer != f.id || state != flowOpen && state != flowAccepting:
	case conn == nil:
		tcp.deliver(p.b, false)
	case p.isPortUnreachable():
		conn.fail(syscall.ECONNREFUSED)
	}
}

func (p *transitPacket) isPortUnreachable() bool {
	l4 := p.b[p.ipLen:]
	if isIPv4(p.b) {
		return header.ICMPv4(l4).Type() == header.ICMPv4DstUnreachable && header.ICMPv4(l4).Code() == header.ICMPv4PortUnreachable
	}
	return header.ICMPv6(l4).Type() == header.ICMPv6DstUnreachable && header.ICMPv6(l4).Code() == header.ICMPv6PortUnreachable
}
