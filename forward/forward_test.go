// SPDX-License-Identifier: MIT

package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/forward"
	"example.com/wgnet/wgnet/wgnettest"
)

const patience = 20 * time.Second

// run runs a forward until the test ends.
func run(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }() // ends with ctx
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// answer serves TCP on l: it reads all there is, and then answers.
func answer(t *testing.T, l net.Listener) {
	var serving sync.WaitGroup
	serving.Go(func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // ends when the client has ended
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					fmt.Fprintf(c, "answer to %s", b)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
}

// echo sends each datagram back.
func echo(t *testing.T, pc net.PacketConn) {
	done := make(chan struct{})
	go func() { // ends with pc
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
}

func ask(t *testing.T, c net.Conn) string {
	t.Helper()
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return string(must(io.ReadAll(c))(t))
}

func exchange(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestIntoTunnel: a port of the host is one of a peer.
func TestIntoTunnel(t *testing.T) {
	client, server := wgnettest.Pair(t)
	answer(t, must(server.Listen("tcp", ":80"))(t))
	echo(t, must(server.ListenPacket("udp", ":53"))(t))

	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	run(t, func(ctx context.Context) error { return forward.TCP(ctx, l, client, "b:80", forward.Options{}) })
	if got := ask(t, must(net.Dial("tcp", l.Addr().String()))(t)); got != "answer to question" {
		t.Errorf("got %q", got)
	}
	pc := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	run(t, func(ctx context.Context) error { return forward.UDP(ctx, pc, client, "b:53", forward.Options{}) })
	for i := range 3 {
		c := must(net.Dial("udp", pc.LocalAddr().String()))(t)
		if got := exchange(t, c, fmt.Sprint(i)); got != fmt.Sprint(i) {
			t.Errorf("got %q", got)
		}
		c.Close()
	}
}

// TestOutOfTunnel: a port of the tunnel is one of the host.
func TestOutOfTunnel(t *testing.T) {
	client, server := wgnettest.Pair(t)
	hosts := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	answer(t, hosts)
	hostsUDP := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	echo(t, hostsUDP)

	l := must(server.Listen("tcp", ":80"))(t)
	run(t, func(ctx context.Context) error {
		return forward.TCP(ctx, l, &net.Dialer{}, hosts.Addr().String(), forward.Options{})
	})
	if got := ask(t, must(client.Dial("tcp", "b:80"))(t)); got != "answer to question" {
		t.Errorf("got %q", got)
	}
	pc := must(server.ListenPacket("udp", ":53"))(t)
	run(t, func(ctx context.Context) error {
		return forward.UDP(ctx, pc, &net.Dialer{}, hostsUDP.LocalAddr().String(), forward.Options{})
	})
	c := must(client.Dial("udp", "b:53"))(t)
	defer c.Close()
	for _, size := range []int{0, 1, 9000} {
		if got := exchange(t, c, string(make([]byte, size))); len(got) != size {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
}

// TestTCPRefused: a connection that cannot be passed on is reset.
func TestTCPRefused(t *testing.T) {
	closed := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	closed.Close()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	run(t, func(ctx context.Context) error {
		return forward.TCP(ctx, l, &net.Dialer{}, closed.Addr().String(), forward.Options{})
	})
	c, err := net.Dial("tcp", l.Addr().String())
	if err == nil { // the reset may come before the dial has seen that it succeeded
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience)) // it fails if the connection is reset by now
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// TestUDPBounded: sources are forgotten when there are too many, the longest idle first, and their connections closed.
func TestUDPBounded(t *testing.T) {
	target := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	echo(t, target)
	d := &countingDialer{closed: make(chan struct{}, 100)}
	pc := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	run(t, func(ctx context.Context) error {
		return forward.UDP(ctx, pc, d, target.LocalAddr().String(), forward.Options{MaxConns: 2})
	})
	var sources []net.Conn
	for range 3 {
		c := must(net.Dial("udp", pc.LocalAddr().String()))(t)
		defer c.Close()
		sources = append(sources, c)
		exchange(t, c, "x")
	}
	<-d.closed // of the first, whose place the third has
	for _, c := range sources[1:] {
		exchange(t, c, "x")
	}
	if d.count() != 3 {
		t.Errorf("%d connections, want three: the second and third source have kept theirs", d.count())
	}
	exchange(t, sources[0], "x") // it may come back
	if d.count() != 4 {
		t.Errorf("%d connections, want four", d.count())
	}
}

// TestUDPIdle: a source that sends nothing for long is forgotten.
func TestUDPIdle(t *testing.T) {
	target := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	echo(t, target)
	d := &countingDialer{closed: make(chan struct{}, 100)}
	pc := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	run(t, func(ctx context.Context) error {
		return forward.UDP(ctx, pc, d, target.LocalAddr().String(), forward.Options{UDPIdleTimeout: 30 * time.Millisecond})
	})
	c := must(net.Dial("udp", pc.LocalAddr().String()))(t)
	defer c.Close()
	exchange(t, c, "x")
	select {
	case <-d.closed:
	case <-time.After(patience):
		t.Fatal("the source was not forgotten")
	}
}

// A countingDialer tells of the connections that it made and that were closed.
type countingDialer struct {
	closed chan struct{}

	mu    sync.Mutex // guards dials
	dials int
}

func (d *countingDialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

func (d *countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.dials++
	d.mu.Unlock()
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &countedConn{Conn: c, closed: d.closed}, err
}

type countedConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.closed <- struct{}{} })
	return c.Conn.Close()
}

// TestListenerEnds: the listener's end is the forward's, and an error.
func TestListenerEnds(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	l.Close()
	if err := forward.TCP(t.Context(), l, &net.Dialer{}, "127.0.0.1:9", forward.Options{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("TCP: %v, want net.ErrClosed", err)
	}
	pc := must(net.ListenPacket("udp", "127.0.0.1:0"))(t)
	pc.Close()
	if err := forward.UDP(t.Context(), pc, &net.Dialer{}, "127.0.0.1:9", forward.Options{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("UDP: %v, want net.ErrClosed", err)
	}
}
