// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
)

func TestPing(t *testing.T) {
	a, _ := newPair(t)
	for _, dst := range []netip.Addr{addrB4, addrB6, addrA4, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		r, err := a.Ping(testContext(t), dst, 7, 56)
		t.Log(dst, r, err)
		if err != nil || r.Size != 56 || r.TTL != 64 {
			t.Errorf("ping %s: %+v, %v", dst, r, err)
		}
	}
}

// fault 33.
func TestDatagramSizes(t *testing.T) {
	a, b := newPair(t)
	for _, dst := range []netip.Addr{addrB4, addrB6} {
		pc, err := b.ListenUDP("udp", netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		la := pc.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
		c, err := a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(dst, la.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		largest := 65507
		if dst.Is6() {
			largest = 65527
		}
		buf := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1391, 1392, 1393, 1419, 1420, 1421, 9000, largest} {
			want := bytes.Repeat([]byte{byte(size)}, size)
			if n, err := c.Write(want); n != size || err != nil {
				t.Fatalf("%s write %d: %d %v", dst, size, n, err)
			}
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("%s read %d: got %d from %v, %v", dst, size, n, from, err)
			}
			if from.Addr().Is4() != dst.Is4() {
				t.Fatalf("from %v", from)
			}
			// and back
			if _, err := pc.WriteToUDPAddrPort(want, from); err != nil {
				t.Fatal(err)
			}
			if size > 0 {
				if n, err := c.Read(buf); err != nil || n != size {
					t.Fatalf("back %d %v", n, err)
				}
			} else if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Write(make([]byte, largest+1)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Fatal(err)
		}
	}
}

// fault 37: the stack's own addresses and its loopback are its own.
func TestOwnAddresses(t *testing.T) {
	a, _ := newPair(t)
	for _, dst := range []netip.Addr{addrA4, addrA6, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.9.9.9"), netip.IPv6Loopback(), netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		t.Run(dst.String(), func(t *testing.T) {
			l, err := a.ListenTCP("tcp", netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			port := l.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
			c, err := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(dst, port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			t.Log(c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr())
			if c.LocalAddr().String() != s.RemoteAddr().String() {
				t.Error("the two ends do not agree")
			}
			pc, err := a.ListenUDP("udp", netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			uport := pc.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
			if _, err := pc.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(dst, uport)); err != nil {
				t.Fatal(err)
			}
			if n, from, err := pc.ReadFromUDPAddrPort(make([]byte, 9)); n != 1 || err != nil || from.Port() != uport {
				t.Fatal(n, from, err)
			}
		})
	}
}
