// SPDX-License-Identifier: MIT

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/wgnet/gateway"
	"example.com/wgnet/internal/netns"
	"example.com/wgnet/wgnet"
)

// newServers makes a host with real servers, which knows nothing of WireGuard: nginx says hello, and dnsmasq knows
// printer.test.
func newServers(t *testing.T) *netns.Namespace {
	ns := netns.New(t, "nginx", "dnsmasq")
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	err := os.WriteFile(conf, fmt.Appendf(nil, `daemon off;
master_process off;
pid %[1]s/pid;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 80;
		listen [::]:80;
		return 200 "hello, lan\n";
	}
}
`, dir), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ns.Serve("127.0.0.1:80", "nginx", "-e", "stderr", "-c", conf)
	ns.Serve("127.0.0.1:53", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv",
		"--no-hosts", "--user=root", "--log-facility=-", "--address=/printer.test/192.0.2.7")
	return ns
}

// TestWireGuardGo is scene 2 with a client and servers that we did not write: Debian's wireguard-go, with curl, dig and
// ping, in a network that has no way to the LAN but the tunnel.
func TestWireGuardGo(t *testing.T) {
	lan := newServers(t)
	client := netns.New(t, "curl", "dig", "ping")
	key, door := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	n, err := wgnet.New(&wgnet.Config{
		PrivateKey: door, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")},
		Peers: []wgnet.PeerConfig{{
			Name: "client", PublicKey: key.Public(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	open(t, n, gateway.Config{RawPing: true}, "allow from client")
	client.WireGuard(fmt.Sprintf(`[Interface]
PrivateKey = %s
Address = 10.0.0.1, fd00::1
[Peer]
PublicKey = %v
Endpoint = %v
AllowedIPs = 10.0.0.2, fd00::2, %v, %v
`, key.Reveal(), door.Public(), netip.AddrPortFrom(client.Outside4, n.ListenPort()), lan.Inside4, lan.Inside6))
	for _, host := range []netip.Addr{lan.Inside4, lan.Inside6} {
		if got := client.Run("curl", "-sS", "-m", "20", "http://"+netip.AddrPortFrom(host, 80).String()); got != "hello, lan\n" {
			t.Errorf("curl: %q", got)
		}
		for _, how := range []string{"+notcp", "+tcp"} {
			if got := client.Run("dig", how, "+short", "@"+host.String(), "printer.test"); got != "192.0.2.7\n" {
				t.Errorf("dig %s: %q", how, got)
			}
		}
		if got := client.Run("ping", "-n", "-c", "3", "-i", "0.2", "-s", "2000", host.String()); !strings.Contains(got, " 0% packet loss") {
			t.Errorf("ping: %s", got)
		}
		// Fault 68: refused is refused, to curl (7: could not connect) and to a socket of UDP.
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		closed := netip.AddrPortFrom(host, 9).String()
		out, err := client.Command(ctx, "curl", "-sS", "-m", "20", "http://"+closed).CombinedOutput()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "(7)") {
			t.Errorf("curl to a closed port: %v, %s", err, out)
		}
		var c net.Conn
		if err := client.Do(func() (err error) { c, err = net.Dial("udp", closed); return err }); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := refusedUDP(c); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port of UDP: %v, want ECONNREFUSED", err)
		}
	}
}

// TestBehindLinux is scene 2 the other way around: the gateway is a Linux host as everybody has it, with wireguard-go, IP
// forwarding and a rule of nftables, and who wants into its LAN is a Net.
func TestBehindLinux(t *testing.T) {
	router, lan := netns.New(t, "nft"), newServers(t)
	host4, host6 := netip.MustParseAddr("192.168.1.123"), netip.MustParseAddr("fd01::123")
	router.Run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan0", "netns", lan.Name)
	for ns, addrs := range map[*netns.Namespace][2]string{router: {"192.168.1.1", "fd01::1"}, lan: {host4.String(), host6.String()}} {
		ns.Run("ip", "link", "set", "lan0", "up")
		ns.Run("ip", "addr", "add", addrs[0]+"/24", "dev", "lan0")
		ns.Run("ip", "addr", "add", addrs[1]+"/64", "dev", "lan0", "nodad")
	}
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/"+setting, []byte("1"), 0) }); err != nil {
			t.Skipf("a namespace cannot forward here: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if out, err := router.Command(ctx, "nft", `add table inet nat
add chain inet nat postrouting { type nat hook postrouting priority srcnat; }
add rule inet nat postrouting oifname "lan0" masquerade`).CombinedOutput(); err != nil {
		t.Skipf("nftables cannot masquerade here: %v: %s", err, out)
	}
	key, door := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	router.WireGuard(fmt.Sprintf(`[Interface]
PrivateKey = %s
ListenPort = 51820
Address = 10.0.0.2/24, fd00::2/64
[Peer]
PublicKey = %v
AllowedIPs = 10.0.0.1, fd00::1
`, door.Reveal(), key.Public()))
	n, err := wgnet.New(&wgnet.Config{
		PrivateKey: key, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::1/128")},
		DNS: []netip.Addr{host4},
		Peers: []wgnet.PeerConfig{{
			PublicKey: door.Public(), Endpoint: netip.AddrPortFrom(router.Inside4, 51820).String(),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("fd01::/64")},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if got, err := n.LookupHost(ctx, "printer.test"); err != nil || len(got) != 1 || got[0] != "192.0.2.7" {
		t.Errorf("what dnsmasq says: %q, %v", got, err)
	}
	web := &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
	for _, host := range []netip.Addr{host4, host6} {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+netip.AddrPortFrom(host, 80).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got) != "hello, lan\n" || err != nil {
			t.Errorf("nginx at %v: %q, %v", host, got, err)
		}
		if reply, err := n.Ping(ctx, host.String()); err != nil || reply.Addr != host {
			t.Errorf("ping: %+v, %v", reply, err)
		}
		// Fault 68: the host refuses, and the gateway's masquerading brings it back.
		closed := netip.AddrPortFrom(host, 9).String()
		if _, err := n.DialContext(ctx, "tcp", closed); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v, want ECONNREFUSED", err)
		}
		c, err := n.DialContext(ctx, "udp", closed)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := refusedUDP(c); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port of UDP: %v, want ECONNREFUSED", err)
		}
	}
}
