// SPDX-License-Identifier: MIT

// Package wgnetroot is the front page of the wgnet module and has no API.
//
// Import [example.com/wgnet/wgnet] to put a Go program on a WireGuard network: it runs the whole tunnel and a
// TCP/IP stack inside the process, with no root, no TUN device and no sidecar. [example.com/wgnet/netstack] is
// the stack by itself, as a device that golang.zx2c4.com/wireguard drives.
//
// README.md shows the first program, ARCHITECTURE.md the way of a packet through the folders.
package wgnetroot
