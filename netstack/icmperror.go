// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// errorRate and errorBurst bound the ICMP errors to one peer, in messages a second and at once (RFC 1812, section
	// 4.3.2.8).
	errorRate, errorBurst = 100, 100
	// An error carries as much of the packet that it is about as leaves it this size (RFC 1812, section 4.3.2.3; RFC
	// 4443, section 2.4).
	maxError4, maxError6 = 576, 1280
)

// complaint is a kind of ICMP error.
type complaint struct{ type4, code4, type6, code6 uint8 }

var (
	portUnreachable = complaint{3, 3, 1, 4}
	hostUnreachable = complaint{3, 1, 1, 3}
	netUnreachable  = complaint{3, 0, 1, 0}
	prohibited      = complaint{3, 13, 1, 1}
	timeExceeded    = complaint{11, 0, 3, 0}
	tooBig          = complaint{3, 4, 2, 0}
)

// bucket holds tokens for ICMP errors.
type bucket struct {
	tokens float64
	at     time.Duration // when tokens was reckoned; 0 is never
}

// take reports whether there was a token.
func (b *bucket) take(now time.Duration) bool {
	if b.at == 0 {
		b.tokens = errorBurst
	}
	b.tokens = min(errorBurst, b.tokens+(now-b.at).Seconds()*errorRate)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// complain sends an ICMP error about a packet to its source, from the router that we are. It may be that it does not: the
// rate is bounded, and nobody is told of what is wrong with an error (RFC 1122, section 3.2.2).
func (t *transit) complain(p *transitPacket, what complaint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complainLocked(p, what)
}

func (t *transit) complainLocked(p *transitPacket, what complaint) {
	if p.kind == kindError {
		return
	}
	peer, ok := t.stack.routes.Load().lookup(sourceOf(p.b))
	if !ok {
		return
	}
	if t.handler != nil && t.peerLocked(peer).errors.take(t.now()) {
		t.send(t.icmpError(p, what))
	}
}

func (t *transit) send(packet []byte) { t.stack.link.send([][]byte{packet}) }

// icmpError makes an error about a packet. That nobody listens is said by the destination, the rest by us.
func (t *transit) icmpError(p *transitPacket, what complaint) []byte {
	src, dst := destinationOf(p.b), sourceOf(p.b)
	v4 := isIPv4(p.b)
	if router := t.stack.own.Load().source(dst); router.IsValid() && what != portUnreachable {
		src = router // else we have no address of the family
	}
	inner, rest := p.b, uint32(0)
	if what == tooBig {
		rest = t.stack.link.mtu // in IPv4 the upper half is unused (RFC 1191, section 4)
	}
	if v4 {
		inner = inner[:min(len(inner), maxError4-header.IPv4MinimumSize-echoHeader)]
		b, n := newIP(src, dst, uint8(header.ICMPv4ProtocolNumber), echoHeader+len(inner))
		b[n], b[n+1] = what.type4, what.code4
		binary.BigEndian.PutUint32(b[n+4:], rest)
		copy(b[n+echoHeader:], inner)
		header.ICMPv4(b[n:]).SetChecksum(^checksumOf(b[n:]))
		return b
	}
	inner = inner[:min(len(inner), maxError6-header.IPv6MinimumSize-echoHeader)]
	b, n := newIP(src, dst, uint8(header.ICMPv6ProtocolNumber), echoHeader+len(inner))
	b[n], b[n+1] = what.type6, what.code6
	binary.BigEndian.PutUint32(b[n+4:], rest)
	copy(b[n+echoHeader:], inner)
	header.ICMPv6(b[n:]).SetChecksum(^transportSum(b, n, uint8(header.ICMPv6ProtocolNumber)))
	return b
}

// refuseLocked answers a flow's packet as Flow.Refuse says. The caller holds t.mu.
func (t *transit) refuseLocked(f *Flow, p *transitPacket, reason error) {
	what := complaintOf(reason, f.key.proto)
	if f.key.proto == flowTCP && what == portUnreachable {
		t.send(resetFor(p))
		return
	}
	if !f.peer.errors.take(t.now()) {
		if f.key.proto == flowTCP {
			t.send(resetFor(p))
		}
		return
	}
	t.send(t.icmpError(p, what))
	if f.key.proto == flowTCP && !isIPv4(p.b) && what != netUnreachable {
		// gVisor's TCP heeds none but this one. Others have ended their dial by then.
		t.send(t.icmpError(p, netUnreachable))
	}
}

func complaintOf(reason error, proto flowProtocol) complaint {
	switch {
	case errors.Is(reason, syscall.EHOSTUNREACH):
		return hostUnreachable
	case errors.Is(reason, syscall.ENETUNREACH):
		return netUnreachable
	case errors.Is(reason, syscall.EACCES):
		return prohibited
	case proto == flowPing:
		return hostUnreachable
	}
	return portUnreachable
}

// resetFor makes the answer to a SYN that nobody wants (RFC 9293, section 3.10.7.1).
func resetFor(p *transitPacket) []byte {
	syn := p.tcp()
	b, n := newIP(destinationOf(p.b), sourceOf(p.b), uint8(header.TCPProtocolNumber), header.TCPMinimumSize)
	h := header.TCP(b[n:])
	h.Encode(&header.TCPFields{
		SrcPort: syn.DestinationPort(), DstPort: syn.SourcePort(), DataOffset: header.TCPMinimumSize,
		AckNum: syn.SequenceNumber() + 1 + uint32(len(syn)) - uint32(syn.DataOffset()),
		Flags:  header.TCPFlagRst | header.TCPFlagAck,
	})
	h.SetChecksum(^transportSum(b, n, uint8(header.TCPProtocolNumber)))
	return b
}

func checksumOf(b []byte) uint16 { return checksum.Checksum(b, 0) }

func sourceOf(packet []byte) netip.Addr {
	if isIPv4(packet) {
		return netip.AddrFrom4([4]byte(packet[12:16]))
	}
	return netip.AddrFrom16([16]byte(packet[8:24]))
}

func destinationOf(packet []byte) netip.Addr {
	if isIPv4(packet) {
		return netip.AddrFrom4([4]byte(packet[16:20]))
	}
	return netip.AddrFrom16([16]byte(packet[24:40]))
}
