// SPDX-License-Identifier: MIT

package memnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// socket is what *net.UDPConn and *Conn have in common.
type socket interface {
	net.PacketConn
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	SetReadBuffer(int) error
}

// eachSocket runs a test on the system's sockets and on ours: what holds for both is how a UDP socket behaves.
func eachSocket(t *testing.T, test func(t *testing.T, a, b socket)) {
	t.Helper()
	open := func(t *testing.T) socket {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Skipf("no UDP on this host's loopback: %v", err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn)
	}
	t.Run("system", func(t *testing.T) { test(t, open(t), open(t)) })
	t.Run("memnet", func(t *testing.T) {
		_, a, b := couple(t, Options{}, Link{})
		test(t, a, b)
	})
}

func localOf(s socket) netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

// within fails if f takes longer than patience.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with f, which the test waits for
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("still waiting")
	}
}

func TestReadWrite(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		for _, payload := range []string{"hello", "", "x", strings.Repeat("long", 2000), "end"} {
			if n, err := a.WriteTo([]byte(payload), b.LocalAddr()); n != len(payload) || err != nil {
				t.Fatalf("WriteTo = %d, %v", n, err)
			}
			buf := make([]byte, 1<<16)
			n, from, err := b.ReadFrom(buf)
			if err != nil || string(buf[:n]) != payload || from.(*net.UDPAddr).AddrPort() != localOf(a) {
				t.Fatalf("%d bytes from %v, %v; want %d", n, from, err, len(payload))
			}
		}
		for i := range 100 {
			if _, err := a.WriteToUDPAddrPort([]byte{byte(i)}, localOf(b)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 100 {
			var buf [2]byte
			n, from, err := b.ReadFromUDPAddrPort(buf[:])
			if n != 1 || int(buf[0]) != i || from != localOf(a) || err != nil {
				t.Fatalf("datagram %d: %d bytes, %d, from %v, %v", i, n, buf[0], from, err)
			}
		}
	})
}

func TestTruncation(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		for range 2 {
			if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 3)
		if n, _, err := b.ReadFromUDPAddrPort(buf); string(buf[:n]) != "hel" || err != nil && !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		buf = make([]byte, 9)
		if n, _, err := b.ReadFromUDPAddrPort(buf); string(buf[:n]) != "hello" || err != nil {
			t.Errorf("read %q, %v: the rest of the last datagram must be gone", buf[:n], err)
		}
	})
}

func TestCloseEndsReads(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		errs := make(chan error)
		for range 3 {
			go func() { // ends with b
				_, _, err := b.ReadFrom(make([]byte, 9))
				errs <- err
			}()
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		within(t, func() {
			for range 3 {
				wantError(t, <-errs, net.ErrClosed)
			}
		})
		_, _, err := b.ReadFrom(make([]byte, 9))
		wantError(t, err, net.ErrClosed)
		_, err = b.WriteTo([]byte("x"), a.LocalAddr())
		wantError(t, err, net.ErrClosed)
		wantError(t, b.SetReadDeadline(time.Time{}), net.ErrClosed)
		wantError(t, b.SetWriteDeadline(time.Time{}), net.ErrClosed)
		wantError(t, b.SetDeadline(time.Time{}), net.ErrClosed)
		wantError(t, b.SetReadBuffer(1<<16), net.ErrClosed)
		wantError(t, b.Close(), net.ErrClosed)
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "write" || op.Net != "udp" || op.Source == nil || op.Addr == nil {
			t.Errorf("%#v is not the *net.OpError of a write", err)
		}
		if localOf(b).Port() == 0 {
			t.Error("LocalAddr is lost after Close")
		}
	})
}

func TestReadDeadline(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		buf := make([]byte, 9)
		wantTimeout := func(when string) {
			t.Helper()
			within(t, func() {
				if _, _, err := b.ReadFrom(buf); !isTimeout(err) {
					t.Errorf("%s: error %v, want a timeout", when, err)
				}
			})
		}
		set := func(d time.Time) {
			t.Helper()
			if err := b.SetReadDeadline(d); err != nil {
				t.Fatal(err)
			}
		}
		set(time.Now().Add(-time.Hour))
		wantTimeout("in the past")
		wantTimeout("again")
		set(time.Now().Add(time.Millisecond))
		wantTimeout("soon")
		if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		wantTimeout("with a datagram that waits")
		set(time.Time{})
		if n, _, err := b.ReadFrom(buf); n != 1 || err != nil {
			t.Errorf("after the deadline was taken away: %d, %v", n, err)
		}
		for _, when := range []time.Time{time.Now().Add(-time.Hour), time.Now()} {
			set(time.Now().Add(time.Hour))
			errs := make(chan error, 1)
			go func() { // ends with the deadline
				_, _, err := b.ReadFrom(make([]byte, 9))
				errs <- err
			}()
			set(when)
			within(t, func() {
				if err := <-errs; !isTimeout(err) {
					t.Errorf("set while reading: %v", err)
				}
			})
		}
	})
}

func TestWriteDeadline(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		if err := a.SetWriteDeadline(time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); !isTimeout(err) {
			t.Errorf("error %v, want a timeout", err)
		}
		if err := a.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
			t.Error(err)
		}
	})
}

func TestWriteErrors(t *testing.T) {
	eachSocket(t, func(t *testing.T, a, b socket) {
		for _, tc := range []struct {
			name    string
			payload int
			to      net.Addr
			want    error // nil: any
		}{
			{"nil address", 1, nil, nil},
			{"nil UDP address", 1, (*net.UDPAddr)(nil), nil},
			{"IP address", 1, &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}, syscall.EINVAL},
			{"TCP address", 1, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, syscall.EINVAL},
			{"largest and one", maxPayload4 + 1, b.LocalAddr(), syscall.EMSGSIZE},
			{"IPv6 from IPv4", 1, &net.UDPAddr{IP: net.IPv6loopback, Port: 9}, nil},
			{"port 0", 1, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, nil},
		} {
			n, err := a.WriteTo(make([]byte, tc.payload), tc.to)
			if n != 0 || err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%s: WriteTo = %d, %v; want %v", tc.name, n, err, tc.want)
			}
			var op *net.OpError
			if !errors.As(err, &op) {
				t.Errorf("%s: %#v is no *net.OpError", tc.name, err)
			}
		}
	})
}

// TestSizes is fault 33 on the outside: every size arrives whole, as one.
func TestSizes(t *testing.T) {
	n := newNetwork(t, Options{})
	for _, tc := range []struct {
		a, b string
		max  int
	}{{"10.0.0.1:0", "10.0.0.2:0", 65507}, {"[fd00::1]:0", "[fd00::2]:0", 65527}} {
		a, b := listen(t, n, tc.a), listen(t, n, tc.b)
		for _, size := range []int{0, 1, 255, 256, 257, 1424, 2048, 2049, 32769, tc.max - 1, tc.max} {
			payload := strings.Repeat("\xa5", size)
			write(t, a, addrPort(b), payload)
			wantRead(t, b, payload, addrPort(a))
		}
		_, err := a.WriteToUDPAddrPort(make([]byte, tc.max+1), addrPort(b))
		wantError(t, err, syscall.EMSGSIZE)
	}
	checkSum(t, n.TotalStats())
}

func TestBatch(t *testing.T) {
	_, a, b := couple(t, Options{}, Link{})
	var bufs [][]byte
	for i := range 10 {
		bufs = append(bufs, bytes.Repeat([]byte{byte(i)}, 100*i))
	}
	if n, err := a.WriteBatch(bufs, addrPort(b)); n != 10 || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	got := 0
	for _, want := range []int{4, 4, 2} {
		in := [][]byte{make([]byte, 1000), make([]byte, 1000), make([]byte, 1000), make([]byte, 1000)}
		sizes, addrs := make([]int, 4), make([]netip.AddrPort, 4)
		n, err := b.ReadBatch(in, sizes, addrs)
		if n != want || err != nil {
			t.Fatalf("ReadBatch = %d, %v; want %d", n, err, want)
		}
		for i := range n {
			if !bytes.Equal(in[i][:sizes[i]], bufs[got]) || addrs[i] != addrPort(a) {
				t.Errorf("datagram %d: %d bytes from %v", got, sizes[i], addrs[i])
			}
			got++
		}
	}
	if n, err := b.ReadBatch(nil, nil, nil); n != 0 || err != nil {
		t.Errorf("ReadBatch without buffers = %d, %v", n, err)
	}
	_, err := b.ReadBatch(bufs, make([]int, 1), make([]netip.AddrPort, 10))
	wantError(t, err, syscall.EINVAL)
	if n, err := a.WriteBatch(nil, addrPort(b)); n != 0 || err != nil {
		t.Errorf("WriteBatch of nothing = %d, %v", n, err)
	}
	n, err := a.WriteBatch([][]byte{{1}, make([]byte, maxPayload4+1), {3}}, addrPort(b))
	if n != 1 {
		t.Errorf("a batch with a giant second sends %d, want 1", n)
	}
	wantError(t, err, syscall.EMSGSIZE)
	wantRead(t, b, "\x01", addrPort(a))
	b.Close()
	_, err = b.ReadBatch(nil, nil, nil)
	wantError(t, err, net.ErrClosed)
}

// TestManyReaders: one batch wakes as many readers as it has datagrams.
func TestManyReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := couple(t, Options{}, Link{})
		var readers sync.WaitGroup
		for range 10 {
			readers.Go(func() { read(t, b) }) // ends with one datagram
		}
		synctest.Wait()
		if _, err := a.WriteBatch(make([][]byte, 10), addrPort(b)); err != nil {
			t.Fatal(err)
		}
		readers.Wait()
	})
}

func TestReceiveBuffer(t *testing.T) {
	n, a, b := couple(t, Options{ReceiveBuffer: 10 * 256}, Link{})
	for i := range 15 {
		write(t, a, addrPort(b), number(i))
	}
	if got := fmt.Sprint(numbers(drain(t, b))); got != "[0 1 2 3 4 5 6 7 8 9]" {
		t.Errorf("received %v, want the first ten", got)
	}
	s := n.Stats(addrA, addrB)
	if b.Dropped() != 5 || s.ReceiveDrops != 5 || s.Delivered != 10 {
		t.Errorf("dropped %d, stats %+v; want 5", b.Dropped(), s)
	}
	checkSum(t, s)
	// Reading has made room, and the room can be changed.
	if err := b.SetReadBuffer(2 * 256); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		write(t, a, addrPort(b), number(i))
	}
	if got := fmt.Sprint(numbers(drain(t, b))); got != "[0 1]" {
		t.Errorf("received %v, want two", got)
	}
	wantError(t, b.SetReadBuffer(0), syscall.EINVAL)
	// Each datagram that is read makes room for one.
	for i := range 2 {
		write(t, a, addrPort(b), number(i))
	}
	for i := range 5 {
		wantRead(t, b, number(i), addrPort(a))
		write(t, a, addrPort(b), number(i+2))
	}
	if b.Dropped() != 6 {
		t.Errorf("%d dropped, want no more than before", b.Dropped())
	}
	b.Close()
	if b.queue.len != 0 || b.memory != 0 {
		t.Errorf("closed, it keeps %d datagrams", b.queue.len)
	}
}

// TestReadDeadlineExact: a deadline is neither early nor late.
func TestReadDeadlineExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, b := couple(t, Options{}, Link{})
		if err := b.SetReadDeadline(b.host.net.epoch); err != nil { // which is 0 in the time of now
			t.Fatal(err)
		}
		_, _, err := b.ReadFrom(nil)
		wantError(t, err, os.ErrDeadlineExceeded)
		for _, d := range []time.Duration{0, 1, time.Millisecond, time.Hour} {
			start := time.Now()
			if err := b.SetReadDeadline(start.Add(d)); err != nil {
				t.Fatal(err)
			}
			_, _, err := b.ReadFrom(nil)
			if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != d {
				t.Errorf("after %v: %v; want %v", took, err, d)
			}
		}
	})
}

// TestNoAllocations: nothing is allocated for a datagram in the steady state.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops at random under the race detector")
	}
	_, a, b := couple(t, Options{}, Link{})
	bufs := [][]byte{make([]byte, 1424), make([]byte, 1424)}
	sizes, addrs := make([]int, 2), make([]netip.AddrPort, 2)
	dst := addrPort(b)
	allocs := testing.AllocsPerRun(1000, func() {
		a.WriteBatch(bufs, dst)
		b.ReadBatch(bufs, sizes, addrs)
		a.WriteToUDPAddrPort(bufs[0], dst)
		b.ReadFromUDPAddrPort(bufs[0])
	})
	if allocs >= 1 { // a garbage collection empties the pools
		t.Errorf("%v allocations", allocs)
	}
}
