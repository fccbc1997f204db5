// SPDX-License-Identifier: MIT

package interop

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// TestManyAddresses joins one Net with several addresses to two peers with several addresses each, of both kinds.
func TestManyAddresses(t *testing.T) {
	us := &node{
		key: testpeer.GenerateKey(), host: "127.0.0.1", port: freePort(t),
		addresses: []string{"10.0.0.1", "192.168.7.1", "fd00::1", "fd07::1"},
	}
	first := &node{
		key: testpeer.GenerateKey(), host: "127.0.0.1", port: freePort(t),
		addresses: []string{"10.0.0.2", "172.16.0.2", "fd00::2", "fd16::2"}, others: []*node{us}, passive: true,
	}
	second := &node{
		key: testpeer.GenerateKey(), host: "::1", port: freePort(t),
		addresses: []string{"10.0.0.3", "fd00::3"}, others: []*node{us}, passive: true,
	}
	us.others = []*node{first, second}
	peers := map[*node]side{first: startUpstream(t, first), second: startOurs(t, second, nil)}
	net1 := startOurs(t, us, nil)
	ctx := testContext(t)
	for n, peer := range peers {
		for _, addr := range n.addresses {
			must(t, getHello(ctx, net1, addr))
			for _, own := range us.addresses {
				if strings.Contains(own, ":") != strings.Contains(addr, ":") {
					continue
				}
				d := &wgnet.Dialer{Net: net1.Net, LocalAddr: netip.AddrPortFrom(netip.MustParseAddr(own), 0)}
				from, err := get(ctx, dialer{net1, d}, addr, "/from")
				if err != nil || from != own {
					t.Errorf("%s from %s: the server saw %q, %v", addr, own, from, err)
				}
			}
		}
		for _, addr := range us.addresses {
			must(t, getHello(ctx, peer, addr))
		}
	}
}

// dialer is a side that dials with options.
type dialer struct {
	side
	d *wgnet.Dialer
}

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return d.d.DialContext(ctx, network, address)
}

// TestOneFamilyOutside: a host that has only IPv6, or only IPv4, outside. What is inside does not depend on it.
func TestOneFamilyOutside(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		name := map[bool]string{false: "IPv4", true: "IPv6"}[ipv6]
		t.Run(name, func(t *testing.T) {
			ns := netns.New(t)
			us := &node{key: testpeer.GenerateKey(), host: ns.Inside4.String(), port: 51820, addresses: []string{"10.0.0.1", "fd00::1"}}
			them := &node{
				key: testpeer.GenerateKey(), host: ns.Outside4.String(), port: freePort(t), addresses: []string{"10.0.0.2", "fd00::2"},
				others: []*node{us}, passive: true,
			}
			gone := "-6"
			if ipv6 {
				gone = "-4"
				us.host, them.host = ns.Inside6.String(), ns.Outside6.String()
			}
			us.others = []*node{them}
			for line := range strings.Lines(ns.Run("ip", "-o", "link")) { // "1: lo: <…", "2: wgn1n@if5: <…"
				link, _, _ := strings.Cut(strings.Fields(line)[1], "@")
				ns.Run("ip", gone, "addr", "flush", "dev", strings.TrimSuffix(link, ":"))
			}
			peer := startUpstream(t, them)
			s := startOurs(t, us, ns)
			ctx := testContext(t)
			for i := range them.addresses {
				must(t, getHello(ctx, s, them.addresses[i]))
				must(t, getHello(ctx, peer, us.addresses[i]))
			}
		})
	}
}

// TestNamedEndpoint: an endpoint is a name that cannot be resolved at first. A dial waits for it, and says so if it
// cannot.
func TestNamedEndpoint(t *testing.T) {
	s := newScene(t, setting{them: "upstream", starts: "we"})
	must(t, s.us.Close())
	cfg := s.us.cfg
	_, port, err := net.SplitHostPort(cfg.Peers[0].Endpoint)
	must(t, err)
	cfg.Peers[0].Endpoint = "peer2.example:" + port
	failing := make(chan struct{})
	down := errors.New("the resolver is down")
	cfg.ResolveEndpoint = func(_ context.Context, host string) ([]netip.Addr, error) {
		select {
		case <-failing:
		default:
			return nil, down
		}
		if host != "peer2.example" {
			return nil, errors.New("a name that nobody asked for: " + host)
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	n, err := wgnet.New(cfg)
	must(t, err)
	t.Cleanup(func() { n.Close() })

	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	_, err = n.DialContext(ctx, "tcp", "10.0.0.2:9090")
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "peer2.example") ||
		!strings.Contains(err.Error(), down.Error()) {
		t.Errorf("a dial before the name is resolved: %v", err)
	}
	close(failing)
	begin := time.Now()
	must(t, n.WaitPeer(testContext(t), cfg.Peers[0].PublicKey))
	t.Logf("up %v after the resolver", time.Since(begin).Round(time.Millisecond))
	c, err := n.DialContext(testContext(t), "tcp", "10.0.0.2:"+echoPort)
	must(t, err)
	must(t, echo(c, "hello"))
	must(t, c.Close())
}
