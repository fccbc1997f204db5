// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"fmt"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Drain looks at all connections after these pauses, the first one and growing. gVisor tells nobody when the end of a
// closed connection was acknowledged.
const (
	minDrainPause = time.Millisecond
	maxDrainPause = 50 * time.Millisecond
)

// Drain closes the listeners, ends pending dials with [net.ErrClosed] and the handler of flows, refuses new ones, and
// waits until every TCP connection was closed by the program, or reset, and what was written to it acknowledged. UDP
// sockets work on. The Stack is to be closed afterwards.
//
// It returns nil when all was delivered; the context's error, with what it still waited for; [net.ErrClosed] if the stack
// is closed meanwhile; or, when all have ended, that connections which the program had closed were reset or timed out
// before all was acknowledged. It may be called more than once.
func (s *Stack) Drain(ctx context.Context) error {
	s.drainOnce.Do(func() { close(s.draining) })
	before := s.undelivered()
	_ = s.HandleFlows(nil) // fails only if the stack is closed
	for _, l := range s.listeners() {
		_ = l.Close() // somebody else may have been faster
	}
	for pause := minDrainPause; ; pause = min(2*pause, maxDrainPause) {
		now := s.undelivered()
		failed := s.noteFailed(before, now)
		before = now
		switch {
		case s.drained.Load() && failed == 0:
			return nil
		case isClosed(s.done):
			return net.ErrClosed
		case len(now) > 0:
		case failed > 0:
			return fmt.Errorf("not all that was written was acknowledged: of the connections that had been closed, "+
				"%d ended by a reset or a time-out", failed)
		default:
			s.drained.Store(true)
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.done: // looked at above
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w", describe(now), ctx.Err())
		}
		timer.Stop()
	}
}

// noteFailed notes the connections that do not wait any more and have failed after the program had closed them, and returns
// how many there were, in all calls of Drain. One may be closed and reset between two looks.
func (s *Stack) noteFailed(before, now map[*tcp.Endpoint]bool) int {
	closed := s.closing.live() // before keeps them alive
	s.mu.Lock()
	defer s.mu.Unlock()
	for ep := range before {
		if _, waits := now[ep]; !waits && closed[ep] && ep.EndpointState() == tcp.StateError {
			s.undeliverable[ep] = struct{}{}
		}
	}
	return len(s.undeliverable)
}

// Draining says whether [Stack.Drain] was called.
func (s *Stack) Draining() bool { return isClosed(s.draining) }

// ending says whether nothing new may begin.
func (s *Stack) ending() bool { return isClosed(s.done) || isClosed(s.draining) }

func (s *Stack) listeners() (list []*TCPListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.claims {
		if c.listener != nil {
			list = append(list, c.listener)
		}
	}
	return list
}

// undelivered are the connections that Drain waits for, and of each whether the program has closed it.
func (s *Stack) undelivered() map[*tcp.Endpoint]bool {
	closed := s.closing.live()
	list := map[*tcp.Endpoint]bool{}
	for _, transport := range s.endpoints() {
		ep, ok := transport.(*tcp.Endpoint)
		if !ok {
			continue
		}
		switch ep.EndpointState() {
		case tcp.StateSynRecv, tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
			list[ep] = closed[ep]
		case tcp.StateFinWait2:
			if !closed[ep] {
				list[ep] = false // CloseWrite was called, and the program reads on
			}
		}
	}
	return list
}

// describe says what is left of what undelivered has returned.
func describe(list map[*tcp.Endpoint]bool) string {
	unacknowledged := 0
	for _, closed := range list {
		if closed {
			unacknowledged++
		}
	}
	return fmt.Sprintf("connections left: %d open, %d closed with data that was not acknowledged",
		len(list)-unacknowledged, unacknowledged)
}
