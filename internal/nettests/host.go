// SPDX-License-Identifier: MIT

package nettests

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
)

// HostValues is the world of package net's functions that take addresses as values, on one of the host's addresses.
func HostValues(addr netip.Addr) *World {
	tcp := func(ap netip.AddrPort) *net.TCPAddr {
		if ap == (netip.AddrPort{}) {
			return nil
		}
		return net.TCPAddrFromAddrPort(ap)
	}
	udp := func(ap netip.AddrPort) *net.UDPAddr {
		if ap == (netip.AddrPort{}) {
			return nil
		}
		return net.UDPAddrFromAddrPort(ap)
	}
	w := &World{Name: "the host", Server: addr, Client: addr, notTCP: []string{"", "tcp5", "udp", "unix"}, notUDP: []string{"", "udp5", "tcp"}}
	text := HostText(addr)
	w.DialTCP = func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (TCPConn, error) {
		if ctx != context.Background() {
			return text.DialTCP(ctx, network, laddr, raddr)
		}
		c, err := net.DialTCP(network, tcp(laddr), tcp(raddr))
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	w.ListenTCP = func(network string, laddr netip.AddrPort) (TCPListener, error) {
		return net.ListenTCP(network, tcp(laddr))
	}
	w.DialUDP = func(network string, laddr, raddr netip.AddrPort) (UDPConn, error) {
		return net.DialUDP(network, udp(laddr), udp(raddr))
	}
	w.ListenUDP = func(network string, laddr netip.AddrPort) (UDPConn, error) {
		return net.ListenUDP(network, udp(laddr))
	}
	w.ClientUDP = w.ListenUDP
	return w
}

// A Host has functions as those of package net that take addresses as text.
type Host interface {
	// Dial is that of a [net.Dialer] with a local address; the zero AddrPort means none.
	Dial(ctx context.Context, laddr netip.AddrPort, network, address string) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
}

// HostText is the world of package net's functions that take addresses as text, on one of the host's addresses.
func HostText(addr netip.Addr) *World {
	w := Text("the host", osHost{}, addr, osHost{}, addr)
	w.notTCP, w.notUDP = []string{"", "tcp5", "tcp:"}, []string{"", "udp5", "udp:"} // not "unix", which the host has
	return w
}

// Text is a world of two hosts.
func Text(name string, client Host, clientAddr netip.Addr, server Host, serverAddr netip.Addr) *World {
	return &World{
		Name: name, Client: clientAddr, Server: serverAddr,
		DialTCP: func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (TCPConn, error) {
			return as[TCPConn](client.Dial(ctx, laddr, network, text(raddr)))
		},
		ListenTCP: func(network string, laddr netip.AddrPort) (TCPListener, error) {
			return as[TCPListener](server.Listen(network, text(laddr)))
		},
		DialUDP: func(network string, laddr, raddr netip.AddrPort) (UDPConn, error) {
			return as[UDPConn](client.Dial(context.Background(), laddr, network, text(raddr)))
		},
		ListenUDP: func(network string, laddr netip.AddrPort) (UDPConn, error) {
			return as[UDPConn](server.ListenPacket(network, text(laddr)))
		},
		ClientUDP: func(network string, laddr netip.AddrPort) (UDPConn, error) {
			return as[UDPConn](client.ListenPacket(network, text(laddr)))
		},
	}
}

func text(ap netip.AddrPort) string {
	if !ap.Addr().IsValid() {
		return ":" + strconv.Itoa(int(ap.Port()))
	}
	return ap.String()
}

// as is what a function has returned, if it has all the methods that the cases use.
func as[To, From any](v From, err error) (to To, _ error) {
	if err != nil {
		return to, err
	}
	to, ok := any(v).(To)
	if !ok {
		return to, errors.New("a method is missing")
	}
	return to, nil
}

// osHost is package net.
type osHost struct{}

func (osHost) Dial(ctx context.Context, laddr netip.AddrPort, network, address string) (net.Conn, error) {
	var d net.Dialer
	switch {
	case laddr == netip.AddrPort{}:
	case network[:3] == "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(laddr)
	default:
		d.LocalAddr = net.TCPAddrFromAddrPort(laddr)
	}
	return d.DialContext(ctx, network, address)
}

func (osHost) Listen(network, address string) (net.Listener, error) {
	return net.Listen(network, address)
}

func (osHost) ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}
