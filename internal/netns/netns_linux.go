// SPDX-License-Identifier: MIT

package netns

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// commandTimeout bounds each command that Run and the set-up start.
const commandTimeout = 30 * time.Second

// debian names the package of each command that a test may lack.
var debian = map[string]string{
	"curl": "curl", "dig": "bind9-dnsutils", "dnsmasq": "dnsmasq-base", "ip": "iproute2", "nft": "nftables", "nginx": "nginx-light",
	"ping": "iputils-ping", "wg": "wireguard-tools", "wireguard-go": "wireguard-go",
}

// New makes a namespace. The commands are those that the test wants to run inside, on top of ip, wg and wireguard-go:
// if one is missing the test is skipped with a word on what to install.
func New(tb testing.TB, commands ...string) *Namespace {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("netns: making a network namespace needs root")
	}
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		tb.Skipf("netns: no TUN device: %v", err)
	} else {
		f.Close()
	}
	for _, c := range append([]string{"ip", "wg", "wireguard-go"}, commands...) {
		if _, err := exec.LookPath(c); err != nil {
			tb.Skipf("netns: the command %q is missing: apt-get install %s", c, cmp.Or(debian[c], c))
		}
	}

	n := &Namespace{tb: tb}
	n.create()
	host, inside := fmt.Sprintf("wgn%dh", n.block), fmt.Sprintf("wgn%dn", n.block)
	// A /30 for each block out of 10.213.0.0/16, and a /64 out of a unique local prefix (RFC 4193).
	n.Outside4 = netip.AddrFrom4([4]byte{10, 213, byte(n.block >> 6), byte(n.block<<2) + 1})
	n.Inside4 = n.Outside4.Next()
	n.Outside6 = netip.MustParseAddr(fmt.Sprintf("fd5e:77a1:9c03:%x::1", n.block))
	n.Inside6 = n.Outside6.Next()
	n.must("ip", "link", "add", host, "type", "veth", "peer", "name", inside, "netns", n.Name)
	n.must("ip", "link", "set", host, "up")
	n.must("ip", "-n", n.Name, "link", "set", "lo", "up")
	n.must("ip", "-n", n.Name, "link", "set", inside, "up")
	n.must("ip", "addr", "add", n.Outside4.String()+"/30", "dev", host)
	n.must("ip", "-n", n.Name, "addr", "add", n.Inside4.String()+"/30", "dev", inside)
	// nodad: an address is of use at once, not after a second of duplicate address detection (RFC 4862 section 5.4).
	n.must("ip", "addr", "add", n.Outside6.String()+"/64", "dev", host, "nodad")
	n.must("ip", "-n", n.Name, "addr", "add", n.Inside6.String()+"/64", "dev", inside, "nodad")
	return n
}

// create finds a free block and makes its namespace. `ip netns add` fails if the name exists, so two test processes
// cannot get the same block.
func (n *Namespace) create() {
	n.tb.Helper()
	var err error
	for range 20 {
		n.block = rand.IntN(1 << 14)
		n.Name = fmt.Sprintf("wgnet-%d", n.block)
		if _, err = output(exec.Command("ip", "netns", "add", n.Name)); err == nil {
			n.tb.Cleanup(func() {
				// The veth pair ends with the namespace, but only when the kernel gets to it: take it down first.
				// It may not exist, if New failed before it.
				output(exec.Command("ip", "link", "del", fmt.Sprintf("wgn%dh", n.block)))
				if _, err := output(exec.Command("ip", "netns", "del", n.Name)); err != nil {
					n.tb.Errorf("netns: %v", err)
				}
			})
			return
		}
	}
	n.tb.Skipf("netns: cannot make a network namespace here: %v", err)
}

// Command is a command that runs in the namespace and is killed when ctx ends.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Run runs a command in the namespace and returns what it prints to its standard output. If it fails, so does the
// test, with all that it printed.
func (n *Namespace) Run(name string, args ...string) string {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out, err := output(n.Command(ctx, name, args...))
	if err != nil {
		n.tb.Fatalf("netns: %v", err)
	}
	return out
}

// Listen opens a listener of the kernel's stack in the namespace, for the test's own process to accept from. It is
// closed in the test's Cleanup.
func (n *Namespace) Listen(network, address string) (l net.Listener) {
	n.tb.Helper()
	if err := n.Do(func() (err error) { l, err = net.Listen(network, address); return err }); err != nil {
		n.tb.Fatalf("netns: listen in %s: %v", n.Name, err)
	}
	n.tb.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket is Listen for datagrams.
func (n *Namespace) ListenPacket(network, address string) (c net.PacketConn) {
	n.tb.Helper()
	if err := n.Do(func() (err error) { c, err = net.ListenPacket(network, address); return err }); err != nil {
		n.tb.Fatalf("netns: listen in %s: %v", n.Name, err)
	}
	n.tb.Cleanup(func() { c.Close() })
	return c
}

// Do calls f on a thread that is in the namespace: sockets that f opens stay there. f must not open them from other
// goroutines, as net.Dial does for a name.
func (n *Namespace) Do(f func() error) error {
	result := make(chan error, 1)
	go func() { // ends with f; Do waits for it
		// Never unlocked: the runtime ends the thread with the goroutine, so no other code runs in the namespace.
		runtime.LockOSThread()
		ns, err := os.Open("/run/netns/" + n.Name)
		if err != nil {
			result <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- os.NewSyscallError("setns", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// must runs a command of the set-up.
func (n *Namespace) must(name string, args ...string) {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if _, err := output(exec.CommandContext(ctx, name, args...)); err != nil {
		n.tb.Fatalf("netns: %v", err)
	}
}

// output runs a command; its error has all that the command printed.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stdout.String() + stderr.String())
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, cmp.Or(said, "it printed nothing"))
	}
	return stdout.String(), nil
}
