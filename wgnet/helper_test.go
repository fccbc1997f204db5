// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// testContext bounds a test that would hang otherwise.
func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// newNet makes a Net that is closed when the test ends.
func newNet(tb testing.TB, cfg *wgnet.Config) *wgnet.Net {
	tb.Helper()
	n, err := wgnet.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeNet(tb, n) })
	return n
}

func closeNet(tb testing.TB, n *wgnet.Net) {
	tb.Helper()
	if err := n.Close(); err != nil {
		tb.Errorf("Close: %v", err)
	}
}

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func newConfig(addresses ...string) *wgnet.Config {
	return &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: prefixes(addresses...)}
}

func localhost(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// addPeer makes a host a peer of cfg.
func addPeer(cfg *wgnet.Config, name string, key wgnet.PublicKey, endpoint string, allowed ...string) {
	cfg.Peers = append(cfg.Peers, wgnet.PeerConfig{
		Name: name, PublicKey: key, Endpoint: endpoint, AllowedIPs: prefixes(allowed...),
	})
}

// inMemory is a machine at 127.0.0.1 of a network in memory: what listens with it shares that machine's ports, and needs no
// socket. It is for [wgnet.Config.ListenPacket] and its like.
func inMemory(tb testing.TB) func(ctx context.Context, network, address string) (net.PacketConn, error) {
	tb.Helper()
	outer := memnet.New(memnet.Options{})
	tb.Cleanup(func() { outer.Close() }) // returns nil
	host, err := outer.NewHost(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		tb.Fatal(err)
	}
	return host.ListenPacket
}

// newPair makes two Nets, in memory, that are each other's peer: a at 10.0.0.1 and fd00::1, who knows b's endpoint, and b at
// 10.0.0.2 and fd00::2, who does not know a's.
func newPair(tb testing.TB) (a, b *wgnet.Net) {
	tb.Helper()
	a, b, err := startPairOn(inMemory(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		closeNet(tb, a)
		closeNet(tb, b)
	})
	return a, b
}

// startPair is newPair over UDP sockets.
func startPair() (a, b *wgnet.Net, err error) { return startPairOn(nil) }

func startPairOn(listen func(ctx context.Context, network, address string) (net.PacketConn, error)) (a, b *wgnet.Net, err error) {
	cfgA, cfgB := newConfig("10.0.0.1/24", "fd00::1/64"), newConfig("10.0.0.2/24", "fd00::2/64")
	cfgA.ListenPacket, cfgB.ListenPacket = listen, listen
	addPeer(cfgB, "a", cfgA.PrivateKey.Public(), "", "10.0.0.1/32", "fd00::1/128")
	if b, err = wgnet.New(cfgB); err != nil {
		return nil, nil, err
	}
	addPeer(cfgA, "b", cfgB.PrivateKey.Public(), localhost(b.ListenPort()), "10.0.0.2/32", "fd00::2/128")
	if a, err = wgnet.New(cfgA); err != nil {
		b.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// newUpstream makes a Net at 10.0.0.1 and fd00::1 whose peer "up", at 10.0.0.2 and fd00::2, is upstream's own code, with
// nothing but memory between them.
// change may change the Net's config.
func newUpstream(tb testing.TB, change func(*wgnet.Config)) (*wgnet.Net, *testpeer.Peer) {
	tb.Helper()
	cfg := newConfig("10.0.0.1/24", "fd00::1/64")
	cfg.ListenPacket = inMemory(tb)
	up := testpeer.New(tb, testpeer.Options{ListenPacket: cfg.ListenPacket})
	if err := befriend(cfg, up); err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(cfg)
	}
	return newNet(tb, cfg), up
}

// befriend makes up a peer of cfg's, and the other way round.
func befriend(cfg *wgnet.Config, up *testpeer.Peer) error {
	addPeer(cfg, "up", wgnet.PublicKey(up.PublicKey()), up.Endpoint(), "10.0.0.2/32", "fd00::2/128")
	return up.AddPeer(testpeer.Remote{
		PublicKey: testpeer.Key(cfg.PrivateKey.Public()), AllowedIPs: []string{"10.0.0.1/32", "fd00::1/128"},
	})
}

// listen listens on a Net until the test ends, and returns the port too.
func listen(tb testing.TB, n *wgnet.Net, address string) (net.Listener, string) {
	tb.Helper()
	l, err := n.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // it may be closed already
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return l, port
}

// listenPacket is listen for UDP.
func listenPacket(tb testing.TB, n *wgnet.Net, address string) (net.PacketConn, string) {
	tb.Helper()
	c, err := n.ListenPacket("udp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() }) // it may be closed already
	_, port, err := net.SplitHostPort(c.LocalAddr().String())
	if err != nil {
		tb.Fatal(err)
	}
	return c, port
}

// serveEcho sends back what comes in on each connection, until the listener is closed.
func serveEcho(tb testing.TB, l net.Listener) {
	done := make(chan struct{})
	tb.Cleanup(func() {
		_ = l.Close() // it may be closed already
		<-done
	})
	go func() { // ends when l is closed
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// roundTrip sends a word over a connection to an echo server and expects it back.
func roundTrip(c net.Conn) error {
	const word = "hello, wireguard"
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	buf := make([]byte, len(word))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != word {
		return fmt.Errorf("got %q back", buf)
	}
	return c.SetDeadline(time.Time{})
}

// checkLeaks fails the test if goroutines of ours, of wireguard-go or of gVisor are left. It gives them a moment: some
// of wireguard-go's have nothing left to do but to return when its Close does.
func checkLeaks(tb testing.TB) {
	tb.Helper()
	limit := time.NewTimer(5 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		left := ownGoroutines()
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Errorf("%d goroutines are left, the first of them:\n%s", len(left), left[0])
			return
		}
	}
}

// ownGoroutines are the stacks of all goroutines with a frame of ours, of wireguard-go or of gVisor, but for tests.
func ownGoroutines() (own []string) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for i, stack := range strings.Split(string(buf), "\n\n") {
		if i == 0 || strings.Contains(stack, "\ntesting.(*T).Run(") || strings.Contains(stack, "_test.newInitiations") {
			continue // this goroutine, tests that wait for this one, and a helper that ends with the test
		}
		for _, module := range []string{"example.com/wgnet/", "golang.zx2c4.com/wireguard/", "gvisor.dev/gvisor/"} {
			if strings.Contains(stack, module) {
				own = append(own, stack)
				break
			}
		}
	}
	return own
}

// hasGoroutine says whether a goroutine is in a function.
func hasGoroutine(function string) bool {
	for _, stack := range ownGoroutines() {
		if strings.Contains(stack, function) {
			return true
		}
	}
	return false
}

// waitFor polls until a condition holds that nothing announces.
func waitFor(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("waited in vain for %s", what)
		}
	}
}

// openSockets counts the process's sockets. Upstream closes its netlink socket a moment after its device.
func openSockets(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip("cannot count sockets here: ", err)
	}
	count := 0
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			count++
		}
	}
	return count
}
