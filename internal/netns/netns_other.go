// SPDX-License-Identifier: MIT

//go:build !linux

package netns

import (
	"context"
	"net"
	"os/exec"
	"testing"
)

// New skips the test: only Linux has network namespaces.
func New(tb testing.TB, commands ...string) *Namespace {
	tb.Helper()
	tb.Skip("netns: only Linux has network namespaces")
	return nil
}

// WireGuard is never reached: New skips.
func (n *Namespace) WireGuard(conf string) *WireGuard { return nil }

// Command is never reached: New skips.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd { return nil }

// Run is never reached: New skips.
func (n *Namespace) Run(name string, args ...string) string { return "" }

// Serve is never reached: New skips.
func (n *Namespace) Serve(address, name string, args ...string) {}

// Listen is never reached: New skips.
func (n *Namespace) Listen(network, address string) net.Listener { return nil }

// ListenPacket is never reached: New skips.
func (n *Namespace) ListenPacket(network, address string) net.PacketConn { return nil }

// Do is never reached: New skips.
func (n *Namespace) Do(f func() error) error { return nil }

// WireGuard is a running wireguard-go daemon.
type WireGuard struct{ Interface string }

// Show is never reached: New skips.
func (w *WireGuard) Show() string { return "" }

// Down is never reached: New skips.
func (w *WireGuard) Down() {}
