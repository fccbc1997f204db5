// SPDX-License-Identifier: MIT

// Package netns gives a test a network namespace of its own, joined to the host by a veth pair, with a real kernel
// network stack inside, real commands (curl, ping) and wireguard-go, the daemon, on a real TUN.
//
//	ns := netns.New(t, "curl") // skips the test if it is not Linux, not root, or something is missing
//	wg := ns.WireGuard(conf)   // the text of a wg-quick file
//	out := ns.Run("curl", "-sS", "http://10.0.0.2:9090")
//
// The test's own process stays where it is: it reaches the namespace at ns.Inside4 and ns.Inside6, and is reached
// from it at ns.Outside4 and ns.Outside6. No packet leaves the host. All is taken down in the test's Cleanup.
package netns

import (
	"net/netip"
	"testing"
)

// A Namespace is a network namespace and the veth pair that joins it to the host.
type Namespace struct {
	Name               string
	Outside4, Outside6 netip.Addr // of the veth's end on the host
	Inside4, Inside6   netip.Addr // of the veth's end in the namespace

	tb    testing.TB
	block int // names and addresses are made of this number
	wgs   int // how many daemons were started
}
