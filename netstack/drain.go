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
	s.lookForUndelivered()
	_ = s.HandleFlows(nil) // fails only if the stack is closed
	for _, l := range s.listeners() {
		_ = l.Close() // somebody else may have been faster
	}
	for pause := minDrainPause; ; pause = min(2*pause, maxDrainPause) {
		now, failed := s.lookForUndelivered()
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

// lookForUndelivered returns the connections that Drain waits for, and how many have failed after the program had closed
// them. What one call of Drain has seen, all have: a connection may be closed and reset between two looks of one.
func (s *Stack) lookForUndelivered() (now map[*tcp.Endpoint]bool, failed int) {
	s.drainMu.Lock()
	defer s.drainMu.Unlock()
	now = s.undelivered()
	closed := s.closing.live() // waiting keeps them alive
	for ep := range s.waiting {
		if _, waits := now[ep]; waits || !closed[ep] {
			continue
		}
		switch state := ep.EndpointState(); {
		case delivers(state, true):
			now[ep] = true // gVisor has let go of it, and is about to say how it has ended
		case state == tcp.StateError:
			s.lost++
		}
	}
	s.waiting = now
	return now, s.lost
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
		if delivers(ep.EndpointState(), closed[ep]) {
			list[ep] = closed[ep]
		}
	}
	return list
}

// delivers says whether something may be under way on a connection in a state, which the program has closed or not.
func delivers(state tcp.EndpointState, closed bool) bool {
	switch state {
	case tcp.StateSynRecv, tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	case tcp.StateFinWait2:
		return !closed // CloseWrite was called, and the program reads on
	}
	return false
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
