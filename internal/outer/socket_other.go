// SPDX-License-Identifier: MIT

//go:build !linux

package outer

import (
	"log/slog"
	"net"
)

// newUDPSocket takes over udp.
func newUDPSocket(udp *net.UDPConn, _ *slog.Logger) (socket, error) {
	return newPacketSocket(udp), nil
}
