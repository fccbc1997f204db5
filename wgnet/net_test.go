// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

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
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

func newConfig(prefixes ...string) *wgnet.Config {
	cfg := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey()}
	for _, p := range prefixes {
		cfg.Addresses = append(cfg.Addresses, netip.MustParsePrefix(p))
	}
	return cfg
}

// newPair makes two Nets that are each other's peer over loopback: a at 10.0.0.1 and fd00::1, who knows b's endpoint,
// and b at 10.0.0.2 and fd00::2, who does not know a's.
func newPair(tb testing.TB) (a, b *wgnet.Net) {
	tb.Helper()
	cfgA, cfgB := newConfig("10.0.0.1/24", "fd00::1/64"), newConfig("10.0.0.2/24", "fd00::2/64")
	cfgB.Peers = []wgnet.PeerConfig{{
		Name: "a", PublicKey: cfgA.PrivateKey.Public(),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")},
	}}
	b = newNet(tb, cfgB)
	cfgA.Peers = []wgnet.PeerConfig{{
		Name: "b", PublicKey: cfgB.PrivateKey.Public(), Endpoint: fmt.Sprintf("127.0.0.1:%d", b.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")},
	}}
	return newNet(tb, cfgA), b
}

func TestHTTP(t *testing.T) {
	a, b := newPair(t)
	l, err := b.Listen("tcp", ":9090")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello, wireguard") })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{DialContext: a.DialContext}}
	for _, host := range []string{"10.0.0.2", "[fd00::2]", "b"} {
		start := time.Now()
		resp, err := client.Get("http://" + net.JoinHostPort(trim(host), "9090"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if string(body) != "hello, wireguard\n" {
			t.Errorf("%s: %q", host, body)
		}
		t.Log(time.Since(start))
	}
	client.CloseIdleConnections()
	srv.Close()
	<-done
	for _, host := range []string{"b", "10.0.0.2", "fd00::2"} {
		r, err := a.Ping(testContext(t), host)
		t.Log(r, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err = a.DialContext(ctx, "tcp", "10.0.0.9:80")
	t.Log(err)
	_, err = a.DialContext(ctx, "tcp", "b:80")
	t.Log(err)
}

func trim(s string) string {
	if s[0] == '[' {
		return s[1 : len(s)-1]
	}
	return s
}
