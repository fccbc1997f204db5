// SPDX-License-Identifier: MIT

package wgnet

import (
	"net"
	"net/netip"
	"strings"
)

// Listen listens on an address of this host, as [net.Listen] does. Networks are "tcp", "tcp4" and "tcp6". The address
// is "host:port" with a number for the port; port 0 picks a free one, which [net.Listener.Addr] tells. The host is one
// of the Net's addresses, localhost, or nothing: all addresses of both families.
//
// Errors are [*net.OpError]; errors.Is holds for EADDRINUSE, EADDRNOTAVAIL (not one of the Net's addresses) and
// [net.ErrClosed].
func (n *Net) Listen(network, address string) (net.Listener, error) {
	addr, err := listenAddr("tcp", network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	l, err := n.stack.ListenTCP(network, addr)
	if err != nil {
		return nil, err
	}
	return &listener{l, n}, nil
}

// ListenPacket listens for datagrams as Listen does for connections. Networks are "udp", "udp4" and "udp6". The
// connection has the methods of [net.UDPConn]: ReadFromUDPAddrPort, WriteToUDPAddrPort, SetReadBuffer and so on.
func (n *Net) ListenPacket(network, address string) (net.PacketConn, error) {
	addr, err := listenAddr("udp", network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	c, err := n.stack.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// listenAddr parses an address to listen on by a protocol, "tcp" or "udp".
func listenAddr(protocol, network, address string) (netip.AddrPort, error) {
	if family, ok := strings.CutPrefix(network, protocol); !ok || family != "" && family != "4" && family != "6" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		return netip.AddrPortFrom(netip.Addr{}, port), nil
	}
	if isLocalhost(host) {
		addr := loopback[0]
		if strings.HasSuffix(network, "6") {
			addr = loopback[1]
		}
		return netip.AddrPortFrom(addr, port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "want an address of this host, localhost or nothing before the port", Addr: address}
	}
	return netip.AddrPortFrom(addr, port), nil
}
