// SPDX-License-Identifier: MIT

package nettests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// PacketConn is to a [net.PacketConn] what nettest.TestConn is to a [net.Conn]. makePair returns two packet conns
// that reach one another by their LocalAddr, over a network that neither loses nor reorders while no more than a few
// datagrams are on their way.
func PacketConn(t *testing.T, makePair func(t *testing.T) (a, b net.PacketConn)) {
	tests := []struct {
		name string
		run  func(t *testing.T, a, b net.PacketConn)
	}{
		{"PingPong", testPacketPingPong},
		{"Boundaries", testPacketBoundaries},
		{"Addresses", testPacketAddresses},
		{"PastDeadline", testPacketPastDeadline},
		{"DeadlineDuringRead", testPacketDeadlineDuringRead},
		{"DeadlineMovedDuringRead", testPacketDeadlineMoved},
		{"CloseUnblocks", testPacketCloseUnblocks},
		{"UseAfterClose", testPacketUseAfterClose},
		{"ConcurrentUse", testPacketConcurrentUse},
		{"ConcurrentDeadlines", testPacketConcurrentDeadlines},
		{"ConcurrentClose", testPacketConcurrentClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := makePair(t)
			// Both may be closed by the test itself.
			defer a.Close()
			defer b.Close()
			limit := time.Now().Add(20 * time.Second)
			if err := errors.Join(a.SetDeadline(limit), b.SetDeadline(limit)); err != nil {
				t.Fatal(err)
			}
			test.run(t, a, b)
		})
	}
}

// CheckError checks what every error of a conn has to be: want, a [*net.OpError], and a time-out or not.
func CheckError(t *testing.T, err, want error, timeout bool) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	if e := net.Error(nil); !errors.As(err, &e) || e.Timeout() != timeout {
		t.Errorf("error %v (%T): want a net.Error with Timeout() %v", err, err, timeout)
	}
	if e := (*net.OpError)(nil); !errors.As(err, &e) {
		t.Errorf("error %v (%T): want a *net.OpError", err, err)
	}
}

func testPacketPingPong(t *testing.T, a, b net.PacketConn) {
	const rounds = 200
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // ends after its rounds, or by the deadline
		buf := make([]byte, 8)
		for range rounds {
			n, from, err := b.ReadFrom(buf)
			if err != nil || n != 8 {
				t.Errorf("read %d bytes, %v", n, err)
				return
			}
			binary.BigEndian.PutUint64(buf, binary.BigEndian.Uint64(buf)+1)
			if n, err := b.WriteTo(buf, from); err != nil || n != 8 {
				t.Errorf("wrote %d bytes, %v", n, err)
				return
			}
		}
	})
	buf := make([]byte, 8)
	for i := range uint64(rounds) {
		binary.BigEndian.PutUint64(buf, i<<1)
		if _, err := a.WriteTo(buf, b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint64(buf); got != i<<1+1 {
			t.Fatalf("answer %d to %d", got, i<<1)
		}
	}
}

func testPacketBoundaries(t *testing.T, a, b net.PacketConn) {
	sizes := []int{0, 1, 100, 0, 1391, 1392, 1393, 4000, 3, 30_000, 1}
	for i, size := range sizes {
		sent := bytes.Repeat([]byte{byte(i)}, size)
		if n, err := a.WriteTo(sent, b.LocalAddr()); n != size || err != nil {
			t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
		}
		got := make([]byte, 1<<16)
		n, _, err := b.ReadFrom(got)
		if err != nil || !bytes.Equal(got[:n], sent) {
			t.Fatalf("read %d bytes of %d: %v", n, size, err)
		}
	}
	// What does not fit is lost, and does not show up in the next one.
	for _, text := range []string{"too long", "next"} {
		if _, err := a.WriteTo([]byte(text), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 4)
	for _, want := range []string{"too ", "next"} {
		if n, _, err := b.ReadFrom(got); err != nil || string(got[:n]) != want {
			t.Fatalf("read %q, %v; want %q", got[:n], err, want)
		}
	}
	// The reader owns what it got, the writer what it gave.
	buf := []byte("mine")
	if _, err := a.WriteTo(buf, b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	copy(buf, "xxxx")
	if n, _, err := b.ReadFrom(got); err != nil || string(got[:n]) != "mine" {
		t.Fatalf("read %q, %v: the writer's buffer was kept", got[:n], err)
	}
}

func testPacketAddresses(t *testing.T, a, b net.PacketConn) {
	if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	_, from, err := b.ReadFrom(make([]byte, 1))
	if err != nil {
		t.Fatal(err)
	}
	if from.String() != a.LocalAddr().String() || from.Network() != a.LocalAddr().Network() {
		t.Errorf("from %s %s, want %s %s", from.Network(), from, a.LocalAddr().Network(), a.LocalAddr())
	}
	// fault 32.
	for _, addr := range []net.Addr{nil, (*net.UDPAddr)(nil), &net.UDPAddr{}, &net.IPAddr{IP: net.IPv4(10, 0, 0, 2)}, &net.TCPAddr{Port: 1}} {
		if n, err := a.WriteTo([]byte("x"), addr); err == nil || n != 0 {
			t.Errorf("WriteTo %T: %d, %v; want 0 and an error", addr, n, err)
		}
	}
}

func testPacketPastDeadline(t *testing.T, a, b net.PacketConn) {
	buf := make([]byte, 10)
	if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, from, err := a.ReadFrom(buf)
		CheckError(t, err, os.ErrDeadlineExceeded, true)
		if from != nil {
			t.Errorf("an address with an error: %v", from)
		}
		_, err = a.WriteTo(buf, b.LocalAddr())
		CheckError(t, err, os.ErrDeadlineExceeded, true)
	}
	if err := a.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteTo([]byte("out"), b.LocalAddr()); err != nil {
		t.Error(err)
	}
	if _, err := b.WriteTo([]byte("in"), a.LocalAddr()); err != nil {
		t.Error(err)
	}
	if n, _, err := a.ReadFrom(buf); err != nil || string(buf[:n]) != "in" {
		t.Errorf("after the deadline was cleared: %q, %v", buf[:n], err)
	}
}

func testPacketDeadlineDuringRead(t *testing.T, a, _ net.PacketConn) {
	start := time.Now()
	if err := a.SetReadDeadline(start.Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err := a.ReadFrom(make([]byte, 1))
	CheckError(t, err, os.ErrDeadlineExceeded, true)
	if waited := time.Since(start); waited < 20*time.Millisecond {
		t.Errorf("gave up after %v", waited)
	}
}

func testPacketDeadlineMoved(t *testing.T, a, b net.PacketConn) {
	got := make(chan error)
	read := func() {
		_, _, err := a.ReadFrom(make([]byte, 1))
		got <- err
	}
	go read() // ended by the deadline
	if err := a.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	CheckError(t, <-got, os.ErrDeadlineExceeded, true)
	if err := a.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go read() // ended by the datagram
	if _, err := b.WriteTo([]byte("x"), a.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func testPacketCloseUnblocks(t *testing.T, a, _ net.PacketConn) {
	const readers = 4
	got := make(chan error, readers)
	for range readers {
		go func() { // ended by Close
			_, _, err := a.ReadFrom(make([]byte, 1))
			got <- err
		}()
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for range readers {
		CheckError(t, <-got, net.ErrClosed, false)
	}
}

func testPacketUseAfterClose(t *testing.T, a, b net.PacketConn) {
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	_, _, err := a.ReadFrom(buf)
	CheckError(t, err, net.ErrClosed, false)
	_, err = a.WriteTo(buf, b.LocalAddr())
	CheckError(t, err, net.ErrClosed, false)
	CheckError(t, a.SetDeadline(time.Now()), net.ErrClosed, false)
	CheckError(t, a.SetReadDeadline(time.Now()), net.ErrClosed, false)
	CheckError(t, a.SetWriteDeadline(time.Now()), net.ErrClosed, false)
	CheckError(t, a.Close(), net.ErrClosed, false)
	if a.LocalAddr() == nil {
		t.Error("the local address is forgotten")
	}
}

// Many goroutines read and write at once; a window keeps what is on its way small. Every datagram arrives once.
func testPacketConcurrentUse(t *testing.T, a, b net.PacketConn) {
	const workers, each = 4, 100
	window := make(chan struct{}, 16)
	var mu sync.Mutex // guards seen
	seen := map[uint64]int{}
	var wg sync.WaitGroup
	for w := range uint64(workers) {
		wg.Go(func() { // ends after its share, or by the deadline
			for i := range uint64(each) {
				window <- struct{}{}
				if _, err := a.WriteTo(binary.BigEndian.AppendUint64(nil, w<<32|i), b.LocalAddr()); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // likewise
			buf := make([]byte, 100)
			for range each {
				n, _, err := b.ReadFrom(buf)
				if err != nil || n != 8 {
					t.Errorf("read %d bytes, %v", n, err)
				}
				<-window
				mu.Lock()
				seen[binary.BigEndian.Uint64(buf)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != workers*each {
		t.Errorf("%d different datagrams arrived of %d", len(seen), workers*each)
	}
}

// Each goroutine sets a bounded number of deadlines: as long as somebody moves it on, a deadline need never come.
func testPacketConcurrentDeadlines(t *testing.T, a, b net.PacketConn) {
	for range 20 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { // ends after its share
				for range 20 {
					if err := a.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if _, _, err := a.ReadFrom(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		wg.Wait()
		if _, err := b.WriteTo([]byte("x"), a.LocalAddr()); err != nil {
			t.Error(err)
		}
	}
}

func testPacketConcurrentClose(t *testing.T, a, b net.PacketConn) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // ended by Close
			for {
				if _, _, err := a.ReadFrom(make([]byte, 10)); err != nil {
					CheckError(t, err, net.ErrClosed, false)
					return
				}
			}
		})
		wg.Go(func() { // likewise
			for {
				if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); err != nil {
					CheckError(t, err, net.ErrClosed, false)
					return
				}
			}
		})
	}
	if _, _, err := b.ReadFrom(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	var firsts, others int
	var mu sync.Mutex // guards firsts and others
	for range 4 {
		wg.Go(func() {
			err := a.Close()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				firsts++
			} else if errors.Is(err, net.ErrClosed) {
				others++
			}
		})
	}
	wg.Wait()
	if firsts != 1 || others != 3 {
		t.Errorf("%d calls of Close did it, %d were told that it was done; want 1 and 3", firsts, others)
	}
}
