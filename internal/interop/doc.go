// SPDX-License-Identifier: MIT

// Package interop holds tests and no code: whole hosts of ours, made from wg0.conf files, talk over real UDP with
// WireGuard hosts of three kinds:
//
//   - wgnet: another one of ours, in the same process;
//   - upstream: wireguard-go's device on its own netstack, in the same process (internal/testpeer);
//   - wireguard-go: Debian's daemon on a real TUN in a network namespace, with the kernel's TCP/IP and real curl and
//     ping (internal/netns). These are skipped, with a word on what is missing, where they cannot run.
//
// A test says what it wants with a [scene] and goes through the kinds with eachKind. Times that a fault demands are
// logged as measured (go test -v); what is asserted leaves room for a loaded machine.
package interop
