// SPDX-License-Identifier: MIT

package outer

import (
	"errors"

	"golang.org/x/sys/windows"
)

// setSocketOptions makes an IPv6 socket carry IPv4 too, asks for large buffers and takes what is given.
func setSocketOptions(network string, fd uintptr) {
	if network == "udp6" {
		_ = windows.SetsockoptInt(windows.Handle(fd), windows.IPPROTO_IPV6, windows.IPV6_V6ONLY, 0)
	}
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_RCVBUF, socketBuffer)
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_SNDBUF, socketBuffer)
}

// errPortTaken is what the system answers for a port that is in use.
const errPortTaken = windows.WSAEADDRINUSE

// isFamilyError reports whether a socket was refused because the host lacks its address family.
func isFamilyError(err error) bool {
	return errors.Is(err, windows.WSAEAFNOSUPPORT) || errors.Is(err, windows.WSAEADDRNOTAVAIL)
}

// isSystemDatagramError names what Windows reports for a datagram that is larger than the device's buffer, and for
// the ICMP errors that one of ours has caused.
func isSystemDatagramError(err error) bool {
	return errors.Is(err, windows.WSAEMSGSIZE) || errors.Is(err, windows.WSAECONNRESET) ||
		errors.Is(err, windows.WSAENETRESET)
}
