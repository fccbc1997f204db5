// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"example.com/wgnet/netstack"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// fault 65, for the stack's own listeners: past the accept backlog connections are not taken in, and counted; those that
// were are whole.
func TestAcceptBacklog(t *testing.T) {
	a, b := newPair(t)
	l := must[*netstack.TCPListener](t)(b.ListenTCP("tcp", netip.AddrPortFrom(addrB4, 80)))
	defer l.Close()
	const backlog = 100
	l.SetBacklog(backlog)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	const dialers = 8
	for range dialers {
		wg.Go(func() { // ended by cancel
			for ctx.Err() == nil {
				if c, err := a.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 80)); err == nil {
					defer c.Close()
				}
			}
		})
	}
	if !eventually(func() bool { return b.Drops().Unaccepted > 0 }) {
		t.Fatalf("nothing was dropped: %+v, %d endpoints", b.Drops(), b.Endpoints())
	}
	// A dialer may have one that is complete on its side alone; the listener itself is one of the endpoints.
	if n := b.Endpoints(); n < backlog || n > backlog+2*dialers+2 {
		t.Errorf("%d endpoints, want about %d", n, backlog)
	}
	for range backlog {
		c, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// What a stack drops it counts, by reason.
func TestDrops(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	s.SetRoutes(routes(1, "10.0.0.2/32"))
	d := s.Device()
	write := func(packet []byte) {
		t.Helper()
		if _, err := d.Write([][]byte{packet}, 0); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want netstack.Drops) {
		t.Helper()
		if got := s.Drops(); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	check(netstack.Drops{})
	write([]byte{0x45})
	write(rawUDP(addrA4, addrA4, 9, 9, nil)) // from ourselves
	check(netstack.Drops{Refused: 2})

	write(rawICMP(netip.MustParseAddr("10.0.0.3"), addrA4, uint8(header.ICMPv4Echo), 0, [4]byte{}, nil))
	check(netstack.Drops{Refused: 2, Unsent: 1}) // the answer's address is nobody's

	pc := must[*netstack.UDPConn](t)(s.ListenUDP("udp", netip.AddrPortFrom(addrA4, 53)))
	defer pc.Close()
	big := rawUDP(addrB4, addrA4, 9, 53, make([]byte, 60_000))
	for range 100 { // 6 MB, where 4 MiB fit
		write(big)
	}
	got := s.Drops()
	if got.Unread < 25 || got.Unread > 40 {
		t.Errorf("%d datagrams are counted as not read", got.Unread)
	}
	got.Unread = 0
	if want := (netstack.Drops{Refused: 2, Unsent: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
