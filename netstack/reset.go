// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/seqnum"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// unsent are the sequence numbers of the first bytes that will not be sent on connections that are reset, when the link
// ends. A reset comes with the number after all that TCP has handed over to the link, but it takes effect only with the
// very one that the other side expects next. With another it is challenged (RFC 5961, section 3.2), which nobody is left to
// answer. What is lost on its way at that moment cannot be known: then the other side hears of the end as it does of any
// host that is gone.
type unsent map[connection]seqnum.Value

type connection struct {
	local, remote netip.Addr
	ports         uint32
}

// connectionOf finds the connection of a packet with an IP header and a TCP header.
func connectionOf(ip []byte, tcp header.TCP) connection {
	c := connection{ports: binary.BigEndian.Uint32(tcp)}
	a := addresses(ip)
	c.local, _ = netip.AddrFromSlice(a[:len(a)/2])
	c.remote, _ = netip.AddrFromSlice(a[len(a)/2:])
	return c
}

// drop notes that a packet will not be sent.
func (u unsent) drop(pkt *stack.PacketBuffer) {
	if tcp := tcpHeader(pkt); tcp != nil {
		u.add(connectionOf(pkt.NetworkHeader().Slice(), tcp), tcp.SequenceNumber())
	}
}

// dropRest notes that what is left in a segmenter will not be sent.
func (u unsent) dropRest(s *segmenter) {
	switch {
	case !s.busy():
	case s.ipLen == 0:
		u.drop(s.pkt)
	default:
		u.add(connectionOf(s.header[:s.ipLen], s.header[s.ipLen:s.allLen]), s.seq)
	}
}

func (u unsent) add(c connection, number uint32) {
	if first, ok := u[c]; !ok || seqnum.Value(number).LessThan(first) {
		u[c] = seqnum.Value(number)
	}
}

// correct gives a reset the number that the other side will expect, if nothing is lost on the way.
func (u unsent) correct(pkt *stack.PacketBuffer) {
	tcp := tcpHeader(pkt)
	if tcp == nil || !tcp.Flags().Contains(header.TCPFlagRst) {
		return
	}
	ip := pkt.NetworkHeader().Slice()
	first, ok := u[connectionOf(ip, tcp)]
	if !ok || !first.LessThan(seqnum.Value(tcp.SequenceNumber())) {
		return
	}
	tcp.SetSequenceNumber(uint32(first))
	tcp.SetChecksum(0)
	tcp.SetChecksum(^segmentSum(tcp, pseudoSum(ip))) // a reset has no data
}

// tcpHeader is a packet's TCP header, or nil.
func tcpHeader(pkt *stack.PacketBuffer) header.TCP {
	if h := pkt.TransportHeader().Slice(); transportOf(pkt) == header.TCPProtocolNumber && len(h) >= header.TCPMinimumSize {
		return h
	}
	return nil
}
