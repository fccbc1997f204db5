// SPDX-License-Identifier: MIT

package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const local = "allow to 127.0.0.0/8,::1 special\n"

// TestTCP: what the client sends the target gets, and the other way, at both families.
func TestTCP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			l := listenTCP(t, address, echoTCP)
			g := newGateway(t, Config{}, local)
			f := newFlow(t, "laptop", "tcp", l.Addr().String())
			ended := serve(g, f)
			c := f.accepted(t).(*net.TCPConn)
			want := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
			go func() { // ends when all is sent, or with c
				if _, err := c.Write(want); err == nil {
					_ = c.CloseWrite()
				}
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes came back of %d, error %v", len(got), len(want), err)
			}
			waitFor(t, "the flow's end", ended)
			s := g.Status()
			if s.Accepted != 1 || s.Open != 0 || s.BytesOut != uint64(len(want)) || s.BytesIn != uint64(len(want)) {
				t.Errorf("status %+v", s)
			}
			if len(s.Peers) != 1 || s.Peers[0].Name != "laptop" || s.Peers[0].Counters != s.Counters {
				t.Errorf("peers %+v", s.Peers)
			}
		})
	}
}

// TestTCPHalfClose is fault 35 through the gateway: each side may end first, and the other half goes on.
func TestTCPHalfClose(t *testing.T) {
	t.Run("the client first", func(t *testing.T) {
		l := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
			question, _ := io.ReadAll(c)
			_, _ = c.Write(append([]byte("answer to "), question...))
		})
		g := newGateway(t, Config{}, local)
		f := newFlow(t, "laptop", "tcp", l.Addr().String())
		serve(g, f)
		c := f.accepted(t).(*net.TCPConn)
		if _, err := c.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "answer to question" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("the target first", func(t *testing.T) {
		got := make(chan string, 1)
		l := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- string(b)
		})
		g := newGateway(t, Config{}, local)
		f := newFlow(t, "laptop", "tcp", l.Addr().String())
		serve(g, f)
		c := f.accepted(t).(*net.TCPConn)
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := c.Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if s := <-got; s != "still here" {
			t.Errorf("the target got %q", s)
		}
	})
}

// TestTCPReset: a reset is passed on, both ways.
func TestTCPReset(t *testing.T) {
	t.Run("from the target", func(t *testing.T) {
		l := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		})
		g := newGateway(t, Config{}, local)
		f := newFlow(t, "laptop", "tcp", l.Addr().String())
		serve(g, f)
		c := f.accepted(t)
		_, _ = c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	})
	t.Run("from the client", func(t *testing.T) {
		got := make(chan error, 1)
		l := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
			_, err := c.Read(make([]byte, 1))
			got <- err
		})
		g := newGateway(t, Config{}, local)
		f := newFlow(t, "laptop", "tcp", l.Addr().String())
		serve(g, f)
		c := f.accepted(t).(*net.TCPConn)
		_ = c.SetLinger(0)
		c.Close()
		if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// TestTCPRefused is fault 68: a closed port looks closed, and the connection is never accepted.
func TestTCPRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "tcp", l.Addr().String())
	ended := serve(g, f)
	if err := f.wait(t); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, want ECONNREFUSED", err)
	}
	waitFor(t, "the flow's end", ended)
	if s := g.Status(); s.Refused != 1 || s.Accepted != 0 || s.Open != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestTCPDenied: no rule, no flow, and the peer is told.
func TestTCPDenied(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	for _, rules := range []string{"", "allow\n", "deny\n" + local, "allow from phone to 127.0.0.0/8 special"} {
		g := newGateway(t, Config{}, rules)
		f := newFlow(t, "laptop", "tcp", l.Addr().String())
		g.Serve(f)
		if err := f.wait(t); !errors.Is(err, syscall.EACCES) {
			t.Errorf("with %q: %v, want EACCES", rules, err)
		}
		if s := g.Status(); s.Denied != 1 || s.Accepted != 0 {
			t.Errorf("status %+v", s)
		}
	}
}

// TestTCPIdle: a connection on which nothing moves ends with a reset to both sides, sooner when one half has ended.
func TestTCPIdle(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		half bool
	}{
		{"established", Config{TCPIdleTimeout: 30 * time.Millisecond, TCPTransitoryTimeout: time.Hour}, false},
		{"half closed", Config{TCPIdleTimeout: time.Hour, TCPTransitoryTimeout: 30 * time.Millisecond}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ended := make(chan struct{})
			l := listenTCP(t, "127.0.0.1:0", func(*net.TCPConn) { <-ended })
			g := newGateway(t, tc.cfg, local)
			f := newFlow(t, "laptop", "tcp", l.Addr().String())
			go func() { // ends with the gateway at the latest
				defer close(ended)
				g.Serve(f)
			}()
			c := f.accepted(t).(*net.TCPConn)
			if tc.half {
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			waitFor(t, "the flow's end", ended)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", err)
			}
		})
	}
}

// TestSlowReaders is fault 69 at small scale: clients that do not read hold up their targets, each its own alone.
func TestSlowReaders(t *testing.T) {
	const slow = 10
	var written atomic.Int64
	endless := listenTCP(t, "127.0.0.1:0", func(c *net.TCPConn) {
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Write(buf)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	g := newGateway(t, Config{}, local)
	for range slow {
		f := newFlow(t, "slow", "tcp", endless.Addr().String())
		serve(g, f)
		f.accepted(t)
	}
	fast := newFlow(t, "fast", "tcp", l.Addr().String())
	serve(g, fast)
	c := fast.accepted(t)
	for range 100 {
		if got := exchange(t, c, []byte("x")); string(got) != "x" {
			t.Fatalf("got %q", got)
		}
	}
	// The system's buffers of both connections, of at most 4 and 6 MiB a side by default (tcp(7)), and our own.
	if s := g.Status(); s.BytesIn > slow*20<<20 {
		t.Errorf("%d bytes went to clients that read none", s.BytesIn)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if n := written.Load(); n > slow*32<<20 {
		t.Errorf("the targets have written %d bytes, to clients that read none", n)
	}
}
