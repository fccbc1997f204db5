// SPDX-License-Identifier: MIT

//go:build unix && !linux

package outer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// setSocketOptions makes an IPv6 socket carry IPv4 too, asks for large buffers and takes what is given.
func setSocketOptions(network string, fd uintptr) {
	if network == "udp6" {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
}

// errPortTaken is what the system answers for a port that is in use.
const errPortTaken = unix.EADDRINUSE

// isFamilyError reports whether a socket was refused because the host lacks its address family.
func isFamilyError(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

func isSystemDatagramError(error) bool { return false }
