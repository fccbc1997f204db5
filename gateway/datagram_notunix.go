// SPDX-License-Identifier: MIT

//go:build !unix

package gateway

import "net"

// readDatagrams gives each datagram of a socket to use, until an error of either.
func readDatagrams(c *net.UDPConn, use func([]byte) error) error { return readMessages(c, use) }
