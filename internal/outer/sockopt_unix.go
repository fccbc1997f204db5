// SPDX-License-Identifier: MIT

//go:build unix && !linux

package outer

import "golang.org/x/sys/unix"

// setSocketOptions asks for large buffers and takes what is given.
func setSocketOptions(_ string, fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
}

func isSystemDatagramError(error) bool { return false }
