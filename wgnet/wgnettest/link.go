// SPDX-License-Identifier: MIT

package wgnettest

import (
	"net/netip"
	"time"

	"example.com/wgnet/internal/memnet"
)

// A Link is the weather in one direction between two nodes. The zero value is perfect: it delivers everything at once and
// in order. Sizes are those of outer IP packets: a datagram and 28 bytes of headers over IPv4, 48 over IPv6. WireGuard's
// datagrams are 32 bytes longer than the packet inside, so a full one of a Net has 1,480 bytes.
type Link struct {
	// Latency is how long a datagram is under way once it has been transmitted: at most an hour.
	Latency time.Duration
	// Jitter is the most that is added to Latency, uniformly from 0. It does not reorder.
	Jitter time.Duration
	// Bandwidth is in bits per second. 0 has no limit.
	Bandwidth int64
	// Queue is the most that waits for Bandwidth, in bytes. What does not fit is dropped. 0 means 256 KiB.
	Queue int

	// Loss, Corrupt, Duplicate and Reorder are probabilities from 0 to 1, each drawn for each datagram by itself.
	Loss float64
	// Corrupt flips one bit.
	Corrupt float64
	// Duplicate delivers Copies more, right behind the datagram.
	Duplicate float64
	// Copies is from 0 to 100. 0 means 1.
	Copies int
	// Reorder holds a datagram back until ReorderDepth others have gone by, or for Hold if too few come.
	Reorder float64
	// ReorderDepth is from 0 to 1<<20. 0 means 3, the least at which TCP takes reordering for a loss.
	ReorderDepth int
	// Hold is the most that a datagram is held back for reordering. 0 means 10 ms.
	Hold time.Duration

	// MTU is the size of the largest packet that passes; larger ones are dropped, as by a path that sends no ICMP. 0
	// means no limit.
	MTU int
	// RefuseTooBig makes sending beyond the MTU fail with [syscall.EMSGSIZE], as when it is that of the sender's own
	// interface.
	RefuseTooBig bool

	// Down drops everything. [Network.Cut] leaves the Link as it is.
	Down bool
}

// Stats counts the datagrams of one link:
//
//	Sent + Duplicated = Delivered + InFlight + Cut + TooBig + QueueDrops + Lost + Unreachable + Filtered + ReceiveDrops
type Stats struct {
	Sent       uint64 // given to the link
	SentBytes  uint64 // of those, with their headers
	Duplicated uint64 // copies that the link made
	Delivered  uint64 // copies included

	Reordered uint64 // held back; of those that go on
	Corrupted uint64 // with a bit flipped; of those that go on

	Cut          uint64 // dropped: the link was cut or down
	TooBig       uint64 // dropped or refused: larger than the MTU
	QueueDrops   uint64 // dropped: the queue was full
	Lost         uint64 // dropped by Link.Loss
	Unreachable  uint64 // dropped: nobody listened there when they arrived
	Filtered     uint64 // dropped by a NAT
	ReceiveDrops uint64 // dropped: the receive buffer was full

	InFlight uint64 // under way now, copies included
}

// SetLink sets the weather of what from sends to to, from now on. It stays when one of them gets another address. Nodes
// behind one NAT share the links to and from outside of it.
func (n *Network) SetLink(from, to *Node, w Link) {
	n.tb.Helper()
	n.mu.Lock()
	n.links[[2]*Node{from, to}] = w
	err := n.apply(from, to)
	n.mu.Unlock()
	if err != nil {
		n.tb.Errorf("wgnettest: SetLink from %s to %s: %v", from.Name, to.Name, err)
	}
}

// SetLinks sets the weather of all links for which [Network.SetLink] was not called, from now on.
func (n *Network) SetLinks(w Link) {
	n.tb.Helper()
	if err := n.outer.SetDefault(memnet.Link(w)); err != nil {
		n.tb.Errorf("wgnettest: SetLinks: %v", err)
	}
}

// Cut drops whatever is sent between a node and others, both ways, until [Network.Heal]. Without others, these are all
// that there are.
func (n *Network) Cut(node *Node, others ...*Node) {
	n.tb.Helper()
	n.setCut(true, node, others)
}

// Heal ends a [Network.Cut]. Without others, it ends all cuts of the node.
func (n *Network) Heal(node *Node, others ...*Node) {
	n.tb.Helper()
	n.setCut(false, node, others)
}

func (n *Network) setCut(cut bool, node *Node, others []*Node) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(others) == 0 {
		others = n.Nodes
	}
	for _, other := range others {
		pair := [2]*Node{node, other}
		if node.index > other.index {
			pair = [2]*Node{other, node}
		}
		if _, known := n.cuts[pair]; node == other || !cut && !known {
			continue
		}
		n.cuts[pair] = cut
		if err := n.apply(node, other); err != nil {
			n.tb.Errorf("wgnettest: Cut or Heal between %s and %s: %v", node.Name, other.Name, err)
		}
	}
}

// apply tells the outer network what is known of a link, at its present addresses. The caller holds mu.
func (n *Network) apply(from, to *Node) error {
	a, b := addrs(from, to)
	if w, ok := n.links[[2]*Node{from, to}]; ok {
		if err := n.outer.SetLink(a, b, memnet.Link(w)); err != nil {
			return err
		}
	}
	for _, pair := range [][2]*Node{{from, to}, {to, from}} {
		if cut, ok := n.cuts[pair]; ok {
			change := n.outer.Heal
			if cut {
				change = n.outer.Cut
			}
			return change(a, b)
		}
	}
	return nil
}

// follow applies all links of a node that has got another address. The caller holds mu.
func (n *Network) follow(node *Node) {
	n.tb.Helper()
	for _, other := range n.Nodes {
		for _, p := range [][2]*Node{{node, other}, {other, node}} {
			if err := n.apply(p[0], p[1]); err != nil && node != other {
				n.tb.Errorf("wgnettest: link from %s to %s: %v", p[0].Name, p[1].Name, err)
			}
		}
	}
}

// addrs are what a link shows: the addresses outside of NATs, unless both nodes are behind the same one. The caller holds
// mu.
func addrs(from, to *Node) (a, b netip.Addr) {
	a, b = from.outer, to.outer
	if from.nat == to.nat {
		return a, b
	}
	if from.nat != nil {
		a = from.nat.outside
	}
	if to.nat != nil {
		b = to.nat.outside
	}
	return a, b
}

// Stats returns the counters of the link from one node to another, at their present addresses.
func (n *Network) Stats(from, to *Node) Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Stats(n.outer.Stats(addrs(from, to)))
}

// Move gives a node another address in the outer network, as when a machine roams: its socket stays open. A node behind a
// NAT leaves it. The others learn of it by what the node sends.
func (n *Network) Move(node *Node) {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.newOuterAddr()
	if err := n.outer.Move(node.outer, to); err != nil {
		n.tb.Errorf("wgnettest: Move of %s: %v", node.Name, err)
		return
	}
	node.outer, node.nat = to, nil
	n.follow(node)
}

// A NAT stands between nodes and the others: see [Network.AddNAT].
type NAT struct {
	nat     *memnet.NAT
	outside netip.Addr
}

// AddNAT puts nodes behind a NAT with an outside address of its own. It lets in what comes from an address and port that
// the same socket has sent to (RFC 4787: endpoint-independent mapping, address and port-dependent filtering). Who sends
// nothing for timeout is forgotten; 0 means five minutes. A node behind a NAT has to be the one that speaks first, so two
// behind different ones cannot reach each other.
func (n *Network) AddNAT(timeout time.Duration, nodes ...*Node) *NAT {
	n.tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &NAT{outside: n.newOuterAddr()}
	var inside []netip.Addr
	for _, node := range nodes {
		inside = append(inside, node.outer)
	}
	var err error
	if t.nat, err = n.outer.AddNAT(t.outside, timeout, inside...); err != nil {
		n.tb.Errorf("wgnettest: AddNAT: %v", err)
		return t
	}
	for _, node := range nodes {
		node.nat = t
	}
	for _, node := range nodes {
		n.follow(node)
	}
	return t
}

// Reset makes the NAT forget everybody, as one that restarts does: who sends again gets a new outside port.
func (t *NAT) Reset() {
	if t.nat != nil {
		t.nat.Reset()
	}
}

// fairWeather heals all links and makes them perfect.
func (n *Network) fairWeather() {
	n.SetLinks(Link{})
	n.mu.Lock()
	defer n.mu.Unlock()
	for pair := range n.cuts {
		n.cuts[pair] = false
	}
	for pair := range n.links {
		n.links[pair] = Link{}
	}
	for _, node := range n.Nodes {
		n.follow(node)
	}
}
