// SPDX-License-Identifier: MIT

package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// reopen ends a connection in TIME_WAIT of ours if a packet that comes in is a SYN for the same ports, so that a listener
// gets it. A host that was restarted knows nothing of the old connection. gVisor takes its SYN only if the sequence number
// is newer, which with random ones is every other time, and is silent otherwise, for a minute (RFC 9293, section 3.10.7.4,
// and RFC 6191 would have it answered or taken). TIME_WAIT is there against old duplicates of a SYN; the tunnel, which
// refuses replays, lets none through.
func (s *Stack) reopen(p *inboundPacket) {
	ipLen, proto := header.IPv6MinimumSize, p.packet[6]
	if isIPv4(p.packet) {
		h := header.IPv4(p.packet)
		ipLen, proto = int(h.HeaderLength()), h.Protocol()
	}
	if proto != uint8(header.TCPProtocolNumber) || len(p.packet) < ipLen+header.TCPMinimumSize {
		return
	}
	h := header.TCP(p.packet[ipLen:])
	const flags = header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagRst | header.TCPFlagFin
	if h.Flags()&flags != header.TCPFlagSyn || !checksumValid(p.packet, ipLen) {
		return
	}
	a := addresses(p.packet)
	abortTimeWait(s.stack, p.proto, stack.TransportEndpointID{
		LocalAddress: tcpip.AddrFromSlice(a[len(a)/2:]), LocalPort: h.DestinationPort(),
		RemoteAddress: tcpip.AddrFromSlice(a[:len(a)/2]), RemotePort: h.SourcePort(),
	})
}

// abortTimeWait ends the connection between two ends if it is in TIME_WAIT, and reports whether it was.
func abortTimeWait(s *stack.Stack, proto tcpip.NetworkProtocolNumber, id stack.TransportEndpointID) bool {
	ep, ok := s.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, tunnelNIC).(*tcp.Endpoint)
	if !ok || ep.EndpointState() != tcp.StateTimeWait {
		return false
	}
	ep.Abort()
	return true
}
