// SPDX-License-Identifier: MIT

package netns_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
	"example.com/wgnet/internal/testpeer"
)

// TestWireGuardGo joins Debian's wireguard-go on a real TUN, with the kernel's TCP/IP and real curl and ping, to an
// in-process peer: scene 1, both ways, before any code of this module's own takes part.
func TestWireGuardGo(t *testing.T) {
	for _, tc := range []struct {
		name     string
		endpoint func(*netns.Namespace) string
	}{
		{"IPv4 outside", func(ns *netns.Namespace) string { return ns.Outside4.String() }},
		{"IPv6 outside", func(ns *netns.Namespace) string { return ns.Outside6.String() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := netns.New(t, "curl", "ping")
			peer := testpeer.New(t, testpeer.Options{})
			kernel, psk := testpeer.GenerateKey(), testpeer.GenerateKey()
			if err := peer.AddPeer(testpeer.Remote{
				PublicKey: kernel.Public(), PresharedKey: psk, AllowedIPs: []string{"10.0.0.1/32", "fd00::1/128"},
			}); err != nil {
				t.Fatal(err)
			}
			hello := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello, wireguard\n") }
			if err := peer.Serve(":9090", http.HandlerFunc(hello)); err != nil {
				t.Fatal(err)
			}
			wg := ns.WireGuard(peer.ConfigFor(testpeer.Local{
				PrivateKey: kernel, PresharedKey: psk, Addresses: []string{"10.0.0.1", "fd00::1"},
				Endpoint: peer.EndpointOn(tc.endpoint(ns)),
			}))

			for _, host := range []string{"10.0.0.2", "fd00::2"} {
				out := ns.Run("ping", "-c", "3", "-i", "0.2", "-W", "5", host)
				if !strings.Contains(out, "3 received") {
					t.Errorf("ping %s:\n%s", host, out)
				}
				url := "http://" + net.JoinHostPort(host, "9090")
				if out := ns.Run("curl", "-sS", "-g", "--max-time", "20", url); out != "hello, wireguard\n" {
					t.Errorf("curl %s: %q", url, out)
				}
			}
			if out := wg.Show(); !strings.Contains(out, "latest handshake") {
				t.Errorf("wg show knows of no handshake:\n%s", out)
			}

			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			l := ns.Listen("tcp", ":80")
			server := &http.Server{Handler: http.HandlerFunc(hello)}
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }() // ends with server.Close, below
			for _, host := range []string{"10.0.0.1", "fd00::1"} {
				if _, err := peer.Ping(ctx, netip.MustParseAddr(host)); err != nil {
					t.Error(err)
				}
				request, err := http.NewRequestWithContext(ctx, "GET", "http://"+net.JoinHostPort(host, "80"), nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := peer.HTTPClient().Do(request)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || string(body) != "hello, wireguard\n" {
					t.Errorf("GET from the kernel at %s: %q, %v", host, body, err)
				}
			}
			server.Close()
			<-served
		})
	}
}

// TestOutside is the veth pair alone: a datagram from the test's process into the namespace and back.
func TestOutside(t *testing.T) {
	ns := netns.New(t)
	for _, inside := range []netip.Addr{ns.Inside4, ns.Inside6} {
		echo := ns.ListenPacket("udp", net.JoinHostPort(inside.String(), "7"))
		c, err := net.Dial("udp", echo.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		echo.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		n, from, err := echo.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if want := c.LocalAddr().String(); from.String() != want {
			t.Errorf("the datagram came from %v, want %v", from, want)
		}
		if _, err := echo.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNothingLeft looks for what a test that is over has left behind.
func TestNothingLeft(t *testing.T) {
	var name, wg string
	t.Run("made", func(t *testing.T) {
		ns := netns.New(t)
		name = ns.Name
		wg = ns.WireGuard("[Interface]\nPrivateKey = " + testpeer.GenerateKey().String() + "\nAddress = 10.0.0.1\n").Interface
	})
	if name == "" {
		t.Skip("no namespace could be made")
	}
	out, err := exec.Command("ip", "netns", "list").CombinedOutput()
	if err != nil || strings.Contains(string(out)+"\n", name+"\n") {
		t.Errorf("the namespace %s is still there: %v\n%s", name, err, out)
	}
	if out, err := exec.Command("wg", "show", wg).CombinedOutput(); err == nil {
		t.Errorf("the daemon of %s still answers:\n%s", wg, out)
	}
}
