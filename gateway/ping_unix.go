// SPDX-License-Identifier: MIT

//go:build unix

package gateway

import (
	"net"
	"os"
	"runtime"
	"syscall"
)

// systemPicksID says whether the system puts an identifier of its own into what a ping socket sends, and gives the
// socket only the replies to that.
const systemPicksID = runtime.GOOS == "linux"

// listenPing opens a socket for echo requests and their replies, as macOS has for everybody and Linux for the groups in
// net.ipv4.ping_group_range. [icmp.ListenPacket] does the same, without a way to call control.
func listenPing(v6 bool, control func(string, string, syscall.RawConn) error) (net.PacketConn, error) {
	network, address, family, protocol := "udp4", "0.0.0.0:0", syscall.AF_INET, icmpProtocol4
	var unspecified syscall.Sockaddr = &syscall.SockaddrInet4{}
	if v6 {
		network, address, family, protocol = "udp6", "[::]:0", syscall.AF_INET6, icmpProtocol6
		unspecified = &syscall.SockaddrInet6{}
	}
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM, protocol)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close() // FilePacketConn makes a copy
	if control != nil {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := control(network, address, raw); err != nil {
			return nil, err
		}
	}
	if err := syscall.Bind(fd, unspecified); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return net.FilePacketConn(f)
}
