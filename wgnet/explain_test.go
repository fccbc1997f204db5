// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// fault 31: what a time-out says of the tunnel.
func TestExplain(t *testing.T) {
	const check = "check its address and port, both sides' keys, firewalls and clocks"
	silent := newInitiations(t)
	unresolved := func(ctx context.Context, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	gone := func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	loopback := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1")}, nil
	}
	_, port, err := net.SplitHostPort(silent.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		endpoint string
		resolve  func(context.Context, string) ([]netip.Addr, error)
		sent     int // initiations to wait for
		want     string
	}{
		{"one handshake", silent.endpoint, nil, 1, "no answer from peer db at " + silent.endpoint + " to HANDSHAKES: " + check},
		{"handshakes", silent.endpoint, nil, 2, "no answer from peer db at " + silent.endpoint + " to HANDSHAKES: " + check},
		{"named endpoint", "vpn.example:" + port, loopback, 1, "no answer from peer db at vpn.example:" + port + " (" + silent.endpoint + ") to HANDSHAKES: " + check},
		{"not resolved yet", "vpn.example:51820", unresolved, 0, "the endpoint of peer db, vpn.example:51820, is not resolved yet"},
		{"not resolved", "vpn.example:51820", gone, 0, "the endpoint of peer db, vpn.example:51820, is not resolved: no such host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig("10.0.0.1/24")
			cfg.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
			cfg.ResolveEndpoint = c.resolve
			addPeer(cfg, "db", wgnet.NewPrivateKey().Public(), c.endpoint, "10.0.0.2/32")
			n := newNet(t, cfg)
			for range c.sent {
				silent.next(t)
			}
			// The handshakes come at 0, 0.3 and 1.3 s; the time-outs in between, if all goes well.
			ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
			defer cancel()
			type attempt struct{ name, want string }
			calls := map[attempt]func() error{
				{"dial", "dial tcp 10.0.0.2:80: i/o timeout: "}:              func() error { _, err := n.DialContext(ctx, "tcp", "10.0.0.2:80"); return err },
				{"ping", "ping ip 10.0.0.2: i/o timeout: "}:                  func() error { _, err := n.Ping(ctx, "db"); return err },
				{"WaitPeer", "wgnet: WaitPeer: context deadline exceeded: "}: func() error { return n.WaitPeer(ctx, cfg.Peers[0].PublicKey) },
				{"lookup", "dial tcp: lookup x.example on 10.0.0.2:53: i/o timeout: "}: func() error {
					_, err := n.DialContext(ctx, "tcp", "x.example:80")
					return err
				},
			}
			errs := make(chan error, len(calls))
			for a, call := range calls {
				go func() { // ctx ends it
					err := call()
					if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%s: %v is no deadline's error", a.name, err)
					}
					if want := a.want + c.want; !sameText(err.Error(), want, c.sent) {
						t.Errorf("%s:\ngot  %s\nwant %s", a.name, err, want)
					}
					errs <- err
				}()
			}
			for range calls {
				<-errs
			}
		})
	}
}

// secondsAgo is what differs in the texts of a slow test.
var secondsAgo = regexp.MustCompile(`[0-9]+s ago`)

// sameText compares texts. A busy machine may have come to a later handshake than the one that was waited for.
func sameText(got, want string, handshakes int) bool {
	for _, number := range []string{"1 handshake", "2 handshakes", "3 handshakes"}[max(handshakes-1, 0):] {
		if got == strings.Replace(want, "HANDSHAKES", number, 1) {
			return true
		}
	}
	return false
}

// fault 31: the tunnel is up, and the host behind it is silent.
func TestExplainSilentHost(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Peers[0].AllowedIPs = prefixes("10.0.0.2/32", "192.168.1.0/24")
	})
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	_, err := n.DialContext(ctx, "tcp", "192.168.1.123:9090")
	checkTimeout(t, err)
	const want = "dial tcp 192.168.1.123:9090: i/o timeout: the tunnel to peer up is up (last handshake 0s ago), 192.168.1.123 does not answer"
	if got := secondsAgo.ReplaceAllString(err.Error(), "0s ago"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A peer that began the handshake and does not take the answer: here its preshared key differs.
func TestExplainRefusedAnswer(t *testing.T) {
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Peers[0].Endpoint = ""
		cfg.Peers[0].PresharedKey = wgnet.NewPresharedKey()
	})
	us := remote(n, "10.0.0.1/32")
	us.Endpoint = localhost(n.ListenPort())
	if err := up.AddPeer(us); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	greeted := make(chan error, 1)
	go func() { greeted <- up.Handshake(ctx, testpeer.Key(n.PublicKey())) }() // cancel ends it
	err := errors.New("not tried")
	waitFor(t, "the peer's handshake", func() bool {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		err = n.WaitPeer(ctx, wgnet.PublicKey(up.PublicKey()))
		return err == nil || !strings.Contains(err.Error(), "has not been heard from")
	})
	const want = "wgnet: WaitPeer: context deadline exceeded: peer up began a handshake and did not take our answer: " +
		"check the preshared keys, and what keeps our packets from it"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	cancel()
	if err := <-greeted; err == nil {
		t.Error("a handshake with different preshared keys")
	}
}
