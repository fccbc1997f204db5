// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/wgnet/wgnet"
)

func TestHTTP(t *testing.T) {
	a, b := newPair(t)
	for _, c := range []struct {
		name           string
		client, server *wgnet.Net
		hosts          []string
	}{
		{"from who knows the endpoint", a, b, []string{"10.0.0.2", "[fd00::2]", "b"}},
		{"from who does not", b, a, []string{"10.0.0.1", "[fd00::1]", "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, port := listen(t, c.server, ":0")
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, "hello, wireguard")
			})}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(l) }() // ends with srv.Close
			client := &http.Client{Transport: &http.Transport{DialContext: c.client.DialContext}}
			for _, host := range c.hosts {
				resp, err := client.Get("http://" + host + ":" + port)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err := errors.Join(err, resp.Body.Close()); err != nil {
					t.Fatal(err)
				}
				if string(body) != "hello, wireguard\n" {
					t.Errorf("%s: got %q", host, body)
				}
			}
			client.CloseIdleConnections()
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
}

func TestAccessors(t *testing.T) {
	cfg := newConfig("10.0.0.1/24", "fd00::1/64", "192.0.2.1/32")
	want := slices.Clone(cfg.Addresses)
	n := newNet(t, cfg)
	cfg.Addresses[0] = netip.Prefix{} // a Net has a config of its own
	if got := n.Addresses(); !slices.Equal(got, want) {
		t.Errorf("Addresses: %v", got)
	}
	n.Addresses()[0] = netip.Prefix{}
	if got := n.Addresses(); !slices.Equal(got, want) {
		t.Errorf("Addresses after a change of the result: %v", got)
	}
	if n.PublicKey() != cfg.PrivateKey.Public() || n.MTU() != wgnet.DefaultMTU || n.ListenPort() == 0 {
		t.Errorf("key %v, MTU %d, port %d", n.PublicKey(), n.MTU(), n.ListenPort())
	}
	cfg = newConfig("10.0.0.1/24")
	cfg.MTU = 9000
	if n := newNet(t, cfg); n.MTU() != 9000 {
		t.Errorf("MTU: %d", n.MTU())
	}
	select {
	case <-n.Done():
		t.Error("Done before Close")
	default:
	}
	closeNet(t, n)
	<-n.Done()
}

// fault 21: no goroutine, no socket.
func TestNewFails(t *testing.T) {
	taken, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	refused := errors.New("refused by Control")
	port := newConfig("10.0.0.1/24")
	port.ListenPort = taken.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	control := newConfig("10.0.0.1/24")
	control.Control = func(string, string, syscall.RawConn) error { return refused }
	for _, c := range []struct {
		name string
		cfg  *wgnet.Config
		is   error
		text string
	}{
		{"nil", nil, nil, "wgnet: New: the config is nil"},
		{"empty", &wgnet.Config{}, nil, "wgnet: config: [Interface] PrivateKey: missing"},
		{"port taken", port, syscall.EADDRINUSE, fmt.Sprintf("wgnet: New: UDP port %d is taken by another program", port.ListenPort)},
		{"Control", control, refused, "wgnet: New: open UDP port 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sockets := openSockets(t)
			for range 10 {
				n, err := wgnet.New(c.cfg)
				if n != nil || err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.HasPrefix(err.Error(), c.text) {
					t.Fatalf("got %v, %v", n, err)
				}
			}
			checkLeaks(t)
			if now := openSockets(t); now > sockets {
				t.Errorf("%d sockets before, %d after", sockets, now)
			}
		})
	}
}

// fault 19: dozens of Nets at once, closed while they greet one another.
func TestManyNets(t *testing.T) {
	var lives sync.WaitGroup
	for i := range 24 {
		lives.Go(func() {
			for j := range 3 {
				a, b, err := startPair()
				if err != nil {
					t.Error(err)
					return
				}
				if (i+j)%2 == 0 {
					if err := b.WaitPeer(testContext(t), a.PublicKey()); err != nil {
						t.Error(err)
					}
				}
				lives.Go(func() { closeNet(t, a) })
				closeNet(t, b)
			}
		})
	}
	lives.Wait()
	checkLeaks(t)
}
