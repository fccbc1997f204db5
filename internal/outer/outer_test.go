// SPDX-License-Identifier: MIT

package outer

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// patience is how long a test waits for what must come. It is generous: machines that test are busy.
const patience = 20 * time.Second

// kinds are the sockets under test: the system's, and the one for any system.
var kinds = []struct {
	name string
	open func(tb testing.TB, cfg Config) *Sockets
}{
	{"system", openSystem},
	{"portable", openPortable},
}

var families = []struct{ name, loopback string }{
	{"IPv4", "127.0.0.1"},
	{"IPv6", "::1"},
}

func openSystem(tb testing.TB, cfg Config) *Sockets {
	tb.Helper()
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func openPortable(tb testing.TB, cfg Config) *Sockets {
	tb.Helper()
	udp, err := listen(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	s := newSockets(newPacketSocket(udp), cfg)
	tb.Cleanup(func() { s.Close() })
	return s
}

// eachKind runs a test for each kind of socket and each family that the host has.
func eachKind(t *testing.T, test func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string)) {
	for _, kind := range kinds {
		for _, family := range families {
			t.Run(kind.name+"/"+family.name, func(t *testing.T) {
				needLoopback(t, family.loopback)
				test(t, kind.open, family.loopback)
			})
		}
	}
}

func needLoopback(t testing.TB, ip string) {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skipf("no %s on this host: %v", ip, err)
	}
	c.Close()
}

// opened is an opened facade.
type opened struct {
	bind    conn.Bind
	receive conn.ReceiveFunc
	bufs    [][]byte
	sizes   []int
	eps     []conn.Endpoint
}

func openBind(tb testing.TB, b conn.Bind) *opened {
	tb.Helper()
	fns, _, err := b.Open(0)
	if err != nil {
		tb.Fatal(err)
	}
	if len(fns) != 1 {
		tb.Fatalf("%d receive functions, want 1", len(fns))
	}
	n := b.BatchSize()
	p := &opened{bind: b, receive: fns[0], sizes: make([]int, n), eps: make([]conn.Endpoint, n)}
	for range n {
		p.bufs = append(p.bufs, make([]byte, 1<<16))
	}
	return p
}

// get receives count datagrams and the endpoint of the last.
func (p *opened) get(tb testing.TB, count int) (got [][]byte, from conn.Endpoint) {
	tb.Helper()
	for len(got) < count {
		n, err := p.receive(p.bufs, p.sizes, p.eps)
		if err != nil {
			tb.Fatalf("after %d of %d datagrams: %v", len(got), count, err)
		}
		for i := range n {
			got = append(got, bytes.Clone(p.bufs[i][:p.sizes[i]]))
			from = p.eps[i]
		}
	}
	return got, from
}

func (p *opened) endpoint(tb testing.TB, ip string, port uint16) conn.Endpoint {
	tb.Helper()
	e, err := p.bind.ParseEndpoint(net.JoinHostPort(ip, strconv.Itoa(int(port))))
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// datagrams makes datagrams of those sizes with bytes that tell them apart.
func datagrams(sizes ...int) [][]byte {
	var out [][]byte
	for i, size := range sizes {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(i + j*7)
		}
		out = append(out, b)
	}
	return out
}

func repeat(n, size int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

func checkEqual(tb testing.TB, got, want [][]byte) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%d datagrams, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			tb.Fatalf("datagram %d of %d: %d bytes, want %d, or other bytes", i, len(want), len(got[i]), len(want[i]))
		}
	}
}

// await fails if the function that closes done does not end.
func await(tb testing.TB, what string, done <-chan error) error {
	tb.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		tb.Fatalf("%s does not return", what)
		return nil
	}
}

func TestBatchesArriveWholeAndInOrder(t *testing.T) {
	batches := []struct {
		name  string
		sizes []int
	}{
		{"one", []int{100}},
		{"equal sizes", repeat(16, 1424)},
		{"a smaller one at the end", append(repeat(15, 1424), 60)},
		{"a smaller one in the middle", []int{1424, 1424, 32, 1424, 1424}},
		{"growing", []int{100, 200, 300, 300, 301}},
		{"more than 64 segments", repeat(70, 40)},
		{"more than 64 KiB", append(repeat(50, 1424), 33)},
		{"two large ones", []int{40_000, 40_000}},
		{"the largest datagram", []int{65_507}},
	}
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		a, b := open(t, Config{}), open(t, Config{})
		pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
		to := pa.endpoint(t, loopback, b.Port())
		for _, batch := range batches {
			t.Run(batch.name, func(t *testing.T) {
				want := datagrams(batch.sizes...)
				if err := pa.bind.Send(want, to); err != nil {
					t.Fatal(err)
				}
				got, from := pb.get(t, len(want))
				checkEqual(t, got, want)
				if want := net.JoinHostPort(loopback, strconv.Itoa(int(a.Port()))); from.DstToString() != want {
					t.Errorf("from %s, want %s", from.DstToString(), want)
				}
			})
		}
	})
}

func TestRandomBatches(t *testing.T) {
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		a, b := open(t, Config{}), open(t, Config{})
		pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
		to := pa.endpoint(t, loopback, b.Port())
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			var sizes []int
			for total := 0; total < 80_000 && len(sizes) < 80; {
				size := []int{1424, 1424, 1424, 1424, 1 + rnd.IntN(1424), 1 + rnd.IntN(64), 1 + rnd.IntN(9000)}[rnd.IntN(7)]
				for range 1 + rnd.IntN(8) {
					sizes = append(sizes, size)
					total += size
				}
			}
			want := datagrams(sizes...)
			if err := pa.bind.Send(want, to); err != nil {
				t.Fatalf("%v: %v", sizes, err)
			}
			got, _ := pb.get(t, len(want))
			checkEqual(t, got, want)
		}
	})
}

// The other side may be upstream's bind, both ways.
func TestAgainstUpstream(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			needLoopback(t, family.loopback)
			s := openSystem(t, Config{})
			ours := openBind(t, s.Bind())
			std := conn.NewStdNetBind()
			fns, port, err := std.Open(0)
			if err != nil {
				t.Fatal(err)
			}
			defer std.Close()
			receive := fns[0]
			if family.name == "IPv6" {
				receive = fns[len(fns)-1]
			}
			want := datagrams(append(repeat(20, 1424), 700, 32, 32)...)
			if err := ours.bind.Send(want, ours.endpoint(t, family.loopback, port)); err != nil {
				t.Fatal(err)
			}
			n := std.BatchSize()
			theirs := &opened{bind: std, receive: receive, sizes: make([]int, n), eps: make([]conn.Endpoint, n)}
			for range n {
				theirs.bufs = append(theirs.bufs, make([]byte, 1<<16))
			}
			var got [][]byte
			for len(got) < len(want) {
				n, err := receive(theirs.bufs, theirs.sizes, theirs.eps)
				if err != nil {
					t.Fatal(err)
				}
				for i, size := range theirs.sizes[:n] {
					if size > 0 {
						got = append(got, bytes.Clone(theirs.bufs[i][:size]))
					}
				}
			}
			checkEqual(t, got, want)
			if err := std.Send(want, theirs.endpoint(t, family.loopback, s.Port())); err != nil {
				t.Fatal(err)
			}
			got, _ = ours.get(t, len(want))
			checkEqual(t, got, want)
		})
	}
}

func TestFacadeCloseLeavesTheSocketsOpen(t *testing.T) {
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		a, b := open(t, Config{}), open(t, Config{})
		pa := openBind(t, a.Bind())
		first, second := b.Bind(), b.Bind()
		if err := first.Close(); err != nil {
			t.Fatalf("closing a facade that is not open: %v", err)
		}
		hello := datagrams(50)
		for round := range 3 {
			for _, facade := range []conn.Bind{first, second, second} {
				pb := openBind(t, facade)
				if _, _, err := b.Bind().Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
					t.Fatalf("opening a second facade meanwhile: %v", err)
				}
				if err := pa.bind.Send(hello, pa.endpoint(t, loopback, b.Port())); err != nil {
					t.Fatal(err)
				}
				got, from := pb.get(t, 1)
				checkEqual(t, got, hello)

				ended := make(chan error)
				// Ends with the Close that follows.
				go func() {
					_, err := pb.receive(pb.bufs, pb.sizes, pb.eps)
					ended <- err
				}()
				if err := facade.Close(); err != nil {
					t.Fatal(err)
				}
				if round == 0 { // otherwise the next facade takes over while this one may still be in receive
					if err := await(t, "receive", ended); !errors.Is(err, net.ErrClosed) {
						t.Fatalf("receive after Close: %v", err)
					}
				} else {
					defer func() {
						if err := await(t, "receive", ended); !errors.Is(err, net.ErrClosed) {
							t.Errorf("receive after Close: %v", err)
						}
					}()
				}
				if _, err := pb.receive(pb.bufs, pb.sizes, pb.eps); !errors.Is(err, net.ErrClosed) {
					t.Fatalf("another receive after Close: %v", err)
				}
				if err := facade.Send(hello, from); !errors.Is(err, net.ErrClosed) {
					t.Fatalf("Send after Close: %v", err)
				}
				if err := facade.Close(); err != nil {
					t.Fatalf("second Close: %v", err)
				}
			}
		}
		if _, port, err := first.Open(b.Port() + 1); err != nil || port != b.Port() {
			t.Errorf("Open with another port: %d, %v; want %d", port, err, b.Port())
		}
	})
}

func TestCloseEndsReceive(t *testing.T) {
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		s := open(t, Config{})
		facade := s.Bind()
		p := openBind(t, facade)
		ended := make(chan error)
		// Ends with the Close that follows.
		go func() {
			_, err := p.receive(p.bufs, p.sizes, p.eps)
			ended <- err
		}()
		var wg sync.WaitGroup
		for range 4 { // fault 19
			wg.Go(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
		}
		wg.Wait()
		if err := await(t, "receive", ended); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive: %v", err)
		}
		if err := facade.Send(datagrams(9), p.endpoint(t, loopback, 9)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Send: %v", err)
		}
		if err := facade.Close(); err != nil {
			t.Errorf("facade's Close: %v", err)
		}
		if _, _, err := facade.Open(0); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Open: %v", err)
		}
		if err := facade.SetMark(1); !errors.Is(err, net.ErrClosed) && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("SetMark: %v", err)
		}
		// The port is free again.
		open(t, Config{Port: s.Port()})
	})
}

// stuckConn is a packet conn without room in its send buffer, and with errors to receive.
type stuckConn struct {
	net.PacketConn
	sending chan struct{} // gets one for each WriteTo that begins to wait
	wake    chan struct{} // closed by a deadline in the past or Close, and renewed by a later deadline
	mu      sync.Mutex    // guards wake, closed and receive
	closed  bool
	receive []error // what ReadFrom answers, one after the other
}

func newStuckConn(t *testing.T) *stuckConn {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &stuckConn{PacketConn: c, sending: make(chan struct{}, 100), wake: make(chan struct{})}
}

func (c *stuckConn) WriteTo([]byte, net.Addr) (int, error) {
	c.mu.Lock()
	wake := c.wake
	c.mu.Unlock()
	c.sending <- struct{}{}
	<-wake
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return 0, os.ErrDeadlineExceeded
}

func (c *stuckConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	if len(c.receive) > 0 {
		err := c.receive[0]
		c.receive = c.receive[1:]
		c.mu.Unlock()
		return 0, nil, err
	}
	c.mu.Unlock()
	return c.PacketConn.ReadFrom(b)
}

func (c *stuckConn) SetWriteDeadline(d time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Before(time.Now()) {
		c.wakeLocked()
	} else if !c.closed {
		c.wake = make(chan struct{})
	}
	return nil
}

func (c *stuckConn) wakeLocked() {
	select {
	case <-c.wake:
	default:
		close(c.wake)
	}
}

func (c *stuckConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.wakeLocked()
	c.mu.Unlock()
	return c.PacketConn.Close()
}

// A device that is closed waits for its sends: fault 19, fault 20.
func TestCloseEndsBlockedSendPortable(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			pc := newStuckConn(t)
			s := newSockets(newPacketSocket(pc), Config{})
			defer s.Close()
			checkBlockedSend(t, s, pc.sending, whole)
		})
	}
}

// checkBlockedSend begins a Send, waits until sending says that it waits, and closes the facade or the Sockets.
func checkBlockedSend(t *testing.T, s *Sockets, sending <-chan struct{}, whole bool) {
	t.Helper()
	p := openBind(t, s.Bind())
	to := p.endpoint(t, "127.0.0.1", 9)
	ended := make(chan error, 1)
	// Ends with the Close that follows.
	go func() { ended <- p.bind.Send(datagrams(100, 100), to) }()
	select {
	case <-sending:
	case <-time.After(patience):
		t.Fatal("Send does not send")
	}
	var err error
	if whole {
		err = s.Close()
	} else {
		err = p.bind.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, "Send", ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send: %v, want net.ErrClosed", err)
	}
}

func TestReceiveSurvivesErrors(t *testing.T) {
	var log lockedBuffer
	pc := newStuckConn(t)
	for range 50 {
		pc.receive = append(pc.receive, fmt.Errorf("read: %w", syscall.ECONNREFUSED))
	}
	pc.receive = append(pc.receive, errors.New("something unheard of"), errors.New("again"))
	s := newSockets(newPacketSocket(pc), Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer s.Close()
	p := openBind(t, s.Bind())
	other := openBind(t, openPortable(t, Config{}).Bind())
	want := datagrams(77)
	if err := other.bind.Send(want, other.endpoint(t, "127.0.0.1", s.Port())); err != nil {
		t.Fatal(err)
	}
	got, _ := p.get(t, 1)
	checkEqual(t, got, want)
	// fault 71
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d log lines, want 1:\n%s", n, log.String())
	}
}

func TestCloseEndsBackOff(t *testing.T) {
	pc := newStuckConn(t)
	for range 100 { // more than a minute of back-off
		pc.receive = append(pc.receive, errors.New("network is down"))
	}
	s := newSockets(newPacketSocket(pc), Config{})
	p := openBind(t, s.Bind())
	ended := make(chan error, 1)
	// Ends with the Close that follows.
	go func() {
		_, err := p.receive(p.bufs, p.sizes, p.eps)
		ended <- err
	}()
	s.Close()
	if err := await(t, "receive", ended); !errors.Is(err, net.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
}

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestOpenTakenPort(t *testing.T) {
	s := openSystem(t, Config{})
	_, err := Open(Config{Port: s.Port()})
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), strconv.Itoa(int(s.Port()))) {
		t.Errorf("dual stack: %v, want EADDRINUSE that names port %d", err, s.Port())
	}
	// Somebody has it for IPv4 alone.
	c, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := Open(Config{Port: localPort(c)}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("IPv4: %v, want EADDRINUSE", err)
	}
}

// fault 23: a host without IPv6, and one without IPv4.
func TestHostWithOneFamily(t *testing.T) {
	for _, c := range []struct{ missing, ip, other string }{
		{"udp6", "127.0.0.1", "::1"},
		{"udp4", "::1", ""}, // one socket carries both: it is not asked about IPv4
	} {
		t.Run("without "+c.missing, func(t *testing.T) {
			needLoopback(t, c.ip)
			var networks []string
			cfg := Config{Control: func(network, _ string, _ syscall.RawConn) error {
				networks = append(networks, network)
				if network == c.missing {
					return syscall.EAFNOSUPPORT
				}
				return nil
			}}
			for _, kind := range kinds {
				a, b := kind.open(t, cfg), kind.open(t, cfg)
				pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
				want := datagrams(1424, 1424, 20)
				if err := pa.bind.Send(want, pa.endpoint(t, c.ip, b.Port())); err != nil {
					t.Fatal(err)
				}
				got, from := pb.get(t, len(want))
				checkEqual(t, got, want)
				if err := pb.bind.Send(want, from); err != nil {
					t.Fatal(err)
				}
				got, _ = pa.get(t, len(want))
				checkEqual(t, got, want)
				if c.other != "" {
					if err := pa.bind.Send(want, pa.endpoint(t, c.other, b.Port())); err == nil {
						t.Errorf("%s: Send to %s succeeds without %s", kind.name, c.other, c.missing)
					}
				}
			}
			for _, network := range networks {
				if network != "udp4" && network != "udp6" {
					t.Errorf("Control is called with network %q", network)
				}
			}
		})
	}
}

func TestControlError(t *testing.T) {
	want := errors.New("not on my machine")
	_, err := Open(Config{Control: func(string, string, syscall.RawConn) error { return want }})
	if !errors.Is(err, want) {
		t.Errorf("Open: %v, want the hook's error", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	b := openSystem(t, Config{}).Bind()
	for _, c := range []struct{ in, want string }{
		{"127.0.0.1:51820", "127.0.0.1:51820"},
		{"[::1]:51820", "[::1]:51820"},
		{"[::ffff:10.1.2.3]:1", "10.1.2.3:1"},
		{"[fe80::1%eth9]:51820", "[fe80::1%eth9]:51820"},
		{"[fe80::1%3]:51820", "[fe80::1%3]:51820"},
		{"example.com:51820", ""},
		{"127.0.0.1", ""},
		{":51820", ""},
		{"", ""},
	} {
		e, err := b.ParseEndpoint(c.in)
		if (err == nil) != (c.want != "") {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if err != nil {
			continue
		}
		if e.DstToString() != c.want {
			t.Errorf("%q: %s, want %s", c.in, e.DstToString(), c.want)
		}
		if e.SrcIP().IsValid() || e.SrcToString() != "" {
			t.Errorf("%q: has a source %s", c.in, e.SrcToString())
		}
		var ap netip.AddrPort
		if err := ap.UnmarshalBinary(e.DstToBytes()); err != nil || ap.Addr() != e.DstIP() {
			t.Errorf("%q: bytes of %v, %v", c.in, ap, err)
		}
	}
}

func TestNoEndpoint(t *testing.T) {
	p := openBind(t, openSystem(t, Config{}).Bind())
	e, err := p.bind.ParseEndpoint(NoEndpoint)
	if err != nil || e.DstToString() != NoEndpoint || e.DstIP().IsValid() {
		t.Fatalf("got %v, %v", e, err)
	}
	if err := p.bind.Send(datagrams(1), e); err == nil {
		t.Error("something was sent to no address")
	}
}

func TestWrongEndpointType(t *testing.T) {
	p := openBind(t, openSystem(t, Config{}).Bind())
	if err := p.bind.Send(datagrams(1), &conn.StdNetEndpoint{}); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("Send: %v", err)
	}
}

func TestSendToUnknownZone(t *testing.T) {
	p := openBind(t, openSystem(t, Config{}).Bind())
	err := p.bind.Send(datagrams(1), p.endpoint(t, "fe80::1%nosuchif0", 9))
	if err == nil {
		t.Fatal("Send succeeds")
	}
}

func TestEndpointCache(t *testing.T) {
	var c endpointCache
	key := func(port uint16) endpointKey {
		return endpointKey{dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), src: netip.MustParseAddr("10.0.0.2")}
	}
	a := c.get(key(1))
	c.get(key(2))
	if c.get(key(1)) != a {
		t.Error("a second endpoint for the same addresses")
	}
	a.path.refuse(1424, 0)
	a.ClearSrc()
	if a.SrcIP().IsValid() {
		t.Error("source after ClearSrc")
	}
	b := c.get(key(1))
	if b == a || !b.SrcIP().IsValid() {
		t.Error("a datagram after ClearSrc brings no source")
	}
	if b.path.segmentable(1424) {
		t.Error("what is known of the path is forgotten")
	}
	for port := range uint16(3 * maxCachedEndpoints / 2) {
		c.get(key(port))
	}
	if len(c.known) > maxCachedEndpoints {
		t.Errorf("%d endpoints cached, want at most %d", len(c.known), maxCachedEndpoints)
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	if _, ok := a.sock().socket.(*packetSocket); ok {
		t.Skip("net.UDPConn may allocate on this system")
	}
	pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
	to := pa.endpoint(t, "127.0.0.1", b.Port())
	for _, count := range []int{1, 15, 16, 20} {
		batch := datagrams(append(repeat(count-1, 1424), 80)...)
		allocs := testing.AllocsPerRun(200, func() {
			if err := pa.bind.Send(batch, to); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < len(batch); {
				n, err := pb.receive(pb.bufs, pb.sizes, pb.eps)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		})
		if allocs != 0 {
			t.Errorf("%v allocations for %d datagrams, want 0", allocs, len(batch))
		}
	}
}
