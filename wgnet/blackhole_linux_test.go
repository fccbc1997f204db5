// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// blackHole returns an endpoint on a network of the host's at which there is nobody: what is sent to it fills the send
// buffer until the system gives up on finding the neighbor.
func blackHole(t *testing.T) string {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, ifi := range interfaces {
		if ifi.Flags&(net.FlagBroadcast|net.FlagUp) != net.FlagBroadcast|net.FlagUp || len(ifi.HardwareAddr) == 0 {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			own, err := netip.ParsePrefix(addr.String())
			if err == nil && own.Addr().Is4() && own.Bits() <= 24 {
				// Few networks have a host at .250, and it answers to nothing that is not meant for it.
				b := own.Addr().As4()
				b[3] = 250
				return netip.AddrPortFrom(netip.AddrFrom4(b), 9).String()
			}
		}
	}
	t.Skip("no Ethernet with IPv4 here")
	return ""
}

// smallSendBuffer is a Config.Control that makes the send buffer as small as can be.
func smallSendBuffer(_, _ string, c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 1) }); err != nil {
		return err
	}
	return set
}
