// SPDX-License-Identifier: MIT

package relay_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wgnet/internal/relay"
)

const patience = 20 * time.Second

// tcpPair is a TCP connection of the host with itself.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{x, y} {
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
	}
	return x.(*net.TCPConn), y.(*net.TCPConn)
}

// joined returns the two outer ends of two joined connections, and what Join returns.
func joined(t *testing.T, ctx context.Context, hooks relay.Hooks) (client, server *net.TCPConn, result chan error) {
	t.Helper()
	client, a := tcpPair(t)
	b, server := tcpPair(t)
	result = make(chan error, 1)
	go func() { result <- relay.Join(ctx, a, b, hooks) }() // ends with the connections, which the test closes
	return client, server, result
}

func TestJoin(t *testing.T) {
	var mu sync.Mutex
	moved, halves := map[bool]int{}, 0
	client, server, result := joined(t, t.Context(), relay.Hooks{
		Moved: func(fromA bool, n int) {
			mu.Lock()
			defer mu.Unlock()
			moved[fromA] += n
		},
		Halved: func() { halves++ },
	})
	question, answer := bytes.Repeat([]byte("q"), 1<<20), bytes.Repeat([]byte("a"), 1<<19)
	var sending sync.WaitGroup
	send := func(c *net.TCPConn, b []byte) {
		sending.Go(func() { // ends when all is sent
			if _, err := c.Write(b); err != nil {
				t.Error(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
	}
	send(client, question)
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, question) {
		t.Fatalf("the server read %d bytes, %v", len(got), err)
	}
	send(server, answer) // after the other half has ended
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, answer) {
		t.Fatalf("the client read %d bytes, %v", len(got), err)
	}
	sending.Wait()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if moved[true] != len(question) || moved[false] != len(answer) || halves != 1 {
		t.Errorf("moved %v, %d halves", moved, halves)
	}
}

// TestJoinReset: a reset ends both sides with one.
func TestJoinReset(t *testing.T) {
	client, server, result := joined(t, t.Context(), relay.Hooks{})
	relay.Reset(server)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Join: %v, want a reset", err)
	}
}

// TestJoinContext: the end of the context is a reset to both sides, and its cause is the result.
func TestJoinContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	client, server, result := joined(t, ctx, relay.Hooks{})
	enough := errors.New("enough")
	cancel(enough)
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	}
	if err := <-result; err != enough {
		t.Errorf("Join: %v, want the cause", err)
	}
}

// TestJoinBackPressure: while one side does not read, the other one cannot write without end (fault 69).
func TestJoinBackPressure(t *testing.T) {
	client, server, result := joined(t, t.Context(), relay.Hooks{})
	_ = client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // it has no end, so a time is what there is
	_, err := io.Copy(client, endless{})
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("%v, want the write to be stuck", err)
	}
	relay.Reset(server)
	if err := <-result; err == nil {
		t.Error("Join ended in order")
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// TestJoinWholeOnly: a connection that has no halves is closed where one would end.
func TestJoinWholeOnly(t *testing.T) {
	client, a := net.Pipe()
	b, server := net.Pipe()
	result := make(chan error, 1)
	go func() { result <- relay.Join(t.Context(), a, b, relay.Hooks{}) }() // ends with the pipes
	client.Close()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
	<-result
}

// TestLimit: Accept waits while all places are taken, and Close ends the wait.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := relay.Limit(&endlessPipes{t}, 1)
		accepted, ended := make(chan net.Conn, 3), make(chan error, 1)
		go func() { // ends with l
			for {
				c, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				accepted <- c
			}
		}()
		synctest.Wait()
		if n := len(accepted); n != 1 {
			t.Fatalf("%d connections in one place", n)
		}
		first := <-accepted
		first.Close()
		first.Close() // gives back one place only
		synctest.Wait()
		if n := len(accepted); n != 1 {
			t.Fatalf("%d connections after one was closed, want one", n)
		}
		second := <-accepted
		if err := second.(interface{ CloseWrite() error }).CloseWrite(); err != nil { // of a pipe, it is the whole end
			t.Error(err)
		}
		synctest.Wait()
		if n := len(accepted); n != 1 {
			t.Fatalf("%d connections after another was closed, want one", n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
	})
}

// endlessPipes is a listener to which clients come as fast as it accepts them.
type endlessPipes struct{ t *testing.T }

func (l *endlessPipes) Accept() (net.Conn, error) {
	ours, theirs := net.Pipe()
	l.t.Cleanup(func() { ours.Close() })
	return theirs, nil
}

func (l *endlessPipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }
func (l *endlessPipes) Close() error   { return nil }

// TestServe: an error that passes is waited out, another one is the end, and handlers are waited for.
func TestServe(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	fatal := errors.New("fatal")
	l := &scripted{script: []any{syscall.EMFILE, b, fatal}}
	handled := false
	err := relay.Serve(t.Context(), l, func(ctx context.Context, c net.Conn) {
		defer c.Close()
		<-ctx.Done()
		handled = true
	})
	if !errors.Is(err, fatal) || !handled || !l.closed {
		t.Errorf("%v, handled %v, closed %v", err, handled, l.closed)
	}
}

// A scripted listener accepts and fails as it is told.
type scripted struct {
	net.Listener
	script []any
	closed bool
}

func (s *scripted) Accept() (net.Conn, error) {
	next := s.script[0]
	s.script = s.script[1:]
	if c, ok := next.(net.Conn); ok {
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Err: next.(error)}
}

func (s *scripted) Close() error {
	s.closed = true
	return nil
}
