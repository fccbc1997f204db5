// SPDX-License-Identifier: MIT

package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// Lengths and places of rtnetlink(7)'s messages.
const (
	routeRequest = syscall.SizeofNlMsghdr + syscall.SizeofRtMsg // before the attributes
	routeTypeAt  = syscall.SizeofNlMsghdr + 7                   // rtm_type
)

// routeKind asks the kernel which way a packet to addr would go: its answer knows addresses that no list of the interfaces
// has, such as a prefix that is the host's own by a route ("ip route add local"), and is never out of date. The kernel
// answers at once, and as for a socket without marks and without an interface of its own.
func routeKind(addr netip.Addr) (special, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_ROUTE)
	if err != nil {
		return special{}, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	if err := syscall.Sendto(fd, appendRouteRequest(nil, addr), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return special{}, os.NewSyscallError("sendto", err)
	}
	var b [4096]byte // a route has a few dozen bytes of attributes; what matters is before them
	// By now the answer is there: the kernel makes it within sendto.
	n, from, err := syscall.Recvfrom(fd, b[:], syscall.MSG_DONTWAIT)
	if err != nil {
		return special{}, os.NewSyscallError("recvfrom", err)
	}
	if nl, ok := from.(*syscall.SockaddrNetlink); !ok || nl.Pid != 0 {
		return special{}, errors.New("the answer is not the kernel's")
	}
	return parseRoute(b[:n])
}

// appendRouteRequest appends the question for the route to an address.
func appendRouteRequest(b []byte, addr netip.Addr) []byte {
	dst := addr.AsSlice()
	family := byte(syscall.AF_INET)
	if addr.Is6() {
		family = syscall.AF_INET6
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(routeRequest+syscall.SizeofRtAttr+len(dst)))
	b = binary.NativeEndian.AppendUint16(b, syscall.RTM_GETROUTE)
	b = binary.NativeEndian.AppendUint16(b, syscall.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)                                    // sequence number, port
	b = append(b, family, byte(addr.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // rtmsg: of no table
	b = binary.NativeEndian.AppendUint16(b, uint16(syscall.SizeofRtAttr+len(dst)))
	b = binary.NativeEndian.AppendUint16(b, syscall.RTA_DST)
	return append(b, dst...)
}

// parseRoute says what the answer to the question for a route makes of the address.
func parseRoute(b []byte) (special, error) {
	if len(b) < routeRequest {
		return special{}, fmt.Errorf("an answer of %d bytes: want %d or more", len(b), routeRequest)
	}
	switch kind := binary.NativeEndian.Uint16(b[4:]); kind {
	case syscall.RTM_NEWROUTE:
	case syscall.NLMSG_ERROR:
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(b[syscall.SizeofNlMsghdr:])))
		switch errno {
		case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EACCES, syscall.EINVAL: // no route, unreachable, prohibit, blackhole
			return special{}, nil // which the socket is told as well
		}
		return special{}, errno
	default:
		return special{}, fmt.Errorf("an answer of type %d: want a route", kind)
	}
	switch b[routeTypeAt] {
	case syscall.RTN_LOCAL:
		return special{what: "the host's own address"}, nil
	case syscall.RTN_ANYCAST:
		return special{what: "an anycast address of routers"}, nil
	case syscall.RTN_BROADCAST:
		return special{"a broadcast address", true}, nil
	case syscall.RTN_MULTICAST:
		return special{"a multicast address", true}, nil
	}
	return special{}, nil
}
