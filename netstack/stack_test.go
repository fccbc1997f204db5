// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/internal/nettests"
	"example.com/wgnet/netstack"
)

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// fault 9, fault 21: what is refused leaves no goroutine.
func TestNewRefuses(t *testing.T) {
	checkGoroutines(t)
	tests := []struct {
		name string
		cfg  netstack.Config
		want string
	}{
		{"no address", netstack.Config{}, "no address"},
		{"zero prefix", netstack.Config{Addresses: make([]netip.Prefix, 1)}, "not valid"},
		{"unspecified", netstack.Config{Addresses: prefixes("0.0.0.0/0")}, "0.0.0.0/0"},
		{"unspecified IPv6", netstack.Config{Addresses: prefixes("::/64")}, "::/64"},
		{"multicast", netstack.Config{Addresses: prefixes("224.0.0.5/24")}, "224.0.0.5/24"},
		{"multicast IPv6", netstack.Config{Addresses: prefixes("ff02::5/64")}, "ff02::5/64"},
		{"loopback", netstack.Config{Addresses: prefixes("127.0.0.1/8")}, "127.0.0.1/8"},
		{"loopback IPv6", netstack.Config{Addresses: prefixes("::1/128")}, "::1/128"},
		{"broadcast", netstack.Config{Addresses: prefixes("255.255.255.255/32")}, "255.255.255.255/32"},
		{"4-in-6", netstack.Config{Addresses: prefixes("::ffff:10.0.0.1/128")}, "::ffff:10.0.0.1/128"},
		{"twice", netstack.Config{Addresses: prefixes("10.0.0.1/24", "10.0.0.1/32")}, "10.0.0.1/32"},
		{"negative MTU", netstack.Config{Addresses: prefixes("10.0.0.1/24"), MTU: -1}, "MTU -1, want 576 to 65475"},
		{"small MTU", netstack.Config{Addresses: prefixes("10.0.0.1/24"), MTU: 575}, "MTU 575, want 576"},
		{"small MTU for IPv6", netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), MTU: 1279}, "MTU 1279, want 1280"},
		{"large MTU", netstack.Config{Addresses: prefixes("10.0.0.1/24"), MTU: 65_476}, "MTU 65476"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := netstack.New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "netstack: ") {
				t.Errorf("error %v, want one that says %q", err, test.want)
			}
			if s != nil {
				t.Error("a stack with an error")
			}
		})
	}
}

func TestMTU(t *testing.T) {
	for _, mtu := range []int{0, netstack.MinMTU6, 1500, netstack.MaxMTU} {
		a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64"), MTU: mtu})
		b := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.2/24", "fd00::2/64"), MTU: mtu})
		join(t, a, b)
		want := mtu
		if want == 0 {
			want = netstack.DefaultMTU
		}
		if got, err := a.Device().MTU(); got != want || err != nil {
			t.Errorf("MTU %d, %v; want %d", got, err, want)
		}
		for _, dst := range []netip.Addr{addrB4, addrB6} {
			c, s := tcpPair(t, a, b, dst)
			const size = 1 << 20
			go func() { // ends with the connection, which the read below needs whole
				_, _ = c.Write(make([]byte, size))
				_ = c.CloseWrite()
			}()
			if n, err := io.Copy(io.Discard, s); n != size || err != nil {
				t.Errorf("MTU %d to %s: %d bytes, %v", mtu, dst, n, err)
			}
		}
	}
}

// fault 28: after the stack's Close everything says net.ErrClosed.
func TestUseAfterClose(t *testing.T) {
	checkGoroutines(t)
	a, b := newPair(t)
	c, s := tcpPair(t, a, b, addrB4)
	l := must[*netstack.TCPListener](t)(a.ListenTCP("tcp", netip.AddrPort{}))
	pc := listenAt(t, a, addrA4)
	ctx := testContext(t)
	uc := must[*netstack.UDPConn](t)(a.DialUDP(ctx, "udp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 9)))

	blocked := make(chan error, 4)
	go func() { _, err := c.Read(make([]byte, 1)); blocked <- err }() // all ended by Close
	go func() { _, err := l.Accept(); blocked <- err }()
	go func() { _, _, err := pc.ReadFrom(make([]byte, 1)); blocked <- err }()
	go func() { blocked <- nettests.FillUp(c) }()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for range cap(blocked) {
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a blocked call: %v", err)
		}
	}

	buf := make([]byte, 1)
	to := netip.AddrPortFrom(addrB4, 9)
	calls := map[string]func() error{
		"Read":             func() error { _, err := c.Read(buf); return err },
		"Read nothing":     func() error { _, err := c.Read(nil); return err },
		"Write":            func() error { _, err := c.Write(buf); return err },
		"CloseWrite":       c.CloseWrite,
		"SetDeadline":      func() error { return c.SetDeadline(time.Time{}) },
		"SetLinger":        func() error { return c.SetLinger(0) },
		"SetNoDelay":       func() error { return c.SetNoDelay(true) },
		"SetKeepAlive":     func() error { return c.SetKeepAlive(true) },
		"SetReadBuffer":    func() error { return c.SetReadBuffer(1000) },
		"SetWriteBuffer":   func() error { return c.SetWriteBuffer(1000) },
		"Accept":           func() error { _, err := l.Accept(); return err },
		"SetDeadline of l": func() error { return l.SetDeadline(time.Time{}) },
		"ReadFrom":         func() error { _, _, err := pc.ReadFrom(buf); return err },
		"WriteTo":          func() error { _, err := pc.WriteToUDPAddrPort(buf, to); return err },
		"UDP Read":         func() error { _, err := uc.Read(buf); return err },
		"UDP Write":        func() error { _, err := uc.Write(buf); return err },
		"DialTCP":          func() error { _, err := a.DialTCP(ctx, "tcp", netip.AddrPort{}, to); return err },
		"DialUDP":          func() error { _, err := a.DialUDP(ctx, "udp", netip.AddrPort{}, to); return err },
		"ListenTCP":        func() error { _, err := a.ListenTCP("tcp", netip.AddrPort{}); return err },
		"ListenUDP":        func() error { _, err := a.ListenUDP("udp", netip.AddrPort{}); return err },
		"Ping":             func() error { _, err := a.Ping(ctx, addrB4, 1, 8); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		} else if e := (*net.OpError)(nil); !errors.As(err, &e) {
			t.Errorf("%s: %T is no *net.OpError", name, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	// The last packet said so to the other side.
	if err := s.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side: %v", err)
	}
	d := a.Device()
	if _, err := d.Write([][]byte{rawUDP(addrB4, addrA4, 1, 2, nil)}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Device.Write: %v", err)
	}
	if _, err := d.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Device.Read: %v", err)
	}
}

// fault 18, fault 19: Close, from many goroutines at once, while TCP and UDP flood both ways.
func TestCloseUnderFlood(t *testing.T) {
	checkGoroutines(t)
	cycles := 200
	if testing.Short() || raceEnabled {
		cycles = 40
	}
	for range cycles {
		closeUnderFlood(t)
	}
}

func BenchmarkCloseUnderFlood(b *testing.B) {
	checkGoroutines(b)
	for b.Loop() {
		closeUnderFlood(b)
	}
}

func closeUnderFlood(tb testing.TB) {
	tb.Helper()
	a := must[*netstack.Stack](tb)(netstack.New(netstack.Config{Addresses: prefixes("10.0.0.1/24")}))
	b := must[*netstack.Stack](tb)(netstack.New(netstack.Config{Addresses: prefixes("10.0.0.2/24")}))
	da, db := a.Device(), b.Device()
	var wg sync.WaitGroup
	wg.Go(func() { carry(tb, da, db) }) // ended by the stacks' Close
	wg.Go(func() { carry(tb, db, da) })

	l := must[*netstack.TCPListener](tb)(b.ListenTCP("tcp", netip.AddrPortFrom(addrB4, 80)))
	c := must[*netstack.TCPConn](tb)(a.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 80)))
	s := must[*netstack.TCPConn](tb)(l.AcceptTCP())
	pa := must[*netstack.UDPConn](tb)(a.ListenUDP("udp", netip.AddrPortFrom(addrA4, 53)))
	pb := must[*netstack.UDPConn](tb)(b.ListenUDP("udp", netip.AddrPortFrom(addrB4, 53)))

	var flowing sync.WaitGroup // until each reader has read something
	reads := func(read func([]byte) error) {
		flowing.Add(1)
		first := sync.OnceFunc(flowing.Done)
		wg.Go(func() { // ended by Close
			defer first()
			for buf := make([]byte, 1<<16); read(buf) == nil; {
				first()
			}
		})
	}
	writes := func(write func([]byte) error) {
		wg.Go(func() { // ended by Close
			for buf := make([]byte, 1200); write(buf) == nil; {
			}
		})
	}
	for _, conn := range []*netstack.TCPConn{c, s} {
		reads(func(b []byte) error { _, err := conn.Read(b); return err })
		writes(func(b []byte) error { _, err := conn.Write(b); return err })
	}
	reads(func(b []byte) error { _, _, err := pa.ReadFrom(b); return err })
	reads(func(b []byte) error { _, _, err := pb.ReadFrom(b); return err })
	writes(func(b []byte) error { _, err := pa.WriteToUDPAddrPort(b, netip.AddrPortFrom(addrB4, 53)); return err })
	writes(func(b []byte) error { _, err := pb.WriteToUDPAddrPort(b, netip.AddrPortFrom(addrA4, 53)); return err })
	flowing.Wait()

	for range 3 {
		wg.Go(func() { closeIt(tb, a) })
		wg.Go(func() { closeIt(tb, b) })
	}
	wg.Wait()
}

func closeIt(tb testing.TB, c io.Closer) {
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// fault 19: Close while sockets of all kinds come and go.
func TestCloseDuringUse(t *testing.T) {
	checkGoroutines(t)
	cycles := 50
	if testing.Short() || raceEnabled {
		cycles = 10
	}
	for range cycles {
		a := must[*netstack.Stack](t)(netstack.New(netstack.Config{Addresses: prefixes("10.0.0.1/24")}))
		b := must[*netstack.Stack](t)(netstack.New(netstack.Config{Addresses: prefixes("10.0.0.2/24")}))
		da, db := a.Device(), b.Device()
		var wg, busy sync.WaitGroup
		wg.Go(func() { carry(t, da, db) }) // ended by the stacks' Close
		wg.Go(func() { carry(t, db, da) })
		l := must[*netstack.TCPListener](t)(b.ListenTCP("tcp", netip.AddrPortFrom(addrB4, 80)))
		ctx := testContext(t)
		// All of these end when Close makes their call fail.
		until := func(call func() error) {
			busy.Add(1)
			first := sync.OnceFunc(busy.Done)
			wg.Go(func() {
				defer first()
				for {
					err := call()
					if errors.Is(err, net.ErrClosed) {
						return
					}
					first()
				}
			})
		}
		until(func() error {
			c, err := l.AcceptTCP()
			if err == nil {
				_ = c.SetLinger(0)
				c.Close()
			}
			return err
		})
		// The first ones of each kind are left open: Close has to end them.
		untilOpen := func(open func() (io.Closer, error)) {
			left := 10
			until(func() error {
				c, err := open()
				if left--; err == nil && left < 0 {
					_ = c.Close() // is closed already, if Close has come
				}
				return err
			})
		}
		for range 2 {
			untilOpen(func() (io.Closer, error) {
				return a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 80))
			})
			untilOpen(func() (io.Closer, error) { return a.ListenTCP("tcp", netip.AddrPort{}) })
		}
		untilOpen(func() (io.Closer, error) { return a.ListenUDP("udp", netip.AddrPort{}) })
		until(func() error { _, err := a.Ping(ctx, addrB4, 1, 8); return err })
		busy.Wait()
		wg.Go(func() { closeIt(t, a) })
		wg.Go(func() { closeIt(t, b) })
		wg.Wait()
	}
}

// fault 20: nobody reads from the device, everything is full, and Close returns within a second.
func TestCloseWithStalledReader(t *testing.T) {
	checkGoroutines(t)
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	pc := listenAt(t, s, addrA4)
	blocked := make(chan error, 3)
	go func() { // all ended by Close
		for {
			if _, err := pc.WriteToUDPAddrPort(make([]byte, 1000), netip.AddrPortFrom(addrB4, 9)); err != nil {
				blocked <- err
				return
			}
		}
	}()
	go func() {
		_, err := s.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 9))
		blocked <- err
	}()
	go func() { _, err := s.Ping(context.Background(), addrB4, 1, 8); blocked <- err }()
	if !eventually(func() bool { return s.PendingDials() == 2 && (s.LinkQueue().Waiting || s.LinkQueue().Datagram > 500) }) {
		t.Fatalf("nothing is stuck: %+v", s.LinkQueue())
	}
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	for range cap(blocked) {
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a blocked call: %v", err)
		}
	}
}

// The device may be replaced under living connections.
func TestSecondFacade(t *testing.T) {
	checkGoroutines(t)
	a, b := newStacks(t)
	part := join(t, a, b)
	c, s := tcpPair(t, a, b, addrB4)
	echoOnce(t, c, s)
	part()
	if _, err := c.Write([]byte("sent between the devices")); err != nil {
		t.Fatal(err)
	}
	join(t, a, b)
	buf := make([]byte, 24)
	if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "sent between the devices" {
		t.Errorf("read %q, %v", buf, err)
	}
	for range 20 {
		echoOnce(t, c, s)
	}
}

func TestClosedFacade(t *testing.T) {
	a, _ := newStacks(t)
	first := a.Device()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, ok := <-first.Events(); ok {
		t.Error("an event")
	}
	if _, err := first.Read(make([][]byte, 1), make([]int, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read from a closed facade: %v", err)
	}
}

// What one facade's reader had no time for, the next one's gets; also when both wait at once.
func TestFacadesTakeOver(t *testing.T) {
	checkGoroutines(t)
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	pc := listenAt(t, a, addrA4)
	old := a.Device()
	for i := range 50 {
		next := a.Device()
		ended := make(chan error)
		got := make(chan int, 1)
		go func() { // ended by the facade's Close
			_, err := old.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
			ended <- err
		}()
		go func() { // ended by the datagram
			n, _ := next.Read([][]byte{make([]byte, 2000)}, make([]int, 1), 0)
			got <- n
		}()
		go old.Close() // races with the datagram
		if _, err := pc.WriteToUDPAddrPort([]byte{byte(i)}, netip.AddrPortFrom(addrB4, 9)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			// The old one got it; the next one needs one of its own.
			if _, err := pc.WriteToUDPAddrPort([]byte{byte(i)}, netip.AddrPortFrom(addrB4, 9)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case n := <-got:
			if n != 1 {
				t.Fatalf("read %d packets", n)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the next facade's reader was not woken")
		}
		old = next
	}
}

func echoOnce(t *testing.T, c, s net.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("read %q, %v", buf, err)
	}
	if _, err := s.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "pong" {
		t.Fatalf("read %q, %v", buf, err)
	}
}

// A stack that nobody uses is silent: no router solicitations, no neighbor discovery, no group reports.
func TestFreshStackSendsNothing(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64", "fe80::1/64")})
	if _, err := s.Ping(testContext(t), netip.IPv6Loopback(), 1, 8); err != nil { // the stack is up, and stays within
		t.Error(err)
	}
	if q := s.LinkQueue(); q != (netstack.LinkQueue{}) {
		t.Errorf("packets wait: %+v", q)
	}
}
