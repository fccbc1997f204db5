// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// lan is what the gateways of these tests serve beyond themselves.
var lan = prefixes("192.168.1.0/24", "fd01::/64")

// gatewayPair makes two Nets, the second of which is the first one's way into the LAN.
func gatewayPair(t *testing.T) (client, gateway *wgnet.Net) {
	t.Helper()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"client", "gateway"}})
	p := &n.Nodes[0].Config.Peers[0]
	p.AllowedIPs = slices.Concat(p.AllowedIPs, lan)
	n.Start()
	return n.Nodes[0].Net, n.Nodes[1].Net
}

// handle sets a handler, and takes it away when the test ends.
func handle(t *testing.T, n *wgnet.Net, handler func(*wgnet.Flow)) {
	t.Helper()
	if err := n.HandleFlows(handler); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.HandleFlows(nil); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// echoBack accepts a flow and sends everything back.
func echoBack(t *testing.T) func(*wgnet.Flow) {
	return func(f *wgnet.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer c.Close()
		if f.Network() == "tcp" {
			if _, err := io.Copy(c, c); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("Copy: %v", err)
			}
			return
		}
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read: %v", err)
				}
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				t.Errorf("Write: %v", err)
			}
		}
	}
}

// A handler accepts a connection to an address that is not the Net's own.
func TestFlowAcceptTCP(t *testing.T) {
	client, gateway := gatewayPair(t)
	flows := make(chan *wgnet.Flow, 2)
	echo := echoBack(t)
	handle(t, gateway, func(f *wgnet.Flow) {
		flows <- f
		echo(f)
	})
	for _, target := range []string{"192.168.1.123:9090", "[fd01::123]:9090"} {
		t.Run(target, func(t *testing.T) {
			c, err := client.DialContext(testContext(t), "tcp", target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			f := <-flows
			if f.Network() != "tcp" || f.Destination().String() != target || f.Source().String() != c.LocalAddr().String() {
				t.Errorf("the flow is %s from %s to %s, the connection from %s", f.Network(), f.Source(), f.Destination(), c.LocalAddr())
			}
			if f.PeerKey() != client.PublicKey() || f.PeerName() != "client" {
				t.Errorf("the flow is of peer %q, %s", f.PeerName(), f.PeerKey())
			}
			if name, _, ok := f.Target(); ok {
				t.Errorf("the flow's target is peer %q", name)
			}
			checkEcho(t, c, "hello")
			if err := f.Forward(); !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("Forward after Accept: %v", err)
			}
			if _, err := f.Accept(); !errors.Is(err, wgnet.ErrFlowDecided) {
				t.Errorf("second Accept: %v", err)
			}
			c.Close()
			<-f.Context().Done()
		})
	}
}

func checkEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("Read: %q, %v, want %q", b, err, text)
	}
}

// fault 35: each half of an accepted connection ends by itself.
func TestFlowHalfClose(t *testing.T) {
	client, gateway := gatewayPair(t)
	conns := make(chan net.Conn, 1)
	handle(t, gateway, func(f *wgnet.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		conns <- c
	})
	type halves interface {
		net.Conn
		CloseWrite() error
		CloseRead() error
		SetLinger(int) error
	}
	for _, target := range []string{"192.168.1.1:80", "[fd01::1]:80"} {
		for _, first := range []string{"client", "gateway"} {
			t.Run(first+" ends first, "+target, func(t *testing.T) {
				dialed, err := client.DialContext(testContext(t), "tcp", target)
				if err != nil {
					t.Fatal(err)
				}
				defer dialed.Close()
				accepted := <-conns
				defer accepted.Close()
				a, b := dialed.(halves), accepted.(halves)
				if first == "gateway" {
					a, b = b, a
				}
				for _, c := range []net.Conn{a, b} {
					if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
						t.Fatal(err)
					}
				}
				for _, half := range []struct{ from, to halves }{{a, b}, {b, a}} {
					if _, err := half.from.Write([]byte("the last word")); err != nil {
						t.Fatal(err)
					}
					if err := half.from.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(half.to); err != nil || string(got) != "the last word" {
						t.Fatalf("Read: %q, %v", got, err)
					}
				}
			})
		}
	}
}

// fault 68: what a handler says is what the client sees, and at once.
func TestFlowRefuse(t *testing.T) {
	tests := []struct {
		name, network, target string
		reason, want          error
	}{
		{"refused", "tcp", "192.168.1.1:80", syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		{"refused", "tcp", "[fd01::1]:80", syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		{"a dial's error", "tcp", "192.168.1.1:80", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, syscall.ECONNREFUSED},
		{"no reason", "tcp", "192.168.1.1:80", nil, syscall.ECONNREFUSED},
		{"no host", "tcp", "192.168.1.1:80", syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
		{"no network", "tcp", "192.168.1.1:80", syscall.ENETUNREACH, syscall.ENETUNREACH},
		{"no network", "tcp", "[fd01::1]:80", syscall.ENETUNREACH, syscall.ENETUNREACH},
		{"forbidden", "tcp", "192.168.1.1:80", syscall.EACCES, syscall.EHOSTUNREACH},
		// gVisor knows but one of ICMPv6's codes.
		{"no host", "tcp", "[fd01::1]:80", syscall.EHOSTUNREACH, syscall.ENETUNREACH},
		{"forbidden", "tcp", "[fd01::1]:80", syscall.EACCES, syscall.ENETUNREACH},
		{"refused", "udp", "192.168.1.1:53", syscall.ECONNREFUSED, syscall.ECONNREFUSED},
		{"refused", "udp", "[fd01::1]:53", syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	}
	client, gateway := gatewayPair(t)
	reasons := make(chan error, 1)
	handle(t, gateway, func(f *wgnet.Flow) {
		f.Refuse(<-reasons)
		<-f.Context().Done()
		if _, err := f.Accept(); err == nil {
			t.Error("Accept of a refused flow succeeds")
		}
	})
	for _, test := range tests {
		t.Run(test.name+"/"+test.network+" "+test.target, func(t *testing.T) {
			reasons <- test.reason
			c, err := client.DialContext(testContext(t), test.network, test.target)
			if err == nil {
				defer c.Close()
				if test.network == "tcp" {
					t.Fatal("Dial succeeds")
				}
				if _, err = c.Write([]byte("?")); err != nil {
					t.Fatal(err)
				}
				if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	if s := gateway.Status(); s.Flows.Refused != uint64(len(tests)) || s.Peers[0].Flows.Refused != uint64(len(tests)) {
		t.Errorf("refused: %s, of the peer %s, want %d", s.Flows, s.Peers[0].Flows, len(tests))
	}
}

// Silence, asked for or not, is silence.
func TestFlowDrop(t *testing.T) {
	client, gateway := gatewayPair(t)
	asked := make(chan struct{}, 1)
	var drop atomic.Bool
	handle(t, gateway, func(f *wgnet.Flow) {
		if drop.Load() {
			f.Drop()
		}
		select {
		case asked <- struct{}{}:
		default: // the SYN came again
		}
	})
	for _, how := range []bool{true, false} {
		drop.Store(how)
		for _, target := range []string{"192.168.1.1:80", "[fd01::1]:80"} {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { // ends with ctx
				_, err := client.DialContext(ctx, "tcp", target)
				ended <- err
			}()
			<-asked
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Drop %v, %s: %v, want %v", how, target, err, context.Canceled)
			}
		}
	}
	waitFor(t, "four dropped flows", func() bool { return gateway.Status().Flows.Dropped >= 4 })
}

// fault 67: datagrams of all sizes arrive whole both ways.
func TestFlowUDP(t *testing.T) {
	client, gateway := gatewayPair(t)
	handle(t, gateway, echoBack(t))
	for _, target := range []string{"192.168.1.1:53", "[fd01::1]:53"} {
		c, err := client.DialContext(testContext(t), "udp", target)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1372, 1373, 1392, 1393, 9000, 65_507} {
			message := bytes.Repeat([]byte{byte(size), 1, 2, 3, 4, 5, 6}, size/7+1)[:size]
			if _, err := c.Write(message); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(b)
			if err != nil || !bytes.Equal(b[:n], message) {
				t.Errorf("%s: %d bytes came back as %d, %v", target, size, n, err)
			}
		}
		c.Close()
	}
	if err := gateway.HandleFlows(nil); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, s := range gateway.Sockets() {
		left = append(left, s.String())
	}
	if want := 2; len(left) != want {
		t.Errorf("accepted flows: %q, want %d: they live on without the handler", left, want)
	}
	if err := gateway.Close(); err != nil {
		t.Fatal(err)
	}
	if s := gateway.Status().Flows; s.Open != 0 || s.Undecided != 0 || s.Accepted != 2 {
		t.Errorf("after Close: %s", s)
	}
}

// fault 68: a ping is answered by the handler and by nobody else.
func TestFlowPing(t *testing.T) {
	client, gateway := gatewayPair(t)
	echo := echoBack(t)
	handle(t, gateway, func(f *wgnet.Flow) {
		switch {
		case f.Network() != "ping" || f.Source().Port() != 0 || f.Destination().Port() != 0:
			t.Errorf("%s from %s to %s", f.Network(), f.Source(), f.Destination())
		case slices.Contains([]string{"192.168.1.1", "fd01::1"}, f.Destination().Addr().String()):
			echo(f)
		default:
			f.Refuse(syscall.EHOSTUNREACH)
		}
	})
	for _, host := range []string{"192.168.1.1", "fd01::1"} {
		for range 3 {
			reply, err := client.Ping(testContext(t), host)
			if err != nil || reply.Addr.String() != host {
				t.Errorf("Ping %s: %+v, %v", host, reply, err)
			}
		}
	}
	for _, host := range []string{"192.168.1.2", "fd01::2"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if reply, err := client.Ping(ctx, host); err == nil {
			t.Errorf("Ping %s, which is dead: %+v", host, reply)
		}
		cancel()
	}
	if err := gateway.Close(); err != nil { // ends the handlers
		t.Fatal(err)
	}
}

// The trap of promiscuous mode: a listener of the Net gets no connections that are not meant for the Net, and the Net
// still reaches itself.
func TestFlowsLeaveTheNetAlone(t *testing.T) {
	client, gateway := gatewayPair(t)
	handle(t, gateway, func(f *wgnet.Flow) { f.Refuse(syscall.ECONNREFUSED) })
	l, err := gateway.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
	for _, test := range []struct {
		from   *wgnet.Net
		target string
		ok     bool
	}{
		{client, "192.168.1.123:80", false},
		{client, "[fd01::123]:80", false},
		{client, "10.0.0.2:80", true},
		{client, "[fd00::2]:80", true},
		{gateway, "10.0.0.2:80", true},
		{gateway, "[fd00::2]:80", true},
		{gateway, "localhost:80", true},
	} {
		c, err := test.from.DialContext(testContext(t), "tcp", test.target)
		if test.ok != (err == nil) || err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial %s: %v", test.target, err)
		}
		if err == nil {
			if err := roundTrip(c); err != nil {
				t.Errorf("%s: %v", test.target, err)
			}
			c.Close()
		}
	}
	l.Close()
}

// Without a handler nothing goes anywhere, and the program says why, once.
func TestFlowsWithoutHandler(t *testing.T) {
	var logged syncBuffer
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"client", "gateway"}})
	p := &n.Nodes[0].Config.Peers[0]
	p.AllowedIPs = slices.Concat(p.AllowedIPs, lan)
	n.Nodes[1].Config.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	n.Start()
	client, gateway := n.Nodes[0].Net, n.Nodes[1].Net
	c, err := client.DialContext(testContext(t), "udp", "192.168.1.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "three packets to be counted", func() bool {
		s := gateway.Status()
		return s.Flows.Unhandled == 3 && s.Peers[0].Flows.Unhandled == 3
	})
	waitFor(t, "the log", func() bool { return strings.Contains(logged.String(), "HandleFlows") })
	if s := logged.String(); strings.Count(s, "HandleFlows") != 1 || !strings.Contains(s, "192.168.1.1") {
		t.Errorf("the log says\n%s", s)
	}
}

// One handler at a time, and none after Close.
func TestHandleFlowsTwice(t *testing.T) {
	_, n := wgnettest.Pair(t)
	ignore := func(*wgnet.Flow) {}
	for _, step := range []struct {
		handler func(*wgnet.Flow)
		ok      bool
	}{{nil, true}, {ignore, true}, {ignore, false}, {nil, true}, {nil, true}, {ignore, true}} {
		if err := n.HandleFlows(step.handler); (err == nil) != step.ok {
			t.Errorf("HandleFlows: %v, want success: %v", err, step.ok)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.HandleFlows(ignore); !errors.Is(err, net.ErrClosed) {
		t.Errorf("HandleFlows after Close: %v", err)
	}
}

// fault 19: Close comes while flows are in every state, and from a handler; it returns, and so does what waits.
func TestCloseWithFlows(t *testing.T) {
	for _, own := range []bool{false, true} {
		client, gateway := gatewayPair(t)
		begun := make(chan struct{}, 100)
		handle(t, gateway, func(f *wgnet.Flow) {
			begun <- struct{}{}
			switch f.Destination().Port() {
			case 1:
				<-f.Context().Done()
				if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept after Close: %v", err)
				}
			case 2, 0:
				c, err := f.Accept()
				if err != nil {
					return // Close came first
				}
				if _, err := io.Copy(io.Discard, c); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read after Close: %v", err)
				}
				if _, err := c.Write([]byte("xx")); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Write after Close: %v", err)
				}
				_ = c.Close() // it is closed
			case 3:
				if err := gateway.Close(); err != nil {
					t.Errorf("Close in a handler: %v", err)
				}
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		try := func(network, target string) {
			clients.Go(func() { // ends with ctx
				if network == "ping" {
					_, _ = client.Ping(ctx, target)
					return
				}
				c, err := client.DialContext(ctx, network, target)
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("x"))
				<-ctx.Done()
				c.Close()
			})
		}
		for _, port := range []string{"1", "2"} {
			for _, network := range []string{"tcp", "udp"} {
				try(network, "192.168.1.1:"+port)
				try(network, "[fd01::1]:"+port)
			}
		}
		try("ping", "192.168.1.1")
		try("ping", "fd01::1")
		for range 10 {
			<-begun
		}
		if own {
			try("udp", "192.168.1.1:3")
			<-gateway.Done()
		} else if err := gateway.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		clients.Wait()
	}
}

// A flow ends when its peer goes.
func TestFlowEndsWithPeer(t *testing.T) {
	client, gateway := gatewayPair(t)
	ends := make(chan *wgnet.Flow, 10)
	conns := make(chan net.Conn, 10)
	handle(t, gateway, func(f *wgnet.Flow) {
		if f.Destination().Port() == 1 {
			ends <- f
			<-f.Context().Done()
			return
		}
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		ends <- f
		conns <- c
	})
	for _, target := range []string{"192.168.1.1:1", "192.168.1.1:2"} {
		c, err := client.DialContext(testContext(t), "udp", target)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.DialContext(testContext(t), "tcp", "[fd01::1]:2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	flows := []*wgnet.Flow{<-ends, <-ends, <-ends}
	if err := gateway.RemovePeer(client.PublicKey()); err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		<-f.Context().Done()
		if cause := context.Cause(f.Context()); !errors.Is(cause, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want ECONNRESET", f.Network(), cause)
		}
	}
	for range 2 {
		c := <-conns
		b := make([]byte, 10)
		for {
			if _, err := c.Read(b); err != nil {
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("Read: %v, want ECONNRESET", err)
				}
				break
			}
		}
		c.Close()
	}
}

// syncBuffer is a buffer that may be written to and read at the same time.
type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
