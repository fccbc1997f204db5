// SPDX-License-Identifier: MIT

//go:build !unix

package main

import (
	"errors"
	"net"
)

// blackHole would open a port at which SYNs are lost.
func blackHole() (port net.Addr, close func(), err error) {
	return nil, nil, errors.New("a flood needs a port at which SYNs are lost, which takes a Unix system")
}
