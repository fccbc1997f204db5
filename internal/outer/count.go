// SPDX-License-Identifier: MIT

package outer

import (
	"sync"
	"time"
)

// settleTime is how long a data message is on its way through the device at most: its queues hold no more than what
// takes a fraction of this, and a margin is left for a busy machine.
const settleTime = time.Second

// announce calls Config.Destination if it has to be called for e.
func (s *Sockets) announce(e *endpoint) {
	if now := s.announced.Load(); s.cfg.Destination != nil && e.announced.Load() != now {
		e.announced.Store(now)
		s.cfg.Destination()
	}
}

// AnnounceAgain has Config.Destination called for each endpoint once more. It is for the moment at which a peer has
// moved: it may move back to an endpoint that was announced.
func (s *Sockets) AnnounceAgain() { s.announced.Add(1) }

// Received counts the data messages, keepalives included, that have come from the network, from whomever: those that
// came at least a second ago, so that a device has dealt with them, and none of those that came in the last second.
// It may leave out those of one second more.
func (s *Sockets) Received() uint64 { return s.received.settled(time.Now()) }

// Overflowed counts the datagrams that the system has dropped since its receive buffer was full, by what the last one that
// was received says of those before it. A run that it has joined counts as one. Only Linux tells; elsewhere it is 0.
func (s *Sockets) Overflowed() uint64 { return s.sock().overflowed() }

// tellKeepalives calls Config.Keepalive for those among the messages received.
func (s *Sockets) tellKeepalives(bufs [][]byte, sizes []int) {
	for i, b := range bufs {
		if isKeepalive(b[:sizes[i]]) {
			s.cfg.Keepalive(b[:sizes[i]])
		}
	}
}

// receivedMessages counts the messages of the form of a data message.
func receivedMessages(bufs [][]byte, sizes []int) (n int) {
	for i, b := range bufs {
		if sizes[i] >= keepaliveLen && b[0] == dataMessage {
			n++
		}
	}
	return n
}

// receivedCount is a counter that knows what it was some time ago.
type receivedCount struct {
	mu    sync.Mutex // guards what follows
	total uint64
	last  time.Time // of the last add
	// mark is the total at markTime, oldMark the total at least settleTime before that.
	mark, oldMark uint64
	markTime      time.Time
}

func (c *receivedCount) add(n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case now.Sub(c.last) >= settleTime:
		c.oldMark, c.mark, c.markTime = c.total, c.total, now
	case now.Sub(c.markTime) >= settleTime:
		c.oldMark, c.mark, c.markTime = c.mark, c.total, now
	}
	c.total += uint64(n)
	c.last = now
}

func (c *receivedCount) settled(now time.Time) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case now.Sub(c.last) >= settleTime:
		return c.total
	case now.Sub(c.markTime) >= settleTime:
		return c.mark
	}
	return c.oldMark
}
