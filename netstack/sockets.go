// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// A Socket is something that a program has open on a [Stack].
type Socket struct {
	Network string         // "tcp" or "udp", or "ping" for a flow of that kind
	Local   netip.AddrPort // the zero Addr if it is at all addresses
	Remote  netip.AddrPort // the zero value if it listens, or sends to anybody
}

// Sockets returns what is open now, in no order: listeners, packet conns, accepted flows, and connections, those that are
// being made or wait to be accepted included. It leaves out connections whose writing side is closed: TCP alone has to do with them,
// or will as soon as the other side closes too. It looks through all connections, so it is not for the packet path.
func (s *Stack) Sockets() []Socket {
	var list []Socket
	seen := map[stack.TransportEndpoint]bool{} // a dual-stack one is registered for each family
	for _, ep := range s.stack.RegisteredEndpoints() {
		e, ok := ep.(tcpip.Endpoint)
		if !ok || seen[ep] {
			continue
		}
		seen[ep] = true
		socket := Socket{Network: "udp"}
		switch info := e.Info().(*stack.TransportEndpointInfo); {
		case info.TransProto == udp.ProtocolNumber:
		case info.TransProto != tcp.ProtocolNumber:
			continue // a ping
		default:
			socket.Network = "tcp"
			switch tcp.EndpointState(e.State()) {
			case tcp.StateListen, tcp.StateSynSent, tcp.StateSynRecv, tcp.StateEstablished, tcp.StateCloseWait:
			default:
				continue
			}
		}
		if local, err := e.GetLocalAddress(); err == nil {
			socket.Local = addrPort(local)
		}
		if remote, err := e.GetRemoteAddress(); err == nil {
			socket.Remote = addrPort(remote)
		}
		list = append(list, socket)
	}
	return append(list, s.transit.sockets()...)
}
