// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// pinned is the peer that a connection is with, for good: when its address changes hands, the connection ends. It is not
// ok for one that stays inside of the stack.
type pinned struct {
	id PeerID
	ok bool
}

// Peer returns the peer that the connection is with. It stays what it was when the connection was made, whatever
// becomes of the routes. It reports false for a connection that stays inside of the stack, and for one that had been
// reset before it was accepted, of which that cannot be told any more.
func (c *TCPConn) Peer() (PeerID, bool) { return c.peer.id, c.peer.ok }

// Peer returns the peer that a socket of DialUDP is connected to, as [TCPConn.Peer] does. It reports false for one of
// ListenUDP.
func (c *UDPConn) Peer() (PeerID, bool) { return c.peer.id, c.peer.ok }

// endpoints are gVisor's, those of accepted flows included.
func (s *Stack) endpoints() []stack.TransportEndpoint {
	list := s.stack.RegisteredEndpoints()
	if tcp := s.transit.tcpStack(); tcp != nil {
		list = append(list, tcp.RegisteredEndpoints()...)
	}
	return list
}

// pin finds who serves an address now.
func (s *Stack) pin(addr netip.Addr) pinned {
	id, ok := s.PeerFor(addr)
	return pinned{id, ok}
}

// pinAccepted finds the peer that has made a connection. Those that live are found and ended when their address changes
// hands, from their first SYN on, so the one who serves the address now is the one who has made it. A dead one may have
// died before that. Past 4,095 half-open connections gVisor answers with SYN cookies, and there is nothing to be found: who
// had the address could finish a handshake with a packet that the device let through right before it moved, if the
// device has held that back until after the move.
func (s *Stack) pinAccepted(ep tcpip.Endpoint, remote netip.Addr) pinned {
	s.moveMu.RLock()
	defer s.moveMu.RUnlock()
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateError, tcp.StateClose:
		return pinned{}
	}
	return s.pin(remote.Unmap())
}

// connectUDP connects a socket and finds its peer, with no change of the routes in between.
func (s *Stack) connectUDP(ep tcpip.Endpoint, raddr netip.AddrPort) (pinned, tcpip.Error) {
	s.moveMu.RLock()
	defer s.moveMu.RUnlock()
	return s.pin(raddr.Addr()), ep.Connect(fullAddress(raddr))
}
