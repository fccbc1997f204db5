// SPDX-License-Identifier: MIT

//go:build unix

package gateway

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// readDatagrams gives each datagram of a socket to use, until an error of either. After one of c, again says whether to go
// on. It takes a buffer when there is something to read: an idle socket holds none.
func readDatagrams(c *net.UDPConn, use func([]byte) error, again func(error) bool) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var readErr, useErr error
		var buf *[maxDatagram]byte
		var size int
		err := raw.Read(func(fd uintptr) (done bool) {
			buf = datagrams.Get().(*[maxDatagram]byte)
			for {
				size, readErr = syscall.Read(int(fd), buf[:])
				if !errors.Is(readErr, syscall.EINTR) {
					break
				}
			}
			if errors.Is(readErr, syscall.EAGAIN) {
				datagrams.Put(buf)
				buf = nil
				return false
			}
			if readErr != nil {
				forgetErrors(int(fd))
			}
			return true
		})
		if buf != nil {
			if err == nil && readErr == nil {
				useErr = use(buf[:size])
			}
			datagrams.Put(buf)
		}
		switch {
		case err != nil:
			return err
		case readErr != nil && !again(readErr):
			return os.NewSyscallError("read", readErr)
		case useErr != nil && !lost(useErr):
			return useErr
		}
	}
}
