// SPDX-License-Identifier: MIT

package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Lengths and places of rtnetlink(7)'s messages.
const (
	routeRequest = unix.SizeofNlMsghdr + unix.SizeofRtMsg // before the attributes
	routeTypeAt  = unix.SizeofNlMsghdr + 7                // rtm_type
)

// routeKind asks the kernel which way a packet to addr would go: its answer knows addresses that no list of the interfaces
// has, such as a prefix that is the host's own by a route ("ip route add local"), and is never out of date. The kernel
// answers at once, and as for a socket without marks and without an interface of its own.
func routeKind(addr netip.Addr) (special, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return special{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, appendRouteRequest(nil, addr), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return special{}, os.NewSyscallError("sendto", err)
	}
	var b [4096]byte // a route has a few dozen bytes of attributes; what matters is before them
	// By now the answer is there: the kernel makes it within sendto.
	n, from, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT)
	if err != nil {
		return special{}, os.NewSyscallError("recvfrom", err)
	}
	if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
		return special{}, errors.New("the answer is not the kernel's")
	}
	return parseRoute(b[:n])
}

// appendRouteRequest appends the question for the route to an address.
func appendRouteRequest(b []byte, addr netip.Addr) []byte {
	dst := addr.AsSlice()
	family := byte(unix.AF_INET)
	if addr.Is6() {
		family = unix.AF_INET6
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(routeRequest+unix.SizeofRtAttr+len(dst)))
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_GETROUTE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)                                    // sequence number, port
	b = append(b, family, byte(addr.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // rtmsg: of no table
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(dst)))
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	return append(b, dst...)
}

// parseRoute says what the answer to the question for a route makes of the address.
func parseRoute(b []byte) (special, error) {
	if len(b) < routeRequest {
		return special{}, fmt.Errorf("an answer of %d bytes: want %d or more", len(b), routeRequest)
	}
	switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
	case unix.RTM_NEWROUTE:
	case unix.NLMSG_ERROR:
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])))
		switch errno {
		case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL: // no route, unreachable, prohibit, blackhole
			return special{}, nil // which the socket is told as well
		}
		return special{}, errno
	default:
		return special{}, fmt.Errorf("an answer of type %d: want a route", kind)
	}
	switch b[routeTypeAt] {
	case unix.RTN_LOCAL:
		return special{what: "the host's own address"}, nil
	case unix.RTN_ANYCAST:
		return special{what: "an anycast address of routers"}, nil
	case unix.RTN_BROADCAST:
		return special{"a broadcast address", true}, nil
	case unix.RTN_MULTICAST:
		return special{"a multicast address", true}, nil
	}
	return special{}, nil
}
