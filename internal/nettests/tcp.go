// SPDX-License-Identifier: MIT

package nettests

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

type testCase struct {
	name string
	run  func(*testing.T, *World)
}

var (
	past    = time.Unix(1, 0)
	noTime  time.Time
	notOurs = map[bool]netip.Addr{true: netip.MustParseAddr("203.0.113.77"), false: netip.MustParseAddr("2001:db8:77::1")}
)

// shortly is a deadline that passes during the call that follows.
func shortly() time.Time { return time.Now().Add(20 * time.Millisecond) }

// inBackground runs f and returns a function that waits for its end.
func inBackground(f func()) (wait func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }() // ends with f, which the caller waits for
	return func() { <-done }
}

// FillUp writes to a connection that nobody reads from, until a write deadline stops it.
func FillUp(c net.Conn) error {
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // the writes show whether it works
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
	}
}

var tcpCases = []testCase{
	{"fault 27: empty read and write", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		n, err := c.Read(nil)
		w.note("read nothing", n, err)
		n, err = c.Read([]byte{})
		w.note("read empty", n, err)
		n, err = c.Write(nil)
		w.note("write nothing", n, err)
		s.Close()
		c.Close()
		n, err = c.Read(nil)
		w.note("read nothing from a closed one", n, err)
		n, err = c.Write(nil)
		w.note("write nothing to a closed one", n, err)
	}},
	{"fault 28: use after Close", func(t *testing.T, w *World) {
		c, _ := w.conns(t)
		w.note("close", c.Close())
		w.note("close", c.Close())
		n, err := c.Read(make([]byte, 1))
		w.note("read", n, err)
		n, err = c.Write(make([]byte, 1))
		w.note("write", n, err)
		w.note("deadline", c.SetDeadline(past))
		w.note("read deadline", c.SetReadDeadline(past))
		w.note("write deadline", c.SetWriteDeadline(past))
		w.note("close read", c.CloseRead())
		w.note("close write", c.CloseWrite())
		w.note("linger", c.SetLinger(0))
		w.note("addresses", c.LocalAddr() != nil, c.RemoteAddr() != nil)
	}},
	{"fault 28: Close unblocks", func(t *testing.T, w *World) {
		c, _ := w.conns(t)
		var readErr, writeErr error
		waitRead := inBackground(func() { _, readErr = c.Read(make([]byte, 1)) })
		_ = FillUp(c)
		_ = c.SetWriteDeadline(noTime)
		waitWrite := inBackground(func() { _, writeErr = c.Write(make([]byte, 1<<20)) })
		w.note("close", c.Close())
		waitRead()
		waitWrite()
		w.note("read", readErr)
		w.note("write", writeErr)
	}},
	{"fault 29: read deadlines", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		b := make([]byte, 10)
		w.note("set past", c.SetReadDeadline(past))
		n, err := c.Read(b)
		w.note("read", n, err)
		n, err = c.Read(b)
		w.note("read again", n, err)
		_, _ = s.Write([]byte("x"))
		n, err = c.Read(b)
		w.note("read what is there", n, err)
		w.note("clear", c.SetReadDeadline(noTime))
		n, err = c.Read(b)
		w.note("read", n, err)
		w.note("set soon", c.SetReadDeadline(shortly()))
		n, err = c.Read(b)
		w.note("read", n, err)
		w.note("set far", c.SetReadDeadline(time.Now().Add(time.Hour)))
		wait := inBackground(func() { n, err = c.Read(b) })
		w.note("set past meanwhile", c.SetDeadline(past))
		wait()
		w.note("read", n, err)
		n, err = c.Write(b)
		w.note("write, past too", n, err)
		w.note("clear", c.SetDeadline(noTime))
		n, err = c.Write(b)
		w.note("write", n, err)
	}},
	{"fault 29: write deadlines", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		w.note("set past", c.SetWriteDeadline(past))
		n, err := c.Write([]byte("x"))
		w.note("write", n, err)
		w.note("set past", FillUp(c))
		_, err = c.Write(make([]byte, 10))
		w.note("write", err)
		_ = c.SetWriteDeadline(noTime)
		wait := inBackground(func() { _, err = c.Write(make([]byte, 1<<20)) })
		_, cerr := io.CopyN(io.Discard, s, 1<<20)
		w.note("the other side reads", cerr)
		_ = c.SetWriteDeadline(past)
		wait() // it has ended one way or the other
		_ = c.SetWriteDeadline(noTime)
		_, err = c.Read(nil)
		w.note("reads are not touched", err)
	}},
	{"fault 29: accept deadlines", func(t *testing.T, w *World) {
		l := w.listen(t)
		w.note("set past", l.SetDeadline(past))
		_, err := l.Accept()
		w.note("accept", err)
		w.note("set soon", l.SetDeadline(shortly()))
		_, err = l.Accept()
		w.note("accept", err)
		_ = l.SetDeadline(time.Now().Add(time.Hour))
		wait := inBackground(func() { _, err = l.Accept() })
		_ = l.SetDeadline(past)
		wait()
		w.note("accept", err)
		w.note("clear", l.SetDeadline(noTime))
		c, err := w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr())))
		w.note("dial", err)
		s, err := l.Accept()
		w.note("accept", err)
		c.Close()
		s.Close()
	}},
	{"fault 30: refused", func(t *testing.T, w *World) {
		l := w.listen(t)
		l.Close()
		_, err := w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr())))
		w.note("dial", err)
		_, err = w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(0))
		w.note("dial port 0", err)
	}},
	{"fault 30: reset", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		w.note("linger", c.SetLinger(0))
		w.note("close", c.Close())
		n, err := s.Read(make([]byte, 1))
		w.note("read", n, err)
		_, err = s.Write([]byte("x"))
		w.note("write", errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
	}},
	{"fault 39: unread data turns Close into a reset", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		_, err := c.Write([]byte("unread and read"))
		w.note("write", err)
		_, err = io.ReadFull(s, make([]byte, 6))
		w.note("read a part", err)
		w.note("close", s.Close())
		_, err = c.Read(make([]byte, 1))
		w.note("read", err)
	}},
	{"fault 39: Close delivers what was written", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		want := bytes.Repeat([]byte("0123456789"), 100_000)
		wait := inBackground(func() {
			n, err := c.Write(want)
			w.note("write", n, err)
			w.note("close", c.Close())
		})
		got, err := io.ReadAll(s)
		wait()
		w.note("read", bytes.Equal(got, want), err)
	}},
	{"fault 35: CloseWrite", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		_, _ = c.Write([]byte("question"))
		w.note("close write", c.CloseWrite())
		got, err := io.ReadAll(s)
		w.note("read all", string(got), err)
		n, err := s.Read(make([]byte, 1))
		w.note("EOF again", n, err)
		n, err = c.Write([]byte("x"))
		w.note("write after CloseWrite", n, err)
		n, err = s.Write([]byte("answer"))
		w.note("the other half", n, err)
		w.note("close write", s.CloseWrite())
		got, err = io.ReadAll(c)
		w.note("read all", string(got), err)
		w.note("close", c.Close())
		w.note("close", s.Close())
	}},
	{"fault 35: CloseRead", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		w.note("close read", c.CloseRead())
		n, err := c.Read(make([]byte, 1))
		w.note("read", n, err)
		n, err = c.Write([]byte("still"))
		w.note("write", n, err)
		n, err = s.Read(make([]byte, 10))
		w.note("the other half", n, err)
	}},
	{"fault 35: CloseRead unblocks Read", func(t *testing.T, w *World) {
		c, _ := w.conns(t)
		var err error
		wait := inBackground(func() { _, err = c.Read(make([]byte, 1)) })
		w.note("close read", c.CloseRead())
		wait()
		w.note("read", err)
	}},
	{"write to a closed peer", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		s.Close()
		_, err := c.Read(make([]byte, 1))
		w.note("read", err)
		for err == io.EOF || err == nil { // the first ones go into the buffer, until the reset arrives
			_, err = c.Write([]byte("x"))
		}
		w.note("write", errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET))
	}},
	{"fault 34: contexts", func(t *testing.T, w *World) {
		l := w.listen(t)
		to := w.at(portOf(l.Addr()))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := w.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		w.note("canceled", err)
		ctx, cancel = context.WithDeadline(context.Background(), past)
		defer cancel()
		_, err = w.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		e := net.Error(nil)
		w.note("past", errors.Is(err, context.DeadlineExceeded), errors.As(err, &e) && e.Timeout())
		ctx, cancel = context.WithCancel(context.Background())
		c, err := w.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
		w.note("dial", err)
		cancel()
		_, err = c.Write([]byte("x"))
		w.note("the context does not bound the connection", err)
		c.Close()
	}},
	{"listen: ports and addresses", func(t *testing.T, w *World) {
		l := w.listen(t)
		port := portOf(l.Addr())
		w.note("port", port != 0, l.Addr().Network(), strings.HasPrefix(l.Addr().String(), netip.AddrPortFrom(w.Server, 0).Addr().String()) || w.Server.Is6())
		_, err := w.ListenTCP("tcp", w.at(port))
		w.note("the same again", err)
		_, err = w.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, port))
		w.note("wildcard over specific", err)
		_, err = w.ListenTCP("tcp", netip.AddrPortFrom(notOurs[w.Server.Is4()], 0))
		w.note("not ours", err)
		all := must[TCPListener](t)(w.ListenTCP("tcp", netip.AddrPort{}))
		port = portOf(all.Addr())
		w.note("wildcard", strings.TrimRight(all.Addr().String(), "0123456789"))
		_, err = w.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, port))
		w.note("wildcard twice", err)
		_, err = w.ListenTCP("tcp", w.at(port))
		w.note("specific over wildcard", err)
		w.note("close", all.Close())
		again, err := w.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, port))
		w.note("after close", err)
		again.Close()
	}},
	{"listen: one family", func(t *testing.T, w *World) {
		l4, err := w.ListenTCP("tcp4", netip.AddrPort{})
		w.note("tcp4", err, strings.TrimRight(l4.Addr().String(), "0123456789"))
		l6, err := w.ListenTCP("tcp6", netip.AddrPortFrom(netip.IPv6Unspecified(), portOf(l4.Addr())))
		w.note("tcp6 on the same port", err, strings.TrimRight(l6.Addr().String(), "0123456789"))
		_, err = w.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, portOf(l4.Addr())))
		w.note("tcp on the same port", err)
		defer l4.Close()
		defer l6.Close()
		for _, network := range []string{"tcp4", "tcp6"} {
			l, err := w.ListenTCP(network, w.at(0))
			w.note(network, err == nil)
			if err == nil {
				l.Close()
			}
			c, err := w.DialTCP(context.Background(), network, netip.AddrPort{}, w.at(portOf(l4.Addr())))
			w.note(network, err == nil)
			if err == nil {
				c.Close()
			}
		}
	}},
	{"dual stack", func(t *testing.T, w *World) {
		for _, laddr := range []netip.AddrPort{{}, netip.AddrPortFrom(netip.IPv4Unspecified(), 0), netip.AddrPortFrom(netip.IPv6Unspecified(), 0)} {
			l := must[TCPListener](t)(w.ListenTCP("tcp", laddr))
			c, err := w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr())))
			w.note("dial", err)
			s, err := l.Accept()
			w.note("accept", err)
			w.note("ends agree", c.LocalAddr().String() == s.RemoteAddr().String(), c.RemoteAddr().String() == s.LocalAddr().String())
			w.note("family", s.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() == w.Server)
			c.Close()
			s.Close()
			l.Close()
		}
	}},
	{"unknown networks", func(t *testing.T, w *World) {
		for _, network := range w.notTCP {
			_, err := w.ListenTCP(network, w.at(0))
			w.note("listen", err)
			_, err = w.DialTCP(context.Background(), network, netip.AddrPort{}, w.at(1))
			w.note("dial", err)
		}
	}},
	{"local addresses of dials", func(t *testing.T, w *World) {
		l := w.listen(t)
		to := w.at(portOf(l.Addr()))
		_, err := w.DialTCP(context.Background(), "tcp", netip.AddrPortFrom(notOurs[w.Server.Is4()], 0), to)
		w.note("not ours", err)
		c, err := w.DialTCP(context.Background(), "tcp", netip.AddrPortFrom(w.Client, 0), to)
		w.note("address", err)
		s, err := l.Accept()
		w.note("accept", err, c.LocalAddr().String() == s.RemoteAddr().String())
		_, err = w.DialTCP(context.Background(), "tcp", netip.AddrPortFrom(w.Client, portOf(c.LocalAddr())), to)
		w.note("the same port again", errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL))
		c.Close()
		s.Close()
	}},
	{"closed listeners", func(t *testing.T, w *World) {
		l := w.listen(t)
		var err error
		wait := inBackground(func() { _, err = l.Accept() })
		w.note("close", l.Close())
		wait()
		w.note("accept", err)
		_, err = l.Accept()
		w.note("accept", err)
		w.note("close", l.Close())
		w.note("deadline", errors.Is(l.SetDeadline(past), net.ErrClosed)) // the net package forgets the OpError
	}},
	{"a listener's end resets who waits", func(t *testing.T, w *World) {
		l := w.listen(t)
		c, err := w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr())))
		w.note("dial", err)
		l.Close()
		_, err = c.Read(make([]byte, 1))
		w.note("read", err)
		c.Close()
	}},
	{"net.Buffers and io.Copy", func(t *testing.T, w *World) {
		c, s := w.conns(t)
		buffers := net.Buffers{[]byte("one "), nil, []byte("two "), bytes.Repeat([]byte("x"), 100_000)}
		var sent, copied int64
		var sendErr, copyErr error
		wait := inBackground(func() {
			sent, sendErr = buffers.WriteTo(c)
			copied, copyErr = io.Copy(c, strings.NewReader(strings.Repeat("y", 300_000)))
			c.Close()
		})
		got, err := io.ReadAll(s)
		wait()
		w.note("write", sent, sendErr, copied, copyErr)
		w.note("read", len(got), err)
	}},
}
