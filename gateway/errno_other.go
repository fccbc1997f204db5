// SPDX-License-Identifier: MIT

//go:build !windows

package gateway

import "syscall"

// answers are the errors of sockets that say what became of a packet, and what they are to the peer.
var answers = []answer{
	{syscall.ECONNREFUSED, []error{syscall.ECONNREFUSED, syscall.ECONNRESET}},
	{syscall.EHOSTUNREACH, []error{syscall.EHOSTUNREACH, syscall.EHOSTDOWN}},
	{syscall.ENETUNREACH, []error{syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT, syscall.EADDRNOTAVAIL}},
	{syscall.EACCES, []error{syscall.EACCES, syscall.EPERM}}, // a firewall of the host, or ICMP's "prohibited"
}

// lossErrnos are the errors of sockets after which the next datagram may fare better.
var lossErrnos = []error{syscall.EMSGSIZE, syscall.ENOBUFS, syscall.EAGAIN}
