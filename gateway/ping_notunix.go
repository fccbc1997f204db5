// SPDX-License-Identifier: MIT

//go:build !unix

package gateway

import (
	"errors"
	"net"
	"syscall"
)

const systemPicksID = false

// listenPing fails: the system has no sockets for pings but raw ones.
func listenPing(bool, func(string, string, syscall.RawConn) error) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}
