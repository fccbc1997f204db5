// SPDX-License-Identifier: MIT

package netstack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// pathMTUTime is how long a path's MTU is believed: a larger one is tried no sooner than after ten minutes (RFC 1191,
	// section 6.3).
	pathMTUTime = 10 * time.Minute
	// minPathMTU is the least that is believed. It has room for the largest headers and some payload.
	minPathMTU = 256
)

// SetPathMTU says what size of packets the path to a peer takes, in bytes, for the next ten minutes. 0 means that nothing
// is known, and that the stack's MTU holds. TCP segments to that peer are cut accordingly, those of connections that are
// there at once too: gVisor hands over several at a time, so it need not hear of it. Datagrams stay as they are.
//
// Somebody has to know it: the stack finds out nothing by itself. A path that drops large packets without a word is a
// black hole to it.
func (s *Stack) SetPathMTU(peer PeerID, mtu int) { s.link.setPathMTU(peer, mtu) }

func (l *link) setPathMTU(peer PeerID, mtu int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.queues[peer]; q != nil {
		q.pathMTU, q.pathUntil = 0, 0
		if mtu > 0 && mtu < int(l.mtu) {
			q.pathMTU, q.pathUntil = max(mtu, minPathMTU), l.now()+pathMTUTime
		}
	}
}

// forgetPathLocked forgets what is too old.
func (l *link) forgetPathLocked(q *peerQueue) {
	if q.pathMTU != 0 && l.now() >= q.pathUntil {
		q.pathMTU = 0
	}
}

// payloadSize is the payload of each packet, but the last, that a TCP segment is cut into.
func payloadSize(pkt *stack.PacketBuffer, pathMTU int) int {
	size := int(pkt.GSOOptions.MSS)
	if size == 0 {
		size = pkt.Data().Size()
	}
	if headers := len(pkt.NetworkHeader().Slice()) + len(pkt.TransportHeader().Slice()); pathMTU > 0 {
		size = min(size, pathMTU-headers)
	}
	return size
}
