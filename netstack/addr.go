// SPDX-License-Identifier: MIT

package netstack

import (
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

func protocolOf(addr netip.Addr) tcpip.NetworkProtocolNumber {
	if addr.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// gvisorAddr does not allocate, as tcpip.AddrFromSlice(addr.AsSlice()) does.
func gvisorAddr(addr netip.Addr) tcpip.Address {
	if addr.Is4() {
		return tcpip.AddrFrom4(addr.As4())
	}
	return tcpip.AddrFrom16(addr.As16())
}

// fullAddress leaves the NIC at zero: naming the tunnel's NIC would cut the loopback off.
// An unspecified address becomes the empty one, which is gVisor's wildcard for both families.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	fa := tcpip.FullAddress{Port: ap.Port()}
	if ap.Addr().IsValid() && !ap.Addr().IsUnspecified() {
		fa.Addr = gvisorAddr(ap.Addr())
	}
	return fa
}

// addrPort is the reverse of fullAddress. The endpoint of a dual-stack socket speaks of IPv4 in 4-in-6 form,
// which nobody outside of it wants to see.
func addrPort(fa tcpip.FullAddress) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(fa.Addr.AsSlice())
	return netip.AddrPortFrom(addr.Unmap(), fa.Port)
}

// localHost is what the net package dials for an unspecified address: the local system.
func localHost(addr netip.Addr) netip.Addr {
	if addr.IsValid() && addr.IsUnspecified() {
		return loopbackLike(addr)
	}
	return addr
}

// loopbackLike returns the loopback address of addr's family.
func loopbackLike(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return loopback4
	}
	return loopback6
}

// destination reads a packet's destination without the allocation that gVisor's own accessor makes. It is the zero Addr
// for a packet without an IP header.
func destination(pkt *stack.PacketBuffer) netip.Addr {
	h := pkt.NetworkHeader().Slice()
	switch {
	case pkt.NetworkProtocolNumber == ipv4.ProtocolNumber && len(h) >= header.IPv4MinimumSize:
		return netip.AddrFrom4([4]byte(h[16:20]))
	case pkt.NetworkProtocolNumber == ipv6.ProtocolNumber && len(h) >= header.IPv6MinimumSize:
		return netip.AddrFrom16([16]byte(h[24:40]))
	}
	return netip.Addr{}
}

// normalize unmaps a 4-in-6 address and drops a zone, which has no meaning where there is one link.
func normalize(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// tcpAddr and udpAddr return nil, not a typed nil, for an address that says nothing.
func tcpAddr(ap netip.AddrPort) net.Addr {
	if ap == (netip.AddrPort{}) {
		return nil
	}
	return net.TCPAddrFromAddrPort(ap)
}

func udpAddr(ap netip.AddrPort) net.Addr {
	if ap == (netip.AddrPort{}) {
		return nil
	}
	return net.UDPAddrFromAddrPort(ap)
}
