// SPDX-License-Identifier: MIT

package netstack

// Drops counts packets that a [Stack] has dropped, by reason. None is an error: a network loses packets.
type Drops struct {
	// Refused came from the device and were not fit to be seen: malformed, of a datagram whose fragments contradict each
	// other, or with an address that no packet from another host has.
	Refused uint64
	// Incomplete are datagrams of which fragments were missing for too long, or when there was no room for more of them.
	Incomplete uint64
	// Unsent were to go to a peer: there was no room in its queue, no session for too long, or the address is nobody's.
	Unsent uint64
	// Unaccepted were to begin TCP connections with a listener whose backlog was full.
	Unaccepted uint64
	// Unread are datagrams for a conn of the program's, or a flow, that had no room for what was not read yet.
	Unread uint64
}

// Drops returns what has been dropped since New.
func (s *Stack) Drops() Drops {
	stats := s.stack.Stats()
	s.link.mu.Lock()
	unsent := s.link.dropped
	s.link.mu.Unlock()
	return Drops{
		Refused:    s.inbound.dropped.Load(),
		Incomplete: s.inbound.fragments4.forgotten() + s.inbound.fragments6.forgotten(),
		Unsent:     unsent,
		Unaccepted: stats.TCP.ListenOverflowSynDrop.Value() + stats.TCP.ListenOverflowAckDrop.Value(),
		Unread:     stats.UDP.ReceiveBufferErrors.Value() + s.transit.unread.Load(),
	}
}
