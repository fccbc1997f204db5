// SPDX-License-Identifier: MIT

package outer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxFailures is the number of errors in a row after which a socket is taken for lost, if they are not about one
	// datagram each.
	maxFailures = 5
	// reopenMin and reopenMax bound the wait between two tries to open another one. The first try comes at once.
	reopenMin = 50 * time.Millisecond
	reopenMax = 5 * time.Second
)

// reopening is what is known of a socket that has failed: the network that it was on may be gone, or a system that was
// asleep has taken it away (fault 23). One that merely has no route is not lost: it works again once there is one.
type reopening struct {
	// failures counts the sends in a row that were refused as isSocketError says.
	failures atomic.Int32
	// broken is the socket that sends have found to be lost.
	broken atomic.Pointer[brokenSocket]
	// lost is the loss for which there is no new socket yet, or nil.
	lost atomic.Pointer[lossError]
	// replaced holds one token when Use has put a socket in the place of another.
	replaced chan struct{}

	// The rest is the receiver's.
	pause   time.Duration // before the next try; 0 once a datagram was received
	attempt chan error    // the try that is under way, or nil
}

type brokenSocket struct {
	sock *active
	err  error
}

// lossError is what a Send answers as long as there is no socket.
type lossError struct {
	sock *active // the one that is lost
	err  error
}

func (e *lossError) Error() string { return "the UDP socket is lost: " + e.err.Error() }
func (e *lossError) Unwrap() error { return e.err }

// Lost returns why there is no socket at the moment, or nil if there is one.
func (s *Sockets) Lost() error {
	if lost := s.reopening.lost.Load(); lost != nil {
		return lost
	}
	return nil
}

// sent notes what became of a Send, and returns what it is to answer. A socket that refuses one after the other as if it
// were none wakes the receiver, who opens another.
func (s *Sockets) sent(sock *active, err error, in *session) error {
	r, lost := &s.reopening, s.Lost()
	switch {
	case err == nil || !isSocketError(err):
		if r.failures.Load() != 0 {
			r.failures.Store(0)
		}
	case isClosed(in.done) || isClosed(s.closed):
	case lost != nil:
		return lost
	case r.failures.Add(1) >= maxFailures && s.broken(sock) == nil:
		r.broken.Store(&brokenSocket{sock, err})
		_ = sock.setReadDeadline(longAgo) // one that cannot be set is closed, which wakes the receiver as well
	}
	return err
}

// broken returns why sends have given the socket up, or nil.
func (s *Sockets) broken(sock *active) error {
	if b := s.reopening.broken.Load(); b != nil && b.sock == sock {
		return b.err
	}
	return nil
}

// reopen puts another socket in the place of one that is lost, on the same port, and tries until that works, the facade
// or the Sockets are closed, or another has taken its place anyway: see found. The receive functions call it, one at a time.
func (s *Sockets) reopen(lost *active, why error, done <-chan struct{}) {
	r := &s.reopening
	if r.lost.CompareAndSwap(nil, &lossError{lost, why}) { // else an earlier facade has begun
		_ = lost.close() // it may be closed already, and the port has to be free
		if s.cfg.Lost != nil {
			s.cfg.Lost(why)
		}
	}
	for s.sock() == lost {
		if !s.sleep(r.pause, done) || s.sock() != lost {
			return
		}
		r.pause = min(max(2*r.pause, reopenMin), reopenMax)
		if r.attempt == nil {
			r.attempt = s.tryReopen(lost)
		}
		select {
		case err := <-r.attempt:
			r.attempt = nil
			if err == nil {
				continue
			}
			if dropped, ok := s.failure.Allow(); ok {
				s.log.Warn("opening another UDP socket failed, trying again", "err", err, "unlogged", dropped)
			}
		case <-r.replaced:
			r.attempt = nil // it may hang, and would come too late
		case <-done:
			return
		case <-s.closed:
			return
		}
	}
}

// found ends the search for another socket, if sock is not the one that was lost. The receive functions call it for the
// socket that they receive from: it may have come while there was none of them.
func (s *Sockets) found(sock *active) {
	r := &s.reopening
	if lost := r.lost.Load(); lost == nil || lost.sock == sock {
		return
	}
	r.attempt = nil // if it is under way it comes too late, and gives up what it opens
	r.failures.Store(0)
	r.lost.Store(nil)
	if s.cfg.Reopened != nil {
		s.cfg.Reopened()
	}
}

// tryReopen opens a socket and puts it in the place of the lost one, once. A hook of the user's runs in a goroutine of
// its own, which nobody waits for: it may close the Sockets and wait for that.
func (s *Sockets) tryReopen(lost *active) chan error {
	result := make(chan error, 1)
	try := func() { result <- s.replace(lost) }
	if s.cfg.ListenPacket == nil && s.cfg.Control == nil {
		try()
	} else {
		go try() // ends with the hook; Close ends the context of ListenPacket, and Control has none
	}
	return result
}

func (s *Sockets) replace(lost *active) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	cfg := s.cfg
	cfg.Port = lost.localPort
	sock, err := openSocket(ctx, cfg)
	if err != nil && s.asked.Load() == 0 && errors.Is(err, syscall.EADDRINUSE) {
		cfg.Port = 0 // any port will do
		sock, err = openSocket(ctx, cfg)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.closed) || s.sock() != lost {
		return errors.Join(net.ErrClosed, sock.close())
	}
	if s.mark != 0 {
		if err := sock.setMark(s.mark); err != nil {
			return errors.Join(err, sock.close())
		}
	}
	if err := sock.setReadDeadline(longAgo); err != nil { // see Prepare
		return errors.Join(fmt.Errorf("set up UDP port %d: %w", cfg.Port, err), sock.close())
	}
	s.current.Store(&active{sock, sock.port(), lost.overflowed()})
	return nil
}

// sleep returns after d, or when another socket is in use. It reports false when the facade or the Sockets are closed.
func (s *Sockets) sleep(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.reopening.replaced:
		return true
	case <-done:
	case <-s.closed:
	}
	return false
}

// isSocketError reports whether a send was refused because of the socket, not of the datagram or its destination.
func isSocketError(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ENETDOWN) || errors.Is(err, syscall.ENOTCONN) ||
		errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.Is(err, syscall.EADDRNOTAVAIL)
}
