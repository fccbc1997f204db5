// SPDX-License-Identifier: MIT

package interop

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// A side is one end of a tunnel: a host with its services, whatever it is made of.
type side interface {
	dial(ctx context.Context, network, address string) (net.Conn, error)
	listen(address string) (net.Listener, error) // TCP, ":80" for all addresses
	listenPacket(address string) (net.PacketConn, error)
	ping(ctx context.Context, host string) (time.Duration, error)
	// restart is the process killed and started anew from its node, whose passive may have changed: nothing but the key
	// and the port is the same.
	restart(t *testing.T)
	// close is idempotent.
	close()
}

// node is what stands in a side's wg0.conf.
type node struct {
	key       testpeer.Key
	host      string // in the outer network, IPv4 or IPv6
	port      uint16
	addresses []string // in the tunnel
	others    []*node
	passive   bool // it knows nobody's endpoint
}

func (n *node) endpoint() string { return net.JoinHostPort(n.host, fmt.Sprint(n.port)) }

// allowed are the node's addresses as prefixes.
func (n *node) allowed() (prefixes []string) {
	for _, a := range n.addresses {
		addr := netip.MustParseAddr(a)
		prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()).String())
	}
	return prefixes
}

// conf is the node's wg0.conf, in the messy spelling of files that people write.
func (n *node) conf() string {
	var b strings.Builder
	b.WriteString("# wg0.conf, written by hand\n[Interface]\n")
	fmt.Fprintf(&b, "PrivateKey = %s\n", n.key)
	for _, a := range n.addresses {
		fmt.Fprintf(&b, "Address = %s\n", a) // no prefix length
	}
	fmt.Fprintf(&b, "ListenPort=%d # the default of everybody's tutorial is 51820\n", n.port)
	b.WriteString("PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE\n")
	b.WriteString("PostDown = iptables -D FORWARD -i %i -j ACCEPT\n")
	for _, other := range n.others {
		b.WriteString("[Peer]\n")
		fmt.Fprintf(&b, "PublicKey = %s\n", other.key.Public())
		if !n.passive {
			fmt.Fprintf(&b, "EndPoint = %s\n", other.endpoint())
		}
		fmt.Fprintf(&b, "AllowedIPs = %s\n", strings.Join(other.allowed(), ","))
	}
	// A peer that is never there.
	fmt.Fprintf(&b, "\n#[Peer]\n[Peer]\npublickey=%s\nallowedips=10.0.0.99/32,  fd00::99\n", testpeer.GenerateKey().Public())
	return b.String()
}

// startSide starts a side and closes it when the test ends. kind is one of kinds; ns is for wireguard-go only.
func startSide(t *testing.T, kind string, n *node, ns *netns.Namespace) side {
	t.Helper()
	switch kind {
	case "wgnet":
		return startOurs(t, n, nil)
	case "upstream":
		return startUpstream(t, n)
	case "wireguard-go":
		return startKernel(t, n, ns)
	}
	t.Fatalf("no kind %q", kind)
	return nil
}

// ours is a side of this module.
type ours struct {
	*wgnet.Net
	node     *node
	ns       *netns.Namespace // where its UDP socket is; nil: where the test is
	file     string
	cfg      *wgnet.Config // as it was loaded
	services *services
}

func startOurs(t *testing.T, n *node, ns *netns.Namespace) *ours {
	t.Helper()
	s := &ours{node: n, ns: ns, file: filepath.Join(t.TempDir(), "wg0.conf")}
	s.start(t)
	t.Cleanup(s.close)
	return s
}

func (s *ours) start(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile(s.file, []byte(s.node.conf()), 0o600))
	var err error
	s.cfg, err = wgnet.LoadConfig(s.file)
	must(t, err)
	bring := func() (err error) { s.Net, err = wgnet.New(s.cfg); return err }
	if s.ns != nil {
		must(t, s.ns.Do(bring))
	} else {
		must(t, bring())
	}
	s.services = startServices(t, s)
}

func (s *ours) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialContext(ctx, network, address)
}
func (s *ours) listen(address string) (net.Listener, error) { return s.Listen("tcp", address) }

func (s *ours) listenPacket(address string) (net.PacketConn, error) {
	return s.ListenPacket("udp", address)
}

func (s *ours) ping(ctx context.Context, host string) (time.Duration, error) {
	reply, err := s.Ping(ctx, host)
	return reply.RTT, err
}

func (s *ours) restart(t *testing.T) {
	t.Helper()
	s.close()
	s.start(t)
}

func (s *ours) close() {
	s.Close() // always nil; first, so that servers have no time for a farewell
	s.services.stop()
}

// upstream is a side of wireguard-go's own parts.
type upstream struct {
	*testpeer.Peer
	node     *node
	services *services
}

func startUpstream(t *testing.T, n *node) *upstream {
	t.Helper()
	s := &upstream{node: n, Peer: testpeer.New(t, testpeer.Options{
		PrivateKey: n.key, Addresses: n.addresses, ListenPort: n.port,
	})}
	for _, other := range n.others {
		remote := testpeer.Remote{PublicKey: other.key.Public(), AllowedIPs: other.allowed()}
		if !n.passive {
			remote.Endpoint = other.endpoint()
		}
		must(t, s.AddPeer(remote))
	}
	s.services = startServices(t, s)
	t.Cleanup(s.close)
	return s
}

func (s *upstream) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return s.DialContext(ctx, network, address)
}
func (s *upstream) listen(address string) (net.Listener, error) { return s.Listen(address) }

func (s *upstream) listenPacket(address string) (net.PacketConn, error) { return s.ListenUDP(address) }

func (s *upstream) ping(ctx context.Context, host string) (time.Duration, error) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return 0, err
	}
	return s.Ping(ctx, addr)
}

func (s *upstream) restart(t *testing.T) {
	t.Helper()
	if s.node.passive {
		must(t, s.RestartPassive())
	} else {
		must(t, s.Restart())
	}
	s.services.stop()
	s.services = startServices(t, s)
}

func (s *upstream) close() {
	s.Close() // testpeer's own cleanup reports its error
	s.services.stop()
}

// kernel is a side of Debian's daemon and the kernel's TCP/IP. Its sockets are the kernel's and live longer than the
// daemon.
type kernel struct {
	ns       *netns.Namespace
	wg       *netns.WireGuard
	node     *node
	services *services
}

func startKernel(t *testing.T, n *node, ns *netns.Namespace) *kernel {
	t.Helper()
	s := &kernel{ns: ns, node: n}
	s.wg = ns.WireGuard(n.conf())
	s.services = startServices(t, s)
	t.Cleanup(s.close)
	return s
}

func (s *kernel) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	return c, s.ns.Do(func() (err error) { c, err = new(net.Dialer).DialContext(ctx, network, address); return err })
}

func (s *kernel) listen(address string) (l net.Listener, err error) {
	return l, s.ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err })
}

func (s *kernel) listenPacket(address string) (c net.PacketConn, err error) {
	return c, s.ns.Do(func() (err error) { c, err = net.ListenPacket("udp", address); return err })
}

// ping is ping(8), which has to get all of its three answers. The time that it returns is that of all three.
func (s *kernel) ping(ctx context.Context, host string) (time.Duration, error) {
	family := "-4"
	if strings.Contains(host, ":") {
		family = "-6"
	}
	begin := time.Now()
	out, err := s.ns.Command(ctx, "ping", family, "-c", "3", "-i", "0.2", "-W", "10", host).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "3 received") {
		return 0, fmt.Errorf("ping %s %s: %w\n%s", family, host, err, out)
	}
	return time.Since(begin), nil
}

func (s *kernel) restart(t *testing.T) {
	t.Helper()
	s.wg.Down()
	s.wg = s.ns.WireGuard(s.node.conf())
}

func (s *kernel) close() {
	s.wg.Down()
	s.services.stop()
}
