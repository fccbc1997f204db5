// SPDX-License-Identifier: MIT

package outer

import (
	"errors"

	"golang.org/x/sys/windows"
)

// setSocketOptions asks for large buffers and takes what is given.
func setSocketOptions(_ string, fd uintptr) {
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_RCVBUF, socketBuffer)
	_ = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_SNDBUF, socketBuffer)
}

// isSystemDatagramError names what Windows reports for a datagram that is larger than the device's buffer, and for
// the ICMP errors that one of ours has caused.
func isSystemDatagramError(err error) bool {
	return errors.Is(err, windows.WSAEMSGSIZE) || errors.Is(err, windows.WSAECONNRESET) ||
		errors.Is(err, windows.WSAENETRESET)
}
