// SPDX-License-Identifier: MIT

package netstack_test

import (
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// A restarted host takes a port on which we still have a connection in TIME_WAIT, with an older sequence number: it gets a
// connection at once, and not after a minute (RFC 6191; RFC 9293, section 3.10.7.4).
func TestSynInTimeWait(t *testing.T) {
	const ours, theirs = 7, 4000
	for _, addrs := range [][2]string{{"10.0.0.1", "10.0.0.2"}, {"fd00::1", "fd00::2"}} {
		for _, number := range []uint32{500, 1_000_000} { // the old connection began with 1000
			t.Run(fmt.Sprintf("%s, %d", addrs[0], number), func(t *testing.T) {
				local, remote := netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])
				s, err := netstack.New(netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(local, 24)}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() }) // never fails
				w := newWire(t, s)
				l, err := s.ListenTCP("tcp", netip.AddrPortFrom(netip.Addr{}, ours))
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				send := func(flags header.TCPFlags, seq, ack uint32) {
					t.Helper()
					w.send(rawTCP(remote, local, header.TCPFields{
						SrcPort: theirs, DstPort: ours, SeqNum: seq, AckNum: ack, Flags: flags, WindowSize: 1 << 15,
					}, nil))
				}
				next := func(flags header.TCPFlags) header.TCP {
					t.Helper()
					for {
						_, _, _, payload := dissect(w.next())
						if h := header.TCP(payload); h.Flags() == flags {
							return h
						}
					}
				}
				send(header.TCPFlagSyn, 1000, 0)
				iss := next(header.TCPFlagSyn | header.TCPFlagAck).SequenceNumber()
				send(header.TCPFlagAck, 1001, iss+1)
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				next(header.TCPFlagFin | header.TCPFlagAck)
				send(header.TCPFlagAck|header.TCPFlagFin, 1001, iss+2)
				next(header.TCPFlagAck)
				if n := s.TimeWait(); n != 1 {
					t.Fatalf("%d connections in TIME_WAIT, want 1", n)
				}
				send(header.TCPFlagSyn, number, 0)
				if h := next(header.TCPFlagSyn | header.TCPFlagAck); h.AckNumber() != number+1 {
					t.Errorf("the answer to the new SYN acknowledges %d, want %d", h.AckNumber(), number+1)
				}
				if n := s.TimeWait(); n != 0 {
					t.Errorf("%d connections in TIME_WAIT, want none", n)
				}
			})
		}
	}
}
