// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"weak"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// cycles is how often TestCloseUnderLoad closes a Net with each kind of peer. For the long run:
//
//	go test ./wgnet -run TestCloseUnderLoad -cycles 10000 -timeout 0
var cycles = flag.Int("cycles", defaultCycles, "closes under load with each kind of peer")

// soon bounds what has to end within a second (fault 20). The race detector and a busy machine get their share.
const soon = 5 * time.Second

func TestHTTP(t *testing.T) {
	a, b := newPair(t)
	for _, c := range []struct {
		name           string
		client, server *wgnet.Net
		hosts          []string
	}{
		{"from who knows the endpoint", a, b, []string{"10.0.0.2", "[fd00::2]", "b"}},
		{"from who does not", b, a, []string{"10.0.0.1", "[fd00::1]", "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, port := listen(t, c.server, ":0")
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, "hello, wireguard")
			})}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(l) }() // ends with srv.Close
			client := &http.Client{Transport: &http.Transport{DialContext: c.client.DialContext}}
			for _, host := range c.hosts {
				resp, err := client.Get("http://" + host + ":" + port)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err := errors.Join(err, resp.Body.Close()); err != nil {
					t.Fatal(err)
				}
				if string(body) != "hello, wireguard\n" {
					t.Errorf("%s: got %q", host, body)
				}
			}
			client.CloseIdleConnections()
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
}

func TestAccessors(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64", "192.0.2.1/32")
	want := slices.Clone(cfg.Addresses)
	n := newNet(t, cfg)
	cfg.Addresses[0] = netip.Prefix{} // a Net has a config of its own
	if got := n.Addresses(); !slices.Equal(got, want) {
		t.Errorf("Addresses: %v", got)
	}
	n.Addresses()[0] = netip.Prefix{}
	if got := n.Addresses(); !slices.Equal(got, want) {
		t.Errorf("Addresses after a change of the result: %v", got)
	}
	if n.PublicKey() != cfg.PrivateKey.Public() || n.MTU() != wgnet.DefaultMTU || n.ListenPort() == 0 {
		t.Errorf("key %v, MTU %d, port %d", n.PublicKey(), n.MTU(), n.ListenPort())
	}
	cfg = newConfig("10.0.0.1/24")
	cfg.MTU = 9000
	if n := newNet(t, cfg); n.MTU() != 9000 {
		t.Errorf("MTU: %d", n.MTU())
	}
	select {
	case <-n.Done():
		t.Error("Done before Close")
	default:
	}
	closeNet(t, n)
	<-n.Done()
}

// fault 21: no goroutine, no socket.
func TestNewFails(t *testing.T) {
	taken, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	refused := errors.New("refused by Control")
	port := newConfig("10.0.0.1/24")
	port.ListenPort = taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	control := newConfig("10.0.0.1/24")
	control.Control = func(string, string, syscall.RawConn) error { return refused }
	for _, c := range []struct {
		name string
		cfg  *wgnet.Config
		is   error
		text string
	}{
		{"nil", nil, nil, "wgnet: New: the config is nil"},
		{"empty", &wgnet.Config{}, nil, "wgnet: config: [Interface] PrivateKey: missing"},
		{"port taken", port, syscall.EADDRINUSE, fmt.Sprintf("wgnet: New: UDP port %d is taken by another program", port.ListenPort)},
		{"Control", control, refused, "wgnet: New: open UDP port 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sockets := openSockets(t)
			for range 10 {
				n, err := wgnet.New(c.cfg)
				if n != nil || err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.HasPrefix(err.Error(), c.text) {
					t.Fatalf("got %v, %v", n, err)
				}
			}
			checkLeaks(t)
			if now := openSockets(t); now > sockets {
				t.Errorf("%d sockets before, %d after", sockets, now)
			}
		})
	}
}

// Faults 18 and 20: Close while TCP and UDP flood in both directions, by turns on this side, on the other, and on both.
func TestCloseUnderLoad(t *testing.T) {
	t.Run("Net", func(t *testing.T) {
		sockets := openSockets(t)
		before := heapInUse()
		for i := range *cycles {
			a, b, err := startPair()
			if err != nil {
				t.Fatal(err)
			}
			closeUnderLoad(t, i, a, floodEnd{b.Listen, b.ListenPacket, b.Close})
			collect(i)
		}
		checkLeaks(t)
		if now := heapInUse(); now > before+64<<20 {
			t.Errorf("%d MiB of heap before, %d after", before>>20, now>>20)
		}
		if now := openSockets(t); now > sockets {
			t.Errorf("%d sockets before, %d after", sockets, now)
		}
	})
	t.Run("upstream", func(t *testing.T) {
		for i := range *cycles {
			up, err := testpeer.Start(testpeer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			cfg := newConfig("10.0.0.1/24", "fd00::1/64")
			if err := befriend(cfg, up); err != nil {
				t.Fatal(err)
			}
			n, err := wgnet.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			closeUnderLoad(t, i, n, floodEnd{
				func(_, address string) (net.Listener, error) { return up.Listen(address) },
				func(_, address string) (net.PacketConn, error) { return up.ListenUDP(address) },
				up.Close,
			})
			collect(i)
		}
		checkLeaks(t)
	})
}

// collect helps the garbage collector. Some 30 MiB of packets are in a device's queues and pools when it is closed under
// load, and survive three collections: finalizers empty the queues into the pools, which live twice. The heap's limit
// doubles with what is alive, so left to itself it would grow without bound.
func collect(cycle int) {
	if cycle%4 == 3 {
		runtime.GC()
	}
}

// heapInUse is the size of what is alive after all finalizers and pools have had their turn.
func heapInUse() uint64 {
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// floodEnd is the passive end of a flood, at 10.0.0.2.
type floodEnd struct {
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	close        func() error
}

func closeUnderLoad(t *testing.T, turn int, n *wgnet.Net, end floodEnd) {
	t.Helper()
	l, err := end.listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := end.listenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := n.DialContext(testContext(t), "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	udp, err := n.Dial("udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}

	// One reader and one writer for each end of each connection, until an error. A flow that has not moved is told by
	// the reader's silence.
	var flows sync.WaitGroup
	var moved [4]chan struct{}
	for i := range moved {
		moved[i] = make(chan struct{})
	}
	read := func(flow int, read func([]byte) error) {
		flows.Go(func() { // Close of either Net ends it, or the one of the connection below
			buf := make([]byte, 1<<16)
			for err := read(buf); err == nil; err = read(buf) {
				if moved[flow] != nil {
					close(moved[flow])
					moved[flow] = nil
				}
			}
		})
	}
	write := func(size int, write func([]byte) error) {
		flows.Go(func() { // ended as a reader is
			buf := make([]byte, size)
			for write(buf) == nil {
			}
		})
	}
	ready := slices.Clone(moved[:])
	both := func(flow int, c net.Conn, size int) {
		read(flow, func(b []byte) error { _, err := c.Read(b); return err })
		write(size, func(b []byte) error { _, err := c.Write(b); return err })
	}
	both(0, tcp, 1<<15)
	both(1, accepted, 1<<15)
	both(2, udp, 1200)
	from := make(chan net.Addr, 1)
	read(3, func(b []byte) error {
		_, addr, err := pc.ReadFrom(b)
		select {
		case from <- addr:
		default:
		}
		return err
	})
	flows.Go(func() { // ended as a reader is
		addr := <-from
		buf := make([]byte, 1200)
		for addr != nil {
			if _, err := pc.WriteTo(buf, addr); err != nil {
				return
			}
		}
	})
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for i, c := range ready {
		select {
		case <-c:
		case <-limit.C:
			t.Fatalf("flow %d does not move", i)
		}
	}

	closeHere := func() {
		start := time.Now()
		closeNet(t, n)
		if took := time.Since(start); took > soon {
			t.Errorf("Close took %v", took)
		}
	}
	closeThere := func() {
		if err := end.close(); err != nil {
			t.Error(err)
		}
	}
	switch turn % 3 {
	case 0:
		closeHere()
		closeThere()
	case 1:
		closeThere()
		closeHere()
	case 2:
		var closing sync.WaitGroup
		closing.Go(closeHere)
		closing.Go(closeThere)
		closing.Wait()
	}
	for _, c := range []io.Closer{tcp, accepted, udp, pc, l} {
		_ = c.Close() // those of a closed Net say so; upstream's need it
	}
	flows.Wait()
}

// A closed Net is garbage, and all of it: what was in its queues is a lot.
func TestCloseFreesMemory(t *testing.T) {
	n := freed(t)
	waitFor(t, "the Net to be collected", func() bool {
		runtime.GC()
		return n.Value() == nil
	})
}

func freed(t *testing.T) weak.Pointer[wgnet.Net] {
	a, b, err := startPair()
	if err != nil {
		t.Fatal(err)
	}
	closeUnderLoad(t, 0, a, floodEnd{b.Listen, b.ListenPacket, b.Close})
	return weak.Make(a)
}

// BenchmarkNewClose is a Net's life without traffic.
func BenchmarkNewClose(b *testing.B) {
	for b.Loop() {
		n, err := wgnet.New(newConfig("10.0.0.1/24"))
		if err != nil {
			b.Fatal(err)
		}
		closeNet(b, n)
	}
}

// fault 19: whatever waits ends with net.ErrClosed, in the moment that the Net is closed.
func TestCloseEndsWaits(t *testing.T) {
	// A peer that never answers at one address, and one that does at 10.0.0.2.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silentKey := wgnet.NewPrivateKey().Public()

	for _, c := range []struct {
		name string
		in   string // a function that the wait is in
		wait func(t *testing.T, n *wgnet.Net) error
	}{
		{"Dial", ".dialTCP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "10.0.0.3:80")
			return err
		}},
		{"Dial of two addresses", ".dialTCP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "silent:80")
			return err
		}},
		{"Dial of a name", ".LookupNetIP", func(_ *testing.T, n *wgnet.Net) error {
			_, err := n.Dial("tcp", "db.example:80")
			return err
		}},
		{"Ping", ".ping", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.Ping(testContext(t), "10.0.0.3")
			return err
		}},
		{"WaitPeer", ".waitPeer", func(t *testing.T, n *wgnet.Net) error {
			return n.WaitPeer(testContext(t), silentKey)
		}},
		{"LookupHost", ".LookupNetIP", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.LookupHost(testContext(t), "db.example")
			return err
		}},
		{"LookupTXT", ".LookupTXT", func(t *testing.T, n *wgnet.Net) error {
			_, err := n.LookupTXT(testContext(t), "db.example")
			return err
		}},
		{"LookupSRV", ".LookupSRV", func(t *testing.T, n *wgnet.Net) error {
			_, _, err := n.LookupSRV(testContext(t), "sip", "tcp", "db.example")
			return err
		}},
		{"Accept", ".AcceptTCP", func(_ *testing.T, n *wgnet.Net) error {
			l, err := n.Listen("tcp", ":80")
			if err != nil {
				return err
			}
			_, err = l.Accept()
			return err
		}},
		{"ReadFrom", ".ReadFrom", func(_ *testing.T, n *wgnet.Net) error {
			pc, err := n.ListenPacket("udp", ":80")
			if err != nil {
				return err
			}
			_, _, err = pc.ReadFrom(make([]byte, 9))
			return err
		}},
		{"Read", ".(*TCPConn).Read", func(_ *testing.T, n *wgnet.Net) error {
			c, err := n.Dial("tcp", "10.0.0.2:7")
			if err != nil {
				return err
			}
			_, err = c.Read(make([]byte, 9))
			return err
		}},
		{"fault 20: Write to a stalled reader", ".(*socket).await", func(_ *testing.T, n *wgnet.Net) error {
			c, err := n.Dial("tcp", "10.0.0.2:7")
			if err != nil {
				return err
			}
			_, err = c.Write(make([]byte, 64<<20))
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, up := newUpstream(t, func(cfg *wgnet.Config) {
				addPeer(cfg, "silent", silentKey, silent.LocalAddr().String(), "10.0.0.3/32", "fd00::3/128")
				cfg.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.3")}
			})
			l, err := up.Listen(":7") // whose connections nobody reads from
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			failed := make(chan error, 1)
			go func() { failed <- c.wait(t, n) }() // Close ends it
			waitFor(t, "the call to wait", func() bool { return hasGoroutine(c.in) })
			start := time.Now()
			var closing sync.WaitGroup
			for range 8 { // from many goroutines
				closing.Go(func() { closeNet(t, n) })
			}
			closing.Wait()
			if err := <-failed; !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took > soon {
				t.Errorf("it took %v", took)
			}
			closeNet(t, n) // once more
			if err := up.Close(); err != nil {
				t.Error(err)
			}
			checkLeaks(t)
		})
	}
}

// fault 28: every method of a closed Net, and of what came from it.
func TestClosed(t *testing.T) {
	a, b := newPair(t)
	l, port := listen(t, b, ":0")
	c, err := a.Dial("tcp", "b:"+port)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	udp, err := a.Dial("udp", "b:9")
	if err != nil {
		t.Fatal(err)
	}
	pc, _ := listenPacket(t, a, ":0")
	closeNet(t, a)
	closeNet(t, b)

	ctx, buf := testContext(t), make([]byte, 9)
	checks := map[string]func() error{
		"Dial":                   func() error { _, err := a.Dial("tcp", "10.0.0.2:80"); return err },
		"Dial UDP":               func() error { _, err := a.Dial("udp", "10.0.0.2:80"); return err },
		"Dial a peer's name":     func() error { _, err := a.Dial("tcp", "b:80"); return err },
		"Dial an unknown name":   func() error { _, err := a.Dial("tcp", "unknown:80"); return err },
		"Dial localhost":         func() error { _, err := a.Dial("tcp", "localhost:80"); return err },
		"Dial without a host":    func() error { _, err := a.Dial("tcp", ":80"); return err },
		"Dial without a route":   func() error { _, err := a.Dial("tcp", "10.9.9.9:80"); return err },
		"Dial with a Dialer":     func() error { _, err := (&wgnet.Dialer{Net: a}).Dial("tcp", "10.0.0.2:80"); return err },
		"Dial from the passive":  func() error { _, err := b.Dial("tcp", "10.0.0.1:80"); return err },
		"Listen":                 func() error { _, err := a.Listen("tcp", ":0"); return err },
		"ListenPacket":           func() error { _, err := a.ListenPacket("udp", ":0"); return err },
		"Ping":                   func() error { _, err := a.Ping(ctx, "10.0.0.2"); return err },
		"Ping a name":            func() error { _, err := a.Ping(ctx, "b"); return err },
		"Ping from the passive":  func() error { _, err := b.Ping(ctx, "10.0.0.1"); return err },
		"WaitPeer":               func() error { return a.WaitPeer(ctx, b.PublicKey()) },
		"WaitPeer of a stranger": func() error { return a.WaitPeer(ctx, a.PublicKey()) },
		"LookupHost":             func() error { _, err := a.LookupHost(ctx, "unknown"); return err },
		"LookupHost of a peer":   func() error { _, err := a.LookupHost(ctx, "b"); return err },
		"LookupNetIP":            func() error { _, err := a.LookupNetIP(ctx, "ip4", "localhost"); return err },
		"LookupTXT":              func() error { _, err := a.LookupTXT(ctx, "unknown"); return err },
		"LookupSRV":              func() error { _, _, err := a.LookupSRV(ctx, "x", "tcp", "unknown"); return err },
		"Accept":                 func() error { _, err := l.Accept(); return err },
		"listener.SetDeadline":   func() error { return l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Time{}) },
		"PacketConn.ReadFrom":    func() error { _, _, err := pc.ReadFrom(buf); return err },
		"PacketConn.WriteTo": func() error {
			_, err := pc.WriteTo(buf, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 9})
			return err
		},
		"PacketConn.SetDeadline": func() error { return pc.SetDeadline(time.Time{}) },
	}
	for name, c := range map[string]net.Conn{"dialed": c, "accepted": accepted, "UDP": udp} {
		checks[name+" Read"] = func() error { _, err := c.Read(buf); return err }
		checks[name+" Read of nothing"] = func() error { _, err := c.Read(nil); return err }
		checks[name+" Write"] = func() error { _, err := c.Write(buf); return err }
		checks[name+" SetDeadline"] = func() error { return c.SetDeadline(time.Time{}) }
		checks[name+" SetReadDeadline"] = func() error { return c.SetReadDeadline(time.Time{}) }
		checks[name+" SetWriteDeadline"] = func() error { return c.SetWriteDeadline(time.Time{}) }
		checks[name+" SetReadBuffer"] = func() error {
			return c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(1 << 16)
		}
	}
	for name, c := range map[string]net.Conn{"dialed": c, "accepted": accepted} {
		checks[name+" CloseWrite"] = func() error { return c.(interface{ CloseWrite() error }).CloseWrite() }
		checks[name+" CloseRead"] = func() error { return c.(interface{ CloseRead() error }).CloseRead() }
	}
	for name, check := range checks {
		if err := check(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if b.ListenPort() == 0 || b.MTU() == 0 || len(b.Addresses()) != 2 || b.PublicKey().IsZero() {
		t.Error("a closed Net has forgotten who it was")
	}
	if c.LocalAddr() == nil || c.RemoteAddr() == nil || l.Addr() == nil {
		t.Error("a closed connection has forgotten its addresses")
	}
}

// fault 19: from inside of a handler.
func TestCloseFromHandler(t *testing.T) {
	a, b := newPair(t)
	l, port := listen(t, b, ":0")
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { closeNet(t, b) })}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }() // the handler ends it
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://b:"+port, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() { // cancel ends it
		defer close(asked)
		client := http.Client{Transport: &http.Transport{DialContext: a.DialContext, DisableKeepAlives: true}}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			t.Error("an answer from a Net that was closed")
		}
	}()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	<-b.Done()
	cancel()
	<-asked
	if err := srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	closeNet(t, a)
	checkLeaks(t)
}

// fault 19: from inside of ResolveEndpoint, and while it waits.
func TestCloseFromResolveEndpoint(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	made := make(chan *wgnet.Net, 1)
	returned := make(chan error, 1)
	cfg.ResolveEndpoint = func(ctx context.Context, host string) ([]netip.Addr, error) {
		n := <-made
		err := n.Close()
		if err == nil && ctx.Err() == nil {
			err = errors.New("the context of a closed Net is not done")
		}
		returned <- err
		return nil, err
	}
	addPeer(cfg, "b", wgnet.NewPrivateKey().Public(), "vpn.example:51820", "10.0.0.2/32")
	n := newNet(t, cfg)
	made <- n
	if err := <-returned; err != nil {
		t.Error(err)
	}
	<-n.Done()

	// A resolver that ignores its context keeps nobody.
	cfg.ResolveEndpoint = func(context.Context, string) ([]netip.Addr, error) {
		<-made
		return nil, errors.New("too late")
	}
	n = newNet(t, cfg)
	closeNet(t, n)
	close(made)
	checkLeaks(t)
}

// fault 19: a handler of the log may begin a Close, if it does not wait for it.
func TestCloseFromLogger(t *testing.T) {
	made := make(chan *wgnet.Net, 1)
	var once sync.Once
	cfg := newConfig("10.0.0.1/24")
	cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte("Sending handshake initiation")) {
			once.Do(func() {
				go func() { closeNet(t, <-made) }() // ends with Close, for which the test waits
			})
		}
		return len(b), nil
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	addPeer(cfg, "silent", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.2/32")
	n, err := wgnet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	made <- n
	select {
	case <-n.Done():
	case <-testContext(t).Done():
		t.Error("not closed")
	}
	checkLeaks(t)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// fault 20: Close while the outer socket's send buffer is full.
func TestCloseWithBlockedSend(t *testing.T) {
	hole := blackHole(t)
	cfg := newConfig("10.0.0.1/24")
	cfg.Control = smallSendBuffer
	for i := range 64 {
		addPeer(cfg, "", wgnet.NewPrivateKey().Public(), hole, fmt.Sprintf("10.0.1.%d/32", i))
	}
	n := newNet(t, cfg)
	limit := time.NewTimer(2 * time.Second)
	defer limit.Stop()
	for tick := time.NewTicker(time.Millisecond); !hasGoroutine("(*linuxSocket).wait("); {
		defer tick.Stop()
		select {
		case <-tick.C:
		case <-limit.C:
			t.Skip("sending to ", hole, " does not block here")
		}
	}
	start := time.Now()
	closeNet(t, n)
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	checkLeaks(t)
}

// fault 19: dozens of Nets at once, closed while they greet one another.
func TestManyNets(t *testing.T) {
	var lives sync.WaitGroup
	for i := range 24 {
		lives.Go(func() {
			for j := range 3 {
				a, b, err := startPair()
				if err != nil {
					t.Error(err)
					return
				}
				if (i+j)%2 == 0 {
					if err := b.WaitPeer(testContext(t), a.PublicKey()); err != nil {
						t.Error(err)
					}
				}
				lives.Go(func() { closeNet(t, a) })
				closeNet(t, b)
			}
		})
	}
	lives.Wait()
	checkLeaks(t)
}

// Close is not something to warn about, not even under load.
func TestCloseIsQuiet(t *testing.T) {
	var mu sync.Mutex // guards log
	var log bytes.Buffer
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}), nil))
	})
	closeUnderLoad(t, 0, n, floodEnd{
		func(_, address string) (net.Listener, error) { return up.Listen(address) },
		func(_, address string) (net.PacketConn, error) { return up.ListenUDP(address) },
		up.Close,
	})
	mu.Lock()
	defer mu.Unlock()
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}
