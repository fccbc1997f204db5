// SPDX-License-Identifier: MIT

package netstack

import (
	"sync"
	"weak"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// maxTimeWait bounds the closed connections in TIME_WAIT. Each costs 7 to 8 KB for a minute, so 32 MB in all.
	// Past it the oldest is forgotten, as Linux does past tcp_max_tw_buckets.
	maxTimeWait = 4096
	// maxClosing bounds the closed connections that still deliver what was written. Past it the oldest is reset.
	maxClosing = 4 * maxTimeWait
)

// closingList are the connections that the program has closed and TCP has not: they deliver what was written, then
// linger in TIME_WAIT. It holds them weakly: gVisor lets go of one that has ended, and so does the list.
type closingList struct {
	mu    sync.Mutex // guards queue
	queue []weak.Pointer[tcp.Endpoint]
}

// add takes in a connection that was just closed, and forgets old ones past the bounds.
func (c *closingList) add(ep tcpip.Endpoint) {
	tcpEP, ok := ep.(*tcp.Endpoint)
	if !ok {
		return
	}
	for _, old := range c.push(tcpEP) {
		old.Abort()
	}
}

// live are those that have not ended.
func (c *closingList) live() map[*tcp.Endpoint]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make(map[*tcp.Endpoint]bool, len(c.queue))
	for _, p := range c.queue {
		if ep := p.Value(); ep != nil {
			list[ep] = true
		}
	}
	return list
}

func (c *closingList) push(ep *tcp.Endpoint) (abort []*tcp.Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, weak.Make(ep))
	// Two are looked at for each that comes in, so the list shrinks again when the ended ones come to its front.
	for range 2 {
		if len(c.queue) <= maxTimeWait {
			break
		}
		p := c.queue[0]
		c.queue = c.queue[1:]
		old := p.Value()
		if old == nil {
			continue
		}
		switch old.EndpointState() {
		case tcp.StateClose, tcp.StateError:
		case tcp.StateTimeWait:
			abort = append(abort, old)
		default:
			if len(c.queue) >= maxClosing {
				abort = append(abort, old)
			} else {
				c.queue = append(c.queue, p)
			}
		}
	}
	return abort
}
