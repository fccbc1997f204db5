// SPDX-License-Identifier: MIT

package memnet

import "net/netip"

// Stats counts the datagrams of one link since the Network began. Nothing goes unaccounted for:
//
//	Sent + Duplicated = Delivered + InFlight + Cut + TooBig + QueueDrops + Lost + Unreachable + Filtered + ReceiveDrops
type Stats struct {
	Sent       uint64 // written to the link; the number of the next datagram
	SentBytes  uint64 // of those, with their headers
	Duplicated uint64 // copies that the link made
	Delivered  uint64 // put into a receive buffer, copies included

	Reordered uint64 // held back; of those that go on
	Corrupted uint64 // with a bit flipped; of those that go on

	Cut          uint64 // dropped: the link was cut or down, or the Network was closed
	TooBig       uint64 // dropped, or refused with EMSGSIZE: larger than the MTU
	QueueDrops   uint64 // dropped: Link.Queue or Options.MaxInFlight was full
	Lost         uint64 // dropped by Link.Loss
	Unreachable  uint64 // dropped: nobody listened there when they arrived
	Filtered     uint64 // dropped by a NAT: no mapping, a remote endpoint not written to before, or a full table
	ReceiveDrops uint64 // dropped: the receive buffer was full

	InFlight uint64 // under way now, copies included
}

// add adds up s and t.
func (s *Stats) add(t *Stats) {
	s.Sent += t.Sent
	s.SentBytes += t.SentBytes
	s.Duplicated += t.Duplicated
	s.Delivered += t.Delivered
	s.Reordered += t.Reordered
	s.Corrupted += t.Corrupted
	s.Cut += t.Cut
	s.TooBig += t.TooBig
	s.QueueDrops += t.QueueDrops
	s.Lost += t.Lost
	s.Unreachable += t.Unreachable
	s.Filtered += t.Filtered
	s.ReceiveDrops += t.ReceiveDrops
	s.InFlight += t.InFlight
}

// Stats returns the counters of the link from one address to another. They are zero if nothing was ever sent.
func (n *Network) Stats(from, to netip.Addr) Stats {
	n.linksMu.RLock()
	l := n.links[pair{from.Unmap(), to.Unmap()}]
	n.linksMu.RUnlock()
	if l == nil {
		return Stats{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// TotalStats returns the sum over all links.
func (n *Network) TotalStats() Stats {
	n.linksMu.RLock()
	defer n.linksMu.RUnlock()
	var sum Stats
	for _, l := range n.links {
		l.mu.Lock()
		sum.add(&l.stats)
		l.mu.Unlock()
	}
	return sum
}
