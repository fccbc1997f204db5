// SPDX-License-Identifier: MIT

// Package gateway lets the peers of a tunnel into the networks of the host: TCP, UDP and ping, IPv4 and IPv6, through
// ordinary sockets, with no root, no ip_forward and no NAT in the kernel.
package gateway
