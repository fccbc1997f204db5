// SPDX-License-Identifier: MIT

package outer

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The headers that a datagram gets outside: IPv4's or IPv6's, and UDP's.
const (
	ipv4Headers = 20 + 8
	ipv6Headers = 40 + 8
)

// largestDatagram asks the system what the path takes unfragmented: a socket that is connected there knows its MTU (ip(7),
// IP_MTU). Ours is connected to nobody. 0 means that it is not known.
func largestDatagram(to netip.AddrPort, scope uint32) int {
	family, level, option, headers := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU, ipv6Headers
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), ZoneId: scope, Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		family, level, option, headers = unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU, ipv4Headers
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return 0
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return max(0, mtu-headers)
}
