// SPDX-License-Identifier: MIT

package nettests

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var udpCases = []testCase{
	{"UDP: fault 27: empty reads and datagrams", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		n, err := c.Read(nil)
		w.note("read nothing", n, err)
		n, err = c.Write(nil)
		w.note("write an empty datagram", n, err)
		n, from, err := s.ReadFromUDPAddrPort(make([]byte, 10))
		w.note("read it", n, err, from.String() == c.LocalAddr().String())
		n, err = s.WriteTo(nil, c.LocalAddr())
		w.note("an empty answer", n, err)
		n, err = c.Read(make([]byte, 10))
		w.note("read it", n, err)
	}},
	{"UDP: boundaries", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		for _, text := range []string{"first datagram", "second", "third", "fourth"} {
			_, _ = c.Write([]byte(text))
		}
		b := make([]byte, 5)
		n, _, err := s.ReadFrom(b)
		w.note("a part", n, err, string(b[:n]))
		n, _, err = s.ReadFrom(nil)
		w.note("no room", n, err)
		n, _, err = s.ReadFrom(b)
		w.note("whole", n, err, string(b[:n]))
		n, err = s.Read(make([]byte, 100))
		w.note("Read on an unconnected one", n, err)
	}},
	{"UDP: fault 28: use after Close", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		for _, pc := range []UDPConn{c, s} {
			w.note("close", pc.Close())
			w.note("close", pc.Close())
			_, err := pc.Read(make([]byte, 1))
			w.note("read", err)
			_, err = pc.Read(nil)
			w.note("read nothing", err)
			_, _, err = pc.ReadFrom(make([]byte, 1))
			w.note("read from", err)
			w.note("deadline", pc.SetDeadline(past))
			w.note("read deadline", pc.SetReadDeadline(past))
			w.note("write deadline", pc.SetWriteDeadline(past))
			w.note("address", pc.LocalAddr() != nil, pc.RemoteAddr() != nil)
		}
		_, err := c.Write([]byte("x"))
		w.note("write", err)
		_, err = s.WriteTo([]byte("x"), c.LocalAddr())
		w.note("write to", err)
	}},
	{"UDP: fault 28: Close unblocks", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		for _, pc := range []UDPConn{c, s} {
			var err error
			wait := inBackground(func() { _, _, err = pc.ReadFrom(make([]byte, 1)) })
			w.note("close", pc.Close())
			wait()
			w.note("read from", err)
		}
	}},
	{"UDP: fault 29: deadlines", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		b := make([]byte, 10)
		w.note("set past", s.SetReadDeadline(past))
		n, _, err := s.ReadFrom(b)
		w.note("read from", n, err)
		w.note("set soon", s.SetReadDeadline(shortly()))
		n, _, err = s.ReadFrom(b)
		w.note("read from", n, err)
		n, err = s.Read(b)
		w.note("read", n, err)
		_ = s.SetReadDeadline(time.Now().Add(time.Hour))
		wait := inBackground(func() { _, _, err = s.ReadFrom(b) })
		w.note("set past", s.SetDeadline(past))
		wait()
		w.note("read from", err)
		n, err = s.WriteTo(b, c.LocalAddr())
		w.note("write to", n, err)
		w.note("clear", s.SetDeadline(noTime))
		n, err = s.WriteTo(b, c.LocalAddr())
		w.note("write to", n, err)
		n, err = c.Read(b)
		w.note("read", n, err)
		_ = c.SetWriteDeadline(past)
		n, err = c.Write(b)
		w.note("write", n, err)
	}},
	{"UDP: fault 30: refused", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		s.Close()
		n, err := c.Write([]byte("x"))
		w.note("write", n, err)
		_, err = c.Read(make([]byte, 1))
		w.note("read", err)
		_, _ = c.Write([]byte("x"))
		_, err = c.Read(make([]byte, 1))
		w.note("read again", err)
	}},
	{"UDP: fault 32: addresses", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		_, err := c.WriteTo([]byte("x"), s.LocalAddr())
		w.note("write to on a connected one", err)
		_, err = c.WriteToUDPAddrPort([]byte("x"), w.at(9))
		w.note("write to on a connected one", err)
		_, err = s.Write([]byte("x"))
		w.note("write on an unconnected one", err)
		_, err = s.WriteTo([]byte("x"), &net.IPAddr{IP: w.Server.AsSlice()})
		w.note("IPAddr", err)
		_, err = s.WriteTo([]byte("x"), nil)
		w.note("nil", err)
		_, err = s.WriteTo([]byte("x"), &net.TCPAddr{IP: w.Server.AsSlice(), Port: 9})
		w.note("TCPAddr", err)
		_, err = s.WriteTo([]byte("x"), (*net.UDPAddr)(nil))
		w.note("nil UDPAddr", err != nil)
		_, err = s.WriteToUDPAddrPort([]byte("x"), netip.AddrPort{})
		w.note("zero AddrPort", err != nil)
		_, err = s.WriteToUDPAddrPort([]byte("x"), w.at(0))
		w.note("port 0", err)
		other := notOurs[!w.Server.Is4()]
		network := map[bool]string{true: "udp4", false: "udp6"}[w.Server.Is4()]
		one := must[UDPConn](t)(w.ListenUDP(network, w.wildcard()))
		_, err = one.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(other, 9))
		w.note("wrong family", err != nil) // the host says ENETUNREACH or names the family, by the family
		one.Close()
	}},
	{"UDP: fault 33: too long", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		largest := 65_527
		if w.Server.Is4() {
			largest = 65_507
		}
		n, err := c.Write(make([]byte, largest+1))
		w.note("write", n, err)
		n, err = s.WriteTo(make([]byte, largest+1), c.LocalAddr())
		w.note("write to", n, err)
		if w.Server.Is4() { // the host's loopback has an MTU of 65,536, and no fragments over IPv6 at that size
			n, err = c.Write(make([]byte, largest))
			w.note("write", n, err)
			n, _, err = s.ReadFrom(make([]byte, 1<<16))
			w.note("read from", n, err)
		}
	}},
	{"UDP: a connected socket hears its peer only", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		stranger := must[UDPConn](t)(w.ListenUDP("udp", w.at(0)))
		defer stranger.Close()
		_, err := stranger.WriteTo([]byte("stranger"), c.LocalAddr())
		w.note("write to", err)
		_, err = s.WriteTo([]byte("peer"), c.LocalAddr())
		w.note("write to", err)
		b := make([]byte, 20)
		n, from, err := c.ReadFrom(b)
		w.note("read from", n, err, string(b[:n]), from.String() == s.LocalAddr().String())
	}},
	{"UDP: ports and addresses", func(t *testing.T, w *World) {
		c, s := w.packets(t)
		w.note("networks", c.LocalAddr().Network(), c.RemoteAddr().String() == s.LocalAddr().String(), s.RemoteAddr() == nil)
		port := portOf(s.LocalAddr())
		_, err := w.ListenUDP("udp", w.at(port))
		w.note("the same again", err)
		_, err = w.ListenUDP("udp", netip.AddrPortFrom(notOurs[w.Server.Is4()], 0))
		w.note("not ours", err)
		for _, network := range w.notUDP {
			_, err = w.ListenUDP(network, w.at(0))
			w.note("unknown network", err)
			_, err = w.DialUDP(network, netip.AddrPort{}, w.at(9))
			w.note("unknown network", err)
		}
		all := must[UDPConn](t)(w.ListenUDP("udp", netip.AddrPort{}))
		defer all.Close()
		w.note("wildcard", strings.TrimRight(all.LocalAddr().String(), "0123456789"))
		_, err = w.ListenUDP("udp", netip.AddrPortFrom(netip.Addr{}, portOf(all.LocalAddr())))
		w.note("wildcard twice", err)
		sender := must[UDPConn](t)(w.ClientUDP("udp", netip.AddrPort{}))
		defer sender.Close()
		_, err = sender.WriteToUDPAddrPort([]byte("x"), w.at(portOf(all.LocalAddr())))
		w.note("write to", err)
		_, from, err := all.ReadFromUDPAddrPort(make([]byte, 1))
		w.note("read from", err, from.Addr().Unmap() == w.Client)
		_, err = all.WriteToUDPAddrPort([]byte("y"), from)
		w.note("answer", err)
		_, from, err = sender.ReadFromUDPAddrPort(make([]byte, 1))
		w.note("read from", err, from.Addr().Unmap() == w.Server)
	}},
}
