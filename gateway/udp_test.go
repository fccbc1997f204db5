// SPDX-License-Identifier: MIT

package gateway

import (
	"bytes"
	"errors"
	"math"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// listenUDP gives each datagram to serve, which may answer by write.
func listenUDP(t testing.TB, address string, serve func(c *net.UDPConn, b []byte, from netip.AddrPort)) *net.UDPConn {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Skipf("no socket at %s here: %v", address, err)
	}
	c := pc.(*net.UDPConn)
	var serving sync.WaitGroup
	serving.Go(func() { // ends with c
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				serve(c, buf[:n], from)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
	})
	return c
}

// exchange sends a message and returns the next one that comes.
func exchange(t *testing.T, c net.Conn, message []byte) []byte {
	t.Helper()
	if _, err := c.Write(message); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxDatagram)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// TestUDP: datagrams of all sizes arrive whole, both ways, as ones (fault 67: a reply of 9 kB).
func TestUDP(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			server := listenUDP(t, address, func(c *net.UDPConn, b []byte, from netip.AddrPort) {
				_, _ = c.WriteToUDPAddrPort(b, from)
			})
			g := newGateway(t, Config{}, local)
			f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
			ended := serve(g, f)
			c := f.accepted(t)
			total := uint64(0)
			for _, size := range []int{1, 0, 1200, 9000, 65507, 100} {
				want := bytes.Repeat([]byte{byte(size)}, size)
				if got := exchange(t, c, want); !bytes.Equal(got, want) {
					t.Fatalf("a datagram of %d bytes came back with %d", size, len(got))
				}
				total += uint64(size)
			}
			c.Close()
			waitFor(t, "the flow's end", ended)
			if s := g.Status(); s.BytesOut != total || s.BytesIn != total || s.Accepted != 1 || s.Open != 0 || s.Refused != 0 {
				t.Errorf("status %+v, want %d bytes each way", s, total)
			}
		})
	}
}

// TestUDPTooLong: a datagram that cannot be sent is lost, and the flow lives on.
func TestUDPTooLong(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0", func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(b, from)
	})
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
	serve(g, f)
	c := f.accepted(t)
	if _, err := c.Write(make([]byte, 65527)); err != nil { // what fits into IPv6 alone
		t.Fatal(err)
	}
	if got := exchange(t, c, []byte("x")); string(got) != "x" {
		t.Errorf("%d bytes came back", len(got))
	}
}

// TestUDPStranger is fault 67: only the target's datagrams come back.
func TestUDPStranger(t *testing.T) {
	stranger := listenUDP(t, "127.0.0.1:0", func(*net.UDPConn, []byte, netip.AddrPort) {})
	server := listenUDP(t, "127.0.0.1:0", func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = stranger.WriteToUDPAddrPort([]byte("from a stranger"), from)
		_, _ = c.WriteToUDPAddrPort([]byte("from the target"), from)
	})
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
	serve(g, f)
	c := f.accepted(t)
	for range 3 {
		if got := exchange(t, c, []byte("x")); string(got) != "from the target" {
			t.Errorf("got %q", got)
		}
	}
}

// TestUDPRefused is fault 68: what ICMP says of the target reaches the peer, and the flow goes on (RFC 4787, REQ-10).
func TestUDPRefused(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "udp", closed.LocalAddr().String())
	ended := serve(g, f)
	c := f.accepted(t)
	for range 3 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-f.refused:
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v, want ECONNREFUSED", err)
			}
		case <-time.After(patience):
			t.Fatal("nobody told the peer")
		}
	}
	for range 100 { // whichever of the socket's two calls finds the error
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	listenUDP(t, closed.LocalAddr().String(), func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(b, from)
	})
	got := exchange(t, c, []byte("y"))
	if string(got) == "x" { // the last one was sent after all
		buf := make([]byte, 10)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = buf[:n]
	}
	if string(got) != "y" {
		t.Errorf("got %q", got)
	}
	if s := g.Status(); s.Refused != 1 || s.Accepted != 1 || s.Open != 1 {
		t.Errorf("status %+v", s)
	}
	c.Close()
	waitFor(t, "the flow's end", ended)
}

// TestUDPPeerRefuses: that the peer's port is closed is no word of the target, and does not end the flow either.
func TestUDPPeerRefuses(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0", func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(b, from)
	})
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
	inside := &closedPort{reads: 2, writes: 1}
	f.pair = func() (net.Conn, net.Conn, error) {
		a, b := net.Pipe()
		inside.Conn = a
		return inside, b, nil
	}
	ended := serve(g, f)
	c := f.accepted(t)
	if _, err := c.Write([]byte("lost on its way back")); err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, c, []byte("x")); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	c.Close()
	waitFor(t, "the flow's end", ended)
	if s := g.Status(); s.Refused != 0 || len(f.refused) != 0 || s.BytesIn != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestUDPBroken: a connection of which every read is an error is not read for ever.
func TestUDPBroken(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0", func(*net.UDPConn, []byte, netip.AddrPort) {})
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
	inside := &closedPort{reads: math.MaxInt}
	f.pair = func() (net.Conn, net.Conn, error) {
		a, b := net.Pipe()
		inside.Conn = a
		return inside, b, nil
	}
	waitFor(t, "the flow's end", serve(g, f))
}

// A closedPort is a flow's connection whose other end takes no datagrams for a while, by one call each. One goroutine
// reads, one writes.
type closedPort struct {
	net.Conn
	reads, writes int // how many fail
}

func (c *closedPort) Read(b []byte) (int, error) {
	if c.reads > 0 {
		c.reads--
		return 0, syscall.ECONNREFUSED
	}
	return c.Conn.Read(b)
}

func (c *closedPort) Write(b []byte) (int, error) {
	if c.writes > 0 {
		c.writes--
		return 0, syscall.ECONNREFUSED
	}
	return c.Conn.Write(b)
}

// TestUDPIdle: a flow in which nothing moves ends, and one in which something does goes on.
func TestUDPIdle(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0", func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(b, from)
	})
	const idle = 50 * time.Millisecond
	g := newGateway(t, Config{UDPIdleTimeout: idle}, local)
	f := newFlow(t, "laptop", "udp", server.LocalAddr().String())
	begin := time.Now()
	ended := serve(g, f)
	if got := exchange(t, f.accepted(t), []byte("x")); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	waitFor(t, "the flow's end", ended)
	if lived := time.Since(begin); lived < idle {
		t.Errorf("ended after %v, before it was idle for %v", lived, idle)
	}
	if s := g.Status(); s.Open != 0 || s.Evicted != 0 || s.Accepted != 1 {
		t.Errorf("status %+v", s)
	}
}
