// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"strings"
)

// DropStats counts packets and datagrams that were dropped, by reason, since New. A network loses packets, and this host
// is a part of it: the counters say whether it was here. What was not authentic is in [Status.NotAccepted], what a peer may
// not send in [PeerStatus.Disallowed], and what became no flow in [Status.Flows].
type DropStats struct {
	// Refused packets of peers were malformed, in fragments that contradict each other, or with an address that no packet
	// from another host has, such as a loopback address or one of ours.
	Refused uint64 `json:"refused"`
	// Incomplete are datagrams of which fragments did not come within a minute, or took too much memory.
	Incomplete uint64 `json:"incomplete"`
	// Unsent packets waited for a session with a peer for too long, or found no room in the peer's queue, or their address
	// was nobody's by then.
	Unsent uint64 `json:"unsent"`
	// Unaccepted packets were to begin TCP connections with a listener for which 4,096 were waiting: the program does not
	// accept them as fast as they come.
	Unaccepted uint64 `json:"unaccepted"`
	// Unread datagrams came faster than the program reads them.
	Unread uint64 `json:"unread"`
	// Overflowed datagrams from the internet, or runs of several, came faster than this host can receive. Only Linux tells,
	// and not of those of [Config.ListenPacket].
	Overflowed uint64 `json:"overflowed"`
}

// String returns the counters that are not 0 as "3 refused, 16 unsent", or "none".
func (s DropStats) String() string {
	return listCounters([]counter{
		{s.Refused, "refused"},
		{s.Incomplete, "incomplete"},
		{s.Unsent, "unsent"},
		{s.Unaccepted, "unaccepted"},
		{s.Unread, "unread"},
		{s.Overflowed, "overflowed"},
	})
}

// counter is a number of something, to be told of if it is not 0.
type counter struct {
	n    uint64
	name string
}

func listCounters(counters []counter) string {
	var parts []string
	for _, c := range counters {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.name))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// drops are those of the stack and of the sockets.
func (n *Net) drops() DropStats {
	d := n.stack.Drops()
	return DropStats{
		Refused: d.Refused, Incomplete: d.Incomplete, Unsent: d.Unsent, Unaccepted: d.Unaccepted, Unread: d.Unread,
		Overflowed: n.sockets.Overflowed(),
	}
}
