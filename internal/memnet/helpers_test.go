// SPDX-License-Identifier: MIT

package memnet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
)

var (
	addrA = netip.MustParseAddr("10.1.0.1")
	addrB = netip.MustParseAddr("10.1.0.2")
	addrC = netip.MustParseAddr("10.1.0.3")
)

// patience is how long a test waits on a real clock for what must come.
const patience = 20 * time.Second

func newNetwork(tb testing.TB, opts Options) *Network {
	tb.Helper()
	n := New(opts)
	tb.Cleanup(func() { n.Close() })
	return n
}

// listen opens an endpoint at an IP address and port.
func listen(tb testing.TB, n *Network, address string) *Conn {
	tb.Helper()
	pc, err := n.ListenPacket(tb.Context(), "udp", address)
	if err != nil {
		tb.Fatal(err)
	}
	return pc.(*Conn)
}

// couple opens an endpoint at addrA and one at addrB, with a weather from A to B.
func couple(tb testing.TB, opts Options, w Link) (n *Network, a, b *Conn) {
	tb.Helper()
	n = newNetwork(tb, opts)
	a, b = listen(tb, n, addrA.String()+":1000"), listen(tb, n, addrB.String()+":2000")
	setLink(tb, n, addrA, addrB, w)
	return n, a, b
}

func setLink(tb testing.TB, n *Network, from, to netip.Addr, w Link) {
	tb.Helper()
	if err := n.SetLink(from, to, w); err != nil {
		tb.Fatal(err)
	}
}

func addrPort(c *Conn) netip.AddrPort { return *c.local.Load() }

func write(tb testing.TB, from *Conn, to netip.AddrPort, payload string) {
	tb.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		tb.Fatal(err)
	}
}

// read waits for a datagram.
func read(tb testing.TB, c *Conn) (payload string, from netip.AddrPort) {
	tb.Helper()
	b := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b[:n]), from
}

// wantRead waits for a datagram and compares it.
func wantRead(tb testing.TB, c *Conn, payload string, from netip.AddrPort) {
	tb.Helper()
	if p, f := read(tb, c); p != payload || f != from {
		tb.Fatalf("%v read %q from %v, want %q from %v", addrPort(c), p, f, payload, from)
	}
}

// wantNothing says that no datagram is there now.
func wantNothing(tb testing.TB, c *Conn) {
	tb.Helper()
	if all := drain(tb, c); len(all) > 0 {
		tb.Fatalf("%v read %q, want nothing", addrPort(c), all)
	}
}

// drain reads what is there now.
func drain(tb testing.TB, c *Conn) (payloads []string) {
	tb.Helper()
	c.mu.Lock()
	count := c.queue.len
	c.mu.Unlock()
	for range count {
		p, _ := read(tb, c)
		payloads = append(payloads, p)
	}
	return payloads
}

// number is the payload of datagram i.
func number(i int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(i))) }

// numbers reads number payloads.
func numbers(payloads []string) (list []int) {
	for _, p := range payloads {
		list = append(list, int(binary.BigEndian.Uint32([]byte(p))))
	}
	return list
}

// checkSum tests the equation that Stats promises.
func checkSum(tb testing.TB, s Stats) {
	tb.Helper()
	sum := s.Delivered + s.InFlight + s.Cut + s.TooBig + s.QueueDrops + s.Lost + s.Unreachable + s.Filtered + s.ReceiveDrops
	if s.Sent+s.Duplicated != sum {
		tb.Errorf("%d sent and %d copies, but %d are accounted for: %+v", s.Sent, s.Duplicated, sum, s)
	}
}

// wantError fails unless errors.Is finds target in err.
func wantError(tb testing.TB, err, target error) {
	tb.Helper()
	if !errors.Is(err, target) {
		tb.Errorf("error %v, want %v", err, target)
	}
}

// isTimeout says whether err is that of a deadline.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) && errors.As(err, &timeout) && timeout.Timeout()
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
