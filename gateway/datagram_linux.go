// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"os"
	"syscall"
)

// reportErrors has a UDP socket tell of each ICMP error. By default a connected one tells of closed ports, and not that
// a host or a network is unreachable (ip(7), IP_RECVERR).
func reportErrors(c syscall.RawConn) error {
	var err4, err6 error
	if err := c.Control(func(fd uintptr) {
		err4 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_RECVERR, 1)
		err6 = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, 1)
	}); err != nil {
		return err
	}
	if err4 != nil && err6 != nil { // a socket is of one family
		return os.NewSyscallError("setsockopt", errors.Join(err4, err6))
	}
	return nil
}

// forgetErrors empties the queue that goes with reportErrors: what waits in it takes room from the datagrams.
func forgetErrors(fd int) {
	var b [1]byte
	for range 1024 { // more than a socket's buffer holds; the next error empties the rest
		if _, _, _, _, err := syscall.Recvmsg(fd, b[:], nil, syscall.MSG_ERRQUEUE|syscall.MSG_DONTWAIT); err != nil {
			return // EAGAIN, when it is empty
		}
	}
}
