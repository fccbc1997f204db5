// SPDX-License-Identifier: MIT

package netstack_test

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

// The net package's own test of a net.Conn, across two stacks.
func TestTCPConnIsANetConn(t *testing.T) {
	a, b := newPair(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d, acc := tcpPair(t, a, b)
		return d, acc, func() { d.Close(); acc.Close() }, nil
	})
}
