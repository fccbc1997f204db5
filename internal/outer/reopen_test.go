// SPDX-License-Identifier: MIT

package outer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// frailNetwork hands out sockets that fail when they are told to. It is for bubbles: nothing in it but channels.
type frailNetwork struct {
	mu     sync.Mutex // guards what follows
	refuse []error    // what the next calls of listen answer
	opened []string   // addresses that were asked for
	times  []time.Time
	conns  []*frailConn
	hang   bool          // listen waits for its context
	wait   chan struct{} // listen waits for it
}

func (n *frailNetwork) listen(ctx context.Context, _, address string) (net.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opened, n.times = append(n.opened, address), append(n.times, time.Now())
	if n.hang {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return nil, ctx.Err()
	}
	if wait := n.wait; wait != nil {
		n.mu.Unlock()
		<-wait
		n.mu.Lock()
	}
	if len(n.refuse) > 0 {
		err := n.refuse[0]
		if n.refuse = n.refuse[1:]; err != nil {
			return nil, err
		}
	}
	port := netip.MustParseAddrPort("0.0.0.0" + address).Port()
	if port == 0 {
		port = 4000 + uint16(len(n.conns))
	}
	c := &frailConn{port: port, in: make(chan []byte, 16), wake: make(chan struct{}), closed: make(chan struct{})}
	n.conns = append(n.conns, c)
	return c, nil
}

func (n *frailNetwork) last() *frailConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conns[len(n.conns)-1]
}

type frailConn struct {
	port      uint16
	in        chan []byte
	closed    chan struct{}
	closeOnce sync.Once

	mu        sync.Mutex // guards what follows
	failRead  error
	failWrite error
	past      bool          // the read deadline
	wake      chan struct{} // closed and replaced when something changes
}

func (c *frailConn) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *frailConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		err, past, wake := c.failRead, c.past, c.wake
		c.mu.Unlock()
		if past {
			return 0, nil, os.ErrDeadlineExceeded
		}
		if err != nil {
			return 0, nil, err
		}
		select {
		case d := <-c.in:
			return copy(b, d), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1")), nil
		case <-wake:
		case <-c.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

func (c *frailConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closed) {
		return 0, net.ErrClosed
	}
	return len(b), c.failWrite
}

func (c *frailConn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() { close(c.closed); err = nil })
	return err
}

func (c *frailConn) SetReadDeadline(t time.Time) error {
	c.change(func() { c.past = !t.IsZero() && !t.After(time.Now()) })
	return nil
}

func (c *frailConn) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), c.port))
}
func (c *frailConn) SetWriteDeadline(time.Time) error { return nil }
func (c *frailConn) SetDeadline(time.Time) error      { return nil }

// openFrail opens Sockets on n and receives what comes until they are closed.
func openFrail(t *testing.T, n *frailNetwork, cfg Config) (s *Sockets, p *opened, received <-chan string) {
	t.Helper()
	cfg.ListenPacket = n.listen
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p = openBind(t, s.Bind())
	came := make(chan string, 100)
	go func() { // ends with s or the facade
		defer close(came)
		for {
			n, err := p.receive(p.bufs, p.sizes, p.eps)
			if err != nil {
				return
			}
			for i := range n {
				came <- string(p.bufs[i][:p.sizes[i]])
			}
		}
	}()
	return s, p, came
}

// fault 23: whatever becomes of a socket, another takes its place, on the same port and with back-off, and it is said.
func TestReopen(t *testing.T) {
	down := fmt.Errorf("the network: %w", syscall.ENETDOWN)
	for _, c := range []struct {
		name   string
		port   uint16 // asked for
		fail   func(*frailConn, *opened)
		refuse []error
		want   error
		opens  []string
	}{
		{"receiving fails", 7, func(c *frailConn, _ *opened) { c.change(func() { c.failRead = down }) }, nil, syscall.ENETDOWN, []string{":7", ":7"}},
		{"it is closed, not by us", 7, func(c *frailConn, _ *opened) { c.Close() }, nil, net.ErrClosed, []string{":7", ":7"}},
		{
			"sending fails", 7, func(c *frailConn, p *opened) {
				c.change(func() { c.failWrite = syscall.EADDRNOTAVAIL })
				for range maxFailures {
					_ = p.bind.Send(datagrams(8), p.endpoint(t, "192.0.2.1", 1))
				}
			}, nil, syscall.EADDRNOTAVAIL, []string{":7", ":7"},
		},
		{
			"opening fails too", 7, func(c *frailConn, _ *opened) { c.Close() },
			[]error{down, syscall.EADDRINUSE, down, down},
			net.ErrClosed,
			[]string{":7", ":7", ":7", ":7", ":7", ":7"},
		},
		{"any port, and the old one is there", 0, func(c *frailConn, _ *opened) { c.Close() }, nil, net.ErrClosed, []string{":0", ":4000"}},
		{
			"any port, and the old one is taken", 0, func(c *frailConn, _ *opened) { c.Close() },
			[]error{syscall.EADDRINUSE},
			net.ErrClosed,
			[]string{":0", ":4000", ":0"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &frailNetwork{}
				var lost []error
				reopened := make(chan struct{}, 9)
				s, p, received := openFrail(t, n, Config{
					Port: c.port, Lost: func(err error) { lost = append(lost, err) }, Reopened: func() { reopened <- struct{}{} },
				})
				defer s.Close()
				n.last().in <- []byte("before")
				if got := <-received; got != "before" {
					t.Errorf("got %q", got)
				}
				n.refuse = slices.Clone(c.refuse)
				c.fail(n.last(), p)
				<-reopened
				synctest.Wait()
				if len(lost) != 1 || !errors.Is(lost[0], c.want) || len(reopened) != 0 || s.Lost() != nil {
					t.Errorf("lost %v, want once %v; lost now: %v", lost, c.want, s.Lost())
				}
				if !slices.Equal(n.opened, c.opens) {
					t.Errorf("opened %v, want %v", n.opened, c.opens)
				}
				n.last().in <- []byte("after")
				if got := <-received; got != "after" {
					t.Errorf("got %q", got)
				}
				if err := p.bind.Send(datagrams(8), p.endpoint(t, "192.0.2.1", 1)); err != nil {
					t.Errorf("Send: %v", err)
				}
				if s.Port() != n.last().port {
					t.Errorf("port %d, want %d", s.Port(), n.last().port)
				}
			})
		})
	}
}

// fault 23: tries come with growing pauses, and what is sent meanwhile says why it is not. A socket that fails again
// before it has received anything is not replaced at once.
func TestReopenBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &frailNetwork{}
		lost := make(chan error, 9)
		reopened := make(chan struct{}, 9)
		s, p, _ := openFrail(t, n, Config{Port: 7, Lost: func(err error) { lost <- err }, Reopened: func() { reopened <- struct{}{} }})
		defer s.Close()
		n.refuse = slices.Repeat([]error{syscall.ENETDOWN}, 12)
		n.last().Close()
		<-lost
		synctest.Wait()
		if err := p.bind.Send(datagrams(8), p.endpoint(t, "192.0.2.1", 1)); err == nil || err.Error() != s.Lost().Error() ||
			!errors.Is(err, net.ErrClosed) {
			t.Errorf("Send while there is no socket: %v; lost: %v", err, s.Lost())
		}
		<-reopened
		var pauses []time.Duration
		for i := range n.times[2:] {
			pauses = append(pauses, n.times[i+2].Sub(n.times[i+1]))
		}
		want := []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, 5000}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if !slices.Equal(pauses, want) {
			t.Errorf("pauses %v, want %v", pauses, want)
		}
		before := time.Now()
		n.last().Close()
		<-reopened
		if took := time.Since(before); took != reopenMax {
			t.Errorf("a socket that has received nothing was replaced after %v, want %v", took, reopenMax)
		}
	})
}

// A hook that hangs keeps neither the facade nor the Sockets from closing, and is told.
func TestCloseEndsReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &frailNetwork{}
		s, p, received := openFrail(t, n, Config{Port: 7})
		n.hang = true
		n.last().Close()
		synctest.Wait()
		if err := p.bind.Close(); err != nil {
			t.Error(err)
		}
		<-received // closed: the receive function has returned

		// The next facade goes on with the same try.
		q := openBind(t, s.Bind())
		ended := make(chan error, 1)
		go func() { _, err := q.receive(q.bufs, q.sizes, q.eps); ended <- err }() // ends with s
		synctest.Wait()
		if len(n.opened) != 2 {
			t.Errorf("%d calls of the hook, want 2", len(n.opened))
		}
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive: %v", err)
		}
	}) // the bubble fails if the hook's goroutine is left
}

// Another port that comes into use while no socket can be opened on the old one is received from at once, whether the
// receiver pauses between tries or one of them hangs.
func TestUseEndsReopen(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := &frailNetwork{}
			lost, reopened := make(chan error, 9), make(chan struct{}, 9)
			s, _, received := openFrail(t, n, Config{Port: 7, Lost: func(err error) { lost <- err }, Reopened: func() { reopened <- struct{}{} }})
			defer s.Close()
			n.refuse = slices.Repeat([]error{syscall.EADDRINUSE}, 12)
			if hang {
				n.hang = true
			}
			n.last().Close()
			<-lost
			time.Sleep(20 * time.Second) // of the bubble: pauses are at their longest
			synctest.Wait()
			n.refuse, n.hang = nil, false
			spare, err := s.Prepare(8)
			if err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			if err := spare.Use(); err != nil {
				t.Fatal(err)
			}
			<-reopened
			n.last().in <- []byte("hello")
			if got := <-received; got != "hello" {
				t.Errorf("received %q", got)
			}
			if took := time.Since(before); took != 0 || s.Lost() != nil {
				t.Errorf("received after %v, lost: %v", took, s.Lost())
			}
		})
	}
}

// A port that was any at first, and is wanted since, is kept.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &frailNetwork{}
		reopened := make(chan struct{}, 9)
		s, _, _ := openFrail(t, n, Config{Reopened: func() { reopened <- struct{}{} }})
		defer s.Close()
		port := s.Port()
		s.Keep()
		n.refuse = slices.Repeat([]error{syscall.EADDRINUSE}, 3)
		n.last().Close()
		<-reopened
		if s.Port() != port {
			t.Errorf("port %d, want %d", s.Port(), port)
		}
	})
}

// A socket that comes while no facade receives is found by the next one, and the next loss is one like the first.
func TestFoundByNextFacade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &frailNetwork{}
		reopened := make(chan struct{}, 9)
		s, p, received := openFrail(t, n, Config{Port: 7, Reopened: func() { reopened <- struct{}{} }})
		defer s.Close()
		n.wait = make(chan struct{})
		n.last().Close()
		synctest.Wait()
		if err := p.bind.Close(); err != nil {
			t.Error(err)
		}
		<-received // closed: the receive function has returned
		close(n.wait)
		synctest.Wait()
		q := openBind(t, s.Bind())
		ended := make(chan error, 1)
		go func() { // ends with s
			for {
				if _, err := q.receive(q.bufs, q.sizes, q.eps); err != nil {
					ended <- err
					return
				}
			}
		}()
		for range 2 {
			<-reopened
			if err := s.Lost(); err != nil {
				t.Errorf("lost: %v", err)
			}
			synctest.Wait()
			n.last().Close()
		}
		<-reopened
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		<-ended
	})
}
