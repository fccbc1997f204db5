// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// blackHole returns an address at which SYNs are lost: a listener's whose queue is full (listen(2), with a backlog of 0
// one connection waits).
func blackHole(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in4 := sa.(*syscall.SockaddrInet4)
	address := netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), uint16(in4.Port)).String()
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close() })
	return address
}

// TestBlackHole is fault 66: one peer's connections to nowhere are bounded, and another peer does not notice.
func TestBlackHole(t *testing.T) {
	const dials, flows = 16, 1024
	hole := blackHole(t)
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	g := newGateway(t, Config{MaxFlows: 64, MaxPeerDials: dials}, local)
	var greedy []*fakeFlow
	for range flows {
		f := newFlow(t, "greedy", "tcp", hole)
		serve(g, f)
		greedy = append(greedy, f)
	}
	for range 20 {
		f := newFlow(t, "modest", "tcp", l.Addr().String())
		serve(g, f)
		if got := exchange(t, f.accepted(t), []byte("x")); string(got) != "x" {
			t.Errorf("got %q", got)
		}
	}
	for range flows - dials { // all but those that have a place are dropped
		f := greedy[0]
		greedy = greedy[1:]
		select {
		case <-f.answered:
		default:
			greedy = append(greedy, f)
		}
	}
	if s := g.Status(); s.Open > dials+20 {
		t.Errorf("%d flows are open, want at most %d", s.Open, dials+20)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range greedy {
		if err := f.wait(t); err != errDropped {
			t.Errorf("%v, want silence", err)
		}
	}
	if s := g.Status(); s.Open != 0 || s.Refused != 0 {
		t.Errorf("status %+v after Close", s.Counters)
	}
}

// TestDialTimeout: to a target that does not answer, nothing is answered.
func TestDialTimeout(t *testing.T) {
	g := newGateway(t, Config{DialTimeout: 20 * time.Millisecond}, local)
	f := newFlow(t, "laptop", "tcp", blackHole(t))
	g.Serve(f)
	if err := f.wait(t); err != errDropped {
		t.Errorf("%v, want silence", err)
	}
	if s := g.Status(); s.Failed != 1 || s.Refused != 0 || s.Open != 0 {
		t.Errorf("status %+v", s.Counters)
	}
}
