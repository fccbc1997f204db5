// SPDX-License-Identifier: MIT

//go:build !unix

package gateway

import "net"

// readDatagrams gives each datagram of a socket to use, until an error of either. After one of c, again says whether to go
// on.
func readDatagrams(c *net.UDPConn, use func([]byte) error, again func(error) bool) error {
	return readMessages(c, use, again)
}
