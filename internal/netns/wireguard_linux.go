// SPDX-License-Identifier: MIT

package netns

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// WireGuard is a running wireguard-go daemon.
type WireGuard struct {
	Interface string // its TUN, in the namespace

	ns     *Namespace
	log    lockedBuffer
	cancel context.CancelFunc
	exited chan struct{} // closed when the daemon has ended
	err    error         // of the daemon's end; read it after exited
}

// WireGuard starts a wireguard-go daemon in the namespace and sets it up from the text of a wg-quick file, as wg-quick
// does: `wg setconf`, the addresses, the MTU, a route for each prefix of AllowedIPs but the default routes. It is
// taken down in the test's Cleanup, or by Down.
func (n *Namespace) WireGuard(conf string) *WireGuard {
	n.tb.Helper()
	n.wgs++
	// wireguard-go's control socket lies in the file system, which namespaces share: the name must be unique on the
	// host.
	w := &WireGuard{Interface: fmt.Sprintf("wgn%dw%d", n.block, n.wgs), ns: n, exited: make(chan struct{})}
	setconf, addresses, routes, mtu := split(conf)

	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	daemon := n.Command(ctx, "wireguard-go", "-f", w.Interface)
	daemon.Env = append(daemon.Environ(), "LOG_LEVEL=verbose")
	daemon.Stdout, daemon.Stderr = &w.log, &w.log
	if err := daemon.Start(); err != nil {
		cancel()
		n.tb.Fatalf("netns: start wireguard-go: %v", err)
	}
	go func() { // ends when cancel kills the daemon; Down waits for it
		w.err = daemon.Wait()
		close(w.exited)
	}()
	n.tb.Cleanup(func() {
		w.Down()
		if n.tb.Failed() {
			n.tb.Logf("netns: what wireguard-go on %s said:\n%s", w.Interface, w.log.String())
		}
	})
	w.waitReady()

	wg := n.Command(ctx, "wg", "setconf", w.Interface, "/dev/stdin")
	wg.Stdin = strings.NewReader(setconf)
	if _, err := output(wg); err != nil {
		n.tb.Fatalf("netns: %v", err)
	}
	for _, a := range addresses {
		args := []string{"addr", "add", a.String(), "dev", w.Interface}
		if a.Addr().Is6() {
			args = append(args, "nodad")
		}
		n.Run("ip", args...)
	}
	n.Run("ip", "link", "set", w.Interface, "mtu", mtu, "up")
	for _, r := range routes {
		n.Run("ip", "route", "replace", r.String(), "dev", w.Interface)
	}
	return w
}

// waitReady waits for the daemon's control socket to answer.
func (w *WireGuard) waitReady() {
	w.ns.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := output(w.ns.Command(ctx, "wg", "show", w.Interface))
		if err == nil {
			return
		}
		select {
		case <-w.exited:
			w.ns.tb.Fatalf("netns: wireguard-go ended at once: %v", w.err)
		case <-ctx.Done():
			w.ns.tb.Fatalf("netns: wireguard-go does not answer: %v", err)
		case <-tick.C:
		}
	}
}

// Show is what `wg show` prints of the interface.
func (w *WireGuard) Show() string {
	w.ns.tb.Helper()
	return w.ns.Run("wg", "show", w.Interface)
}

// Down kills the daemon, as a crash would, and waits for its end. Its TUN goes with it. It is idempotent.
func (w *WireGuard) Down() {
	w.cancel()
	<-w.exited
	// A killed daemon leaves its control socket behind.
	os.Remove("/var/run/wireguard/" + w.Interface + ".sock")
}

// split takes a wg-quick file apart: what `wg setconf` understands, and what wg-quick does itself. It reads only what
// a test's file has; real files are the business of the parser under test.
func split(conf string) (setconf string, addresses, routes []netip.Prefix, mtu string) {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		key, value, _ := strings.Cut(line, "=")
		values := strings.Split(value, ",")
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "address":
			addresses = append(addresses, prefixes(values)...)
			continue
		case "mtu":
			mtu = strings.TrimSpace(value)
			continue
		case "dns", "table", "saveconfig", "preup", "postup", "predown", "postdown":
			continue
		case "allowedips":
			for _, p := range prefixes(values) {
				if p.Bits() > 0 { // a default route would need wg-quick's policy routing
					routes = append(routes, p.Masked())
				}
			}
		}
		b.WriteString(line)
	}
	return b.String(), addresses, routes, cmp.Or(mtu, "1420")
}

// prefixes reads the prefixes and bare addresses of a line; ip(8) and wg(8) complain of what is neither.
func prefixes(list []string) (ps []netip.Prefix) {
	for _, s := range list {
		s = strings.TrimSpace(s)
		if a, err := netip.ParseAddr(s); err == nil {
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		} else if p, err := netip.ParsePrefix(s); err == nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// lockedBuffer collects the daemon's log while it runs.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
