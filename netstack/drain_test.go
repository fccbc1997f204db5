// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"example.com/wgnet/netstack"
)

// drain calls Drain, and returns when it has begun.
func drain(t *testing.T, s *netstack.Stack, ctx context.Context) <-chan error {
	t.Helper()
	l := listenTCP(t, s)
	got := make(chan error, 1)
	go func() { got <- s.Drain(ctx) }() // ends with ctx, or what the test does
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want net.ErrClosed", err)
	}
	return got
}

func waits(t *testing.T, name string, got <-chan error) {
	t.Helper()
	select {
	case err := <-got:
		t.Fatalf("%s: Drain does not wait: %v", name, err)
	default:
	}
}

// fault 39: what was written arrives, and so does the end.
func TestDrainDelivers(t *testing.T) {
	a, b := newPair(t)
	dialed, accepted := tcpPair(t, a, b, addrB4)
	if err := accepted.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 8<<10) // much more than the other side takes unread
	if _, err := dialed.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := dialed.Close(); err != nil {
		t.Fatal(err)
	}
	got := drain(t, a, testContext(t))
	waits(t, "with unread data", got)
	buf := make([]byte, len(data))
	if _, err := io.ReadFull(accepted, buf[:len(buf)-10]); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	// The other side has not closed yet, and still finds an orderly end.
	if _, err := io.ReadFull(accepted, buf[len(buf)-10:]); err != nil || !bytes.Equal(buf, data) {
		t.Errorf("the data is not what was sent, or not whole: %v", err)
	}
	if n, err := accepted.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v; want EOF", n, err)
	}
	if err := a.Drain(testContext(t)); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestDrainWaitsForOpen(t *testing.T) {
	a, b := newPair(t)
	open, openAccepted := tcpPair(t, a, b, addrB4)
	half, halfAccepted := tcpPair(t, a, b, addrB6)
	local, localAccepted := tcpPair(t, a, a, addrA4)
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got := drain(t, a, testContext(t))
	exchange(t, open, openAccepted)
	exchange(t, local, localAccepted)
	if _, err := halfAccepted.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	exchange(t, halfAccepted, half) // the answer of one who has read all of the question
	for _, c := range []net.Conn{open, local, localAccepted, half} {
		waits(t, "with open connections", got)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// Nothing new begins, and what waits to begin ends.
func TestDrainRefuses(t *testing.T) {
	a, b := newPair(t)
	a.SetRoutes(routes(1, "10.0.0.2/31"))
	dialing := make(chan error, 1)
	go func() { // ends with Drain
		_, err := a.DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.3:80"))
		dialing <- err
	}()
	if !eventually(func() bool { return a.PendingDials() == 1 && a.Endpoints() == 1 }) {
		t.Fatal("the dial does not wait")
	}
	l := listenTCP(t, a)
	waiting := knock(t, b, l)
	pc := listenAt(t, a, addrA4)
	from := listenAt(t, b, addrB4)
	got := drain(t, a, testContext(t))
	if err := <-dialing; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial that was under way: %v", err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("who waited to be accepted: %v, want a reset", err)
	}
	to := netip.AddrPortFrom(addrB4, 9)
	_, dialTCP := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, to)
	_, dialUDP := a.DialUDP(testContext(t), "udp", netip.AddrPort{}, to)
	_, listenTCP := a.ListenTCP("tcp", netip.AddrPort{})
	_, listenUDP := a.ListenUDP("udp", netip.AddrPort{})
	for name, err := range map[string]error{
		"DialTCP": dialTCP, "DialUDP": dialUDP, "ListenTCP": listenTCP, "ListenUDP": listenUDP,
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v, want net.ErrClosed", name, err)
		}
	}
	// UDP sockets work on.
	addr := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := from.WriteToUDPAddrPort([]byte("x"), addr); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pc.ReadFromUDPAddrPort(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestDrainGivesUp(t *testing.T) {
	a, b := newPair(t)
	tcpPair(t, a, b, addrB4)
	ctx, cancel := context.WithCancel(context.Background())
	first, second := drain(t, a, ctx), make(chan error, 1)
	cancel()
	err := <-first
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "connections left: 1 open, 0 closed") {
		t.Error(err)
	}
	go func() { second <- a.Drain(context.Background()) }() // ends with a.Close
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close meanwhile: %v, want net.ErrClosed", err)
	}
}

// fault 39: what cannot be delivered is an error.
func TestDrainReset(t *testing.T) {
	a, b := newPair(t)
	dialed, accepted := tcpPair(t, a, b, addrB4)
	if err := accepted.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := dialed.Write(make([]byte, 128<<10)); err != nil {
		t.Fatal(err)
	}
	if err := dialed.Close(); err != nil {
		t.Fatal(err)
	}
	got := drain(t, a, testContext(t))
	waits(t, "before the reset", got)
	if err := accepted.Close(); err != nil { // with unread data, which is a reset
		t.Fatal(err)
	}
	if err := <-got; err == nil || !strings.Contains(err.Error(), "1 ended by a reset or a time-out") {
		t.Error(err)
	}
}

// The same if the connection is closed and reset between two looks, and whichever call of Drain sees it.
func TestDrainResetAtOnce(t *testing.T) {
	a, b := newPair(t)
	dialed, accepted := tcpPair(t, a, b, addrB4)
	if err := accepted.SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := dialed.Write(make([]byte, 200<<10)); err != nil {
		t.Fatal(err)
	}
	first, second := drain(t, a, testContext(t)), make(chan error, 1)
	go func() { second <- a.Drain(testContext(t)) }() // ends with the reset
	waits(t, "before the reset", first)
	if err := errors.Join(dialed.Close(), accepted.Close()); err != nil { // the latter with unread data
		t.Fatal(err)
	}
	for _, err := range []error{<-first, <-second, a.Drain(testContext(t))} {
		if err == nil || !strings.Contains(err.Error(), "1 ended by a reset or a time-out") {
			t.Error(err)
		}
	}
}
