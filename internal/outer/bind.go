// SPDX-License-Identifier: MIT

package outer

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

const (
	// backOffMin and backOffMax bound the wait after a receive error that is not about one datagram alone.
	backOffMin = time.Millisecond
	backOffMax = time.Second
	// maxIgnored is the number of errors about one datagram each that are passed over without a wait.
	maxIgnored = 64
	// logEvery is the least time between two log lines of one kind.
	logEvery = 10 * time.Second
)

// longAgo is the deadline that wakes whoever waits on a socket.
var longAgo = time.Unix(1, 0)

// bind is the facade that one device gets.
type bind struct {
	sockets *Sockets
	session atomic.Pointer[session] // nil while closed; stored under sockets.mu
}

// session is the time between an Open and the Close that follows it.
type session struct {
	sockets *Sockets
	done    chan struct{} // closed by bind.Close
}

// Open implements conn.Bind.
func (b *bind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	s := b.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.closed) {
		return nil, 0, net.ErrClosed
	}
	if s.open != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	// The device sets its mark after Open unless it is 0, which it takes new sockets to have. A mark that the
	// user's Control hook has set is not ours to reset.
	if s.mark != 0 {
		if err := s.sock().setMark(0); err != nil {
			return nil, 0, err
		}
		s.mark = 0
	}
	s.open = &session{sockets: s, done: make(chan struct{})}
	b.session.Store(s.open)
	return []conn.ReceiveFunc{s.open.receive}, s.Port(), nil
}

// Close implements conn.Bind. The device calls it also on a facade that is not open.
func (b *bind) Close() error {
	s := b.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	old := b.session.Swap(nil)
	if old == nil {
		return nil
	}
	close(old.done)
	s.open = nil
	// Whoever waits in the socket sets a deadline first and looks at done afterwards; here it is the other way
	// round, so one of the two is seen. A waiter of a later session is woken in vain and waits again.
	for _, set := range []func(time.Time) error{s.sock().setReadDeadline, s.sock().setWriteDeadline} {
		if err := set(longAgo); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// SetMark implements conn.Bind.
func (b *bind) SetMark(mark uint32) error {
	s := b.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sock().setMark(mark); err != nil {
		return err
	}
	s.mark = mark
	return nil
}

// Send implements conn.Bind. bufs may be longer than BatchSize. The datagrams after the first one that fails are
// lost.
func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	current := b.session.Load()
	if current == nil {
		return net.ErrClosed
	}
	if !e.dst.IsValid() {
		return errors.New("the peer's address is not known yet")
	}
	b.sockets.announce(e)
	if len(bufs) == 1 && isResponse(bufs[0]) {
		b.sockets.cfg.Response(bufs[0])
	}
	if first, n := dataMessages(bufs); n > 0 {
		b.sockets.cfg.Sending(first)
		defer b.sockets.cfg.Sent(first, n)
		defer b.sockets.tellPath(e, first)
	}
	for sock := b.sockets.sock(); ; {
		err := sock.send(bufs, e, current.done)
		now := b.sockets.sock()
		if now == sock || !errors.Is(err, net.ErrClosed) {
			return b.sockets.sent(sock, err, current)
		}
		sock = now // another has taken its place. What goes out twice is a replay to the peer.
	}
}

// tellPath tells what the path takes, if a send of data has just learned that.
func (s *Sockets) tellPath(e *endpoint, message []byte) {
	if fits, ok := e.path.news(); ok {
		s.cfg.PathMTU(message, fits)
	}
}

// A handshake response is of type 2 (WireGuard paper, section 5.4.3). A data message is of type 4 and has a header of 16
// bytes and a tag of 16; without content it is a keepalive (section 5.4.6).
const (
	responseMessage = 2
	responseLen     = 92
	dataMessage     = 4
	keepaliveLen    = 16 + 16
)

// dataMessages returns the first message that carries a packet, and how many do.
func dataMessages(bufs [][]byte) (first []byte, n int) {
	for _, b := range bufs {
		if isData(b) {
			if n++; n == 1 {
				first = b
			}
		}
	}
	return first, n
}

// countData is dataMessages for messages that begin buffers.
func countData(bufs [][]byte, sizes []int) (n int) {
	for i, b := range bufs {
		if isData(b[:sizes[i]]) {
			n++
		}
	}
	return n
}

func isData(b []byte) bool { return len(b) > keepaliveLen && b[0] == dataMessage }

func isKeepalive(b []byte) bool { return len(b) == keepaliveLen && b[0] == dataMessage }

func isResponse(b []byte) bool { return len(b) == responseLen && b[0] == responseMessage }

// NoEndpoint is what ParseEndpoint makes an endpoint of to which nothing can be sent: for a peer that needs to have one
// before its address is known.
const NoEndpoint = "none"

// ParseEndpoint implements conn.Bind. s is "ip:port", with a zone for a link-local address, or NoEndpoint.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	if s == NoEndpoint {
		return newEndpoint(endpointKey{}), nil
	}
	dst, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return newEndpoint(endpointKey{dst: netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())}), nil
}

// BatchSize implements conn.Bind.
func (b *bind) BatchSize() int { return b.sockets.batch }

// receive is the facade's conn.ReceiveFunc.
func (r *session) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	s := r.sockets
	s.receiving.Lock() // an earlier session's receive is on its way out
	defer s.receiving.Unlock()
	backOff, ignored, failures := backOffMin, 0, 0
	for {
		s.backlog.wait(r.done, s.closed)
		if isClosed(r.done) || isClosed(s.closed) {
			return 0, net.ErrClosed
		}
		sock := s.sock()
		s.found(sock)
		n, err := sock.receive(bufs, sizes, eps)
		switch {
		case n > 0:
			s.backlog.add(countData(bufs[:n], sizes))
			s.received.add(receivedMessages(bufs[:n], sizes), time.Now())
			s.reopening.pause = 0
			s.tellKeepalives(bufs[:n], sizes)
			return n, nil
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			// Woken by a Close, ours or an earlier session's, or by sends that fail. Should this fail, so does the next receive.
			_ = sock.setReadDeadline(time.Time{})
			if err := s.broken(sock); err != nil {
				s.reopen(sock, err, r.done)
			}
		case isClosed(r.done) || isClosed(s.closed):
		case sock != s.sock(): // another has taken its place
		default:
			if dropped, ok := s.failure.Allow(); ok {
				s.log.Warn("receiving from the network failed, trying again", "err", err, "unlogged", dropped)
			}
			// Errors about one datagram are a stranger's to cause: long waits would let him stop us. Short ones now
			// and then keep us from spinning, should such an error be there to stay.
			if isDatagramError(err) {
				if ignored++; ignored%maxIgnored == 0 {
					r.wait(backOffMin)
				}
				continue
			}
			// What is closed, and not by us, was taken away: a system may do that while it sleeps.
			if failures++; failures == maxFailures || errors.Is(err, net.ErrClosed) {
				s.reopen(sock, err, r.done)
				backOff, failures = backOffMin, 0
				continue
			}
			r.wait(backOff)
			backOff = min(2*backOff, backOffMax)
		}
	}
}

// wait returns after d, or when the session or the Sockets close.
func (r *session) wait(d time.Duration) { r.sockets.sleep(d, r.done) }

// LogLimit lets one log line of a kind pass every ten seconds, for those that an outsider can cause (fault 71). The zero
// value is ready; it is safe for concurrent use.
type LogLimit struct {
	mu      sync.Mutex // guards last and dropped
	last    time.Time
	dropped int // since last
}

// Allow reports whether a line may be logged now, and how many were not since the last one.
func (l *LogLimit) Allow() (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < logEvery {
		l.dropped++
		return 0, false
	}
	dropped, l.last, l.dropped = l.dropped, now, 0
	return dropped, true
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
