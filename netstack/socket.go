// SPDX-License-Identifier: MIT

package netstack

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// socket is what TCP connections, listeners and packet conns have in common: an endpoint of gVisor, the events that
// it signals, deadlines and an end.
//
// The reading side and the writing side are independent of one another; each is used by one caller at a time, who
// holds its mutex. A waiter is woken by its side's token, its deadline, the socket's end or the stack's.
type socket struct {
	stack *Stack
	ep    tcpip.Endpoint

	read, write side

	closeOnce sync.Once
	closed    chan struct{} // closed when Close begins
}

// side is one direction of a socket.
type side struct {
	mu       sync.Mutex // held by the one caller that reads or writes; guards buf, payload and to
	deadline deadline
	ready    chan struct{} // holds one token when gVisor has signaled the side
	entry    waiter.Entry
	// buf, payload and to are what gVisor reads from and writes to, kept here since a pointer to a local one would
	// make every call allocate.
	buf     tcpip.SliceWriter
	payload payload
	to      tcpip.FullAddress
}

const (
	readEvents  = waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp | waiter.EventRdHUp
	writeEvents = waiter.WritableEvents | waiter.EventErr | waiter.EventHUp
)

// init takes over an endpoint and its queue.
func (s *socket) init(st *Stack, ep tcpip.Endpoint, wq *waiter.Queue) {
	s.stack, s.ep, s.closed = st, ep, make(chan struct{})
	s.read.entry, s.read.ready = waiter.NewChannelEntry(readEvents)
	s.write.entry, s.write.ready = waiter.NewChannelEntry(writeEvents)
	wq.EventRegister(&s.read.entry)
	wq.EventRegister(&s.write.entry)
}

// ended says whether the socket or its stack is closed.
func (s *socket) ended() bool { return isClosed(s.closed) || isClosed(s.stack.done) }

// check reports why a side must not be used now, before anything is tried, as the net package does.
func (s *socket) check(d *side) error {
	if s.ended() {
		return net.ErrClosed
	}
	if isClosed(d.deadline.wait()) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// await waits until a side has been signaled, room has been closed (nil means never), or there is a reason to give up.
func (s *socket) await(d *side, room <-chan struct{}) error {
	select {
	case <-d.ready:
		return nil
	case <-room:
		return nil
	case <-d.deadline.wait():
		// It may have been moved since: check decides.
		return s.check(d)
	case <-s.closed:
		return net.ErrClosed
	case <-s.stack.done:
		return net.ErrClosed
	}
}

// failed is the error of a call that gVisor refused: a socket that has been closed meanwhile says just that.
func (s *socket) failed(call string, err tcpip.Error) error {
	if s.ended() {
		return net.ErrClosed
	}
	return sysError(call, err)
}

// receive reads once there is something to read. from says whether the sender's address is wanted.
func (s *socket) receive(b []byte, opts tcpip.ReadOptions) (tcpip.ReadResult, error) {
	s.read.mu.Lock()
	defer s.read.mu.Unlock()
	if err := s.check(&s.read); err != nil {
		return tcpip.ReadResult{}, err
	}
	for {
		s.read.buf = b
		res, err := s.ep.Read(&s.read.buf, opts)
		s.read.buf = nil
		switch err.(type) {
		case nil:
			return res, nil
		case *tcpip.ErrBadBuffer:
			return res, nil // a datagram that is empty, or for which b had no room at all
		case *tcpip.ErrWouldBlock:
			if err := s.await(&s.read, nil); err != nil {
				return tcpip.ReadResult{}, err
			}
		default:
			return tcpip.ReadResult{}, s.failed("read", err)
		}
	}
}

// close runs stop once and reports false to every caller but the first.
func (s *socket) close(stop func()) bool {
	first := false
	s.closeOnce.Do(func() {
		first = true
		close(s.closed)
		stop()
	})
	return first
}

func (s *socket) localAddrPort() netip.AddrPort {
	fa, err := s.ep.GetLocalAddress()
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(fa)
}

// setDeadline moves the deadlines of the sides named.
func (s *socket) setDeadline(t time.Time, sides ...*side) error {
	if s.ended() {
		return net.ErrClosed
	}
	for _, d := range sides {
		d.deadline.set(t)
	}
	return nil
}

// payload gives a slice to gVisor without a copy of its own.
type payload struct{ b []byte }

var _ tcpip.Payloader = (*payload)(nil)

func (p *payload) Len() int { return len(p.b) }

func (p *payload) Read(dst []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(dst, p.b)
	p.b = p.b[n:]
	return n, nil
}
