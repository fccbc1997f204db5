// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"net/netip"
)

// A Socket is something that is open on a Net: see [Net.Sockets].
type Socket struct {
	// Network is "tcp" or "udp", or "ping" for a [Flow] of that kind.
	Network string
	// Local is where it is. The zero Addr stands for all addresses of the Net.
	Local netip.AddrPort
	// Remote is the other end. It is the zero value for listeners, and for packet conns that send to anybody.
	Remote netip.AddrPort
}

// String returns the socket as one line of text: "tcp listener :80", "tcp 10.0.0.1:49152 to 10.0.0.2:80".
func (s Socket) String() string {
	local := s.Local.String()
	if !s.Local.Addr().IsValid() {
		local = fmt.Sprintf(":%d", s.Local.Port())
	}
	switch {
	case s.Remote.IsValid():
		return fmt.Sprintf("%s %s to %s", s.Network, local, s.Remote)
	case s.Network == "tcp":
		return "tcp listener " + local
	}
	return s.Network + " " + local
}

// Sockets returns what is open on the Net now, in no order: listeners, packet conns, connections and accepted flows, the Net's own
// questions to name servers included. A TCP connection counts until its writing side is closed: what delivers its last
// data or is in TIME_WAIT is left out. It is nil after [Net.Close]. It is for finding what was forgotten, and looks
// through all connections.
func (n *Net) Sockets() []Socket {
	if n.ctx.Err() != nil {
		return nil
	}
	var list []Socket
	for _, s := range n.stack.Sockets() {
		list = append(list, Socket(s))
	}
	return list
}
