// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// fault 33: datagrams of every size arrive whole, both ways.
func TestDatagramSizes(t *testing.T) {
	a, b := newPair(t)
	for _, dst := range []netip.Addr{addrB4, addrB6} {
		t.Run(dst.String(), func(t *testing.T) {
			s := must[*netstack.UDPConn](t)(b.ListenUDP("udp", netip.AddrPort{}))
			c := must[*netstack.UDPConn](t)(a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(dst, portOf(s.LocalAddr()))))
			defer s.Close()
			defer c.Close()
			limit := time.Now().Add(20 * time.Second)
			if err := errors.Join(s.SetDeadline(limit), c.SetDeadline(limit)); err != nil {
				t.Fatal(err)
			}
			headers, largest := 28, 65_507
			if dst.Is6() {
				headers, largest = 48, 65_527
			}
			mtu := netstack.DefaultMTU
			buf := make([]byte, 1<<16)
			for _, size := range []int{0, 1, mtu - headers - 1, mtu - headers, mtu - headers + 1, mtu - 1, mtu, mtu + 1, 9000, largest - 1, largest} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				if n, err := c.Write(sent); n != size || err != nil {
					t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
				}
				n, from, err := s.ReadFromUDPAddrPort(buf)
				if err != nil || !bytes.Equal(buf[:n], sent) || from.Addr().Is4() != dst.Is4() {
					t.Fatalf("read %d of %d bytes from %s: %v", n, size, from, err)
				}
				if n, err := s.WriteToUDPAddrPort(sent, from); n != size || err != nil {
					t.Fatalf("wrote back %d of %d bytes: %v", n, size, err)
				}
				if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], sent) {
					t.Fatalf("read back %d of %d bytes: %v", n, size, err)
				}
			}
			if _, err := c.Write(make([]byte, largest+1)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("one byte more: %v", err)
			}
		})
	}
}

// fault 33: the fragments of datagrams that are under way at once can be told apart (RFC 6864, section 4.3). They are also
// such that a router may cut again.
func TestFragmentIDs(t *testing.T) {
	x := newTarget(t)
	dialed := must[*netstack.UDPConn](t)(x.s.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, 9)))
	defer dialed.Close()
	const datagrams, size = 20, 8000
	for i := range datagrams {
		var err error
		if i%2 == 0 {
			_, err = dialed.Write(make([]byte, size))
		} else {
			_, err = x.u.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(addrB4, 9))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	lengths := map[uint16]int{} // by ID
	for left := datagrams * (size + header.UDPMinimumSize); left > 0; {
		h := header.IPv4(x.next())
		if h.ID() == 0 || h.Flags()&header.IPv4FlagDontFragment != 0 {
			t.Fatalf("a fragment with ID %d and flags %#x", h.ID(), h.Flags())
		}
		lengths[h.ID()] += int(h.PayloadLength())
		left -= int(h.PayloadLength())
	}
	if len(lengths) < datagrams-2 { // IDs are drawn by chance
		t.Errorf("%d datagrams have %d IDs: %v", datagrams, len(lengths), lengths)
	}
}
