// SPDX-License-Identifier: MIT

//go:build unix

package main

import (
	"errors"
	"net"
	"syscall"
)

// blackHole opens a port at which SYNs are lost: its backlog is of one connection, and that is there.
func blackHole() (port net.Addr, close func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	rc, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		var smaller error
		err = rc.Control(func(fd uintptr) { smaller = syscall.Listen(int(fd), 0) })
		err = errors.Join(err, smaller)
	}
	var first net.Conn
	if err == nil {
		first, err = net.Dial("tcp", l.Addr().String())
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l.Addr(), func() {
		first.Close()
		l.Close()
	}, nil
}
