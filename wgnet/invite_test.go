// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// newHost makes a Net alone, on a network in memory in which guests can be members, too.
func newHost(t *testing.T, change func(*wgnet.Config)) (*wgnettest.Network, *wgnet.Net, string) {
	t.Helper()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Nodes: 1})
	if change != nil {
		change(n.Nodes[0].Config)
	}
	n.Start()
	return n, n.Nodes[0].Net, n.Nodes[0].Endpoint().String()
}

func invite(t *testing.T, n *wgnet.Net, opts wgnet.InviteOptions) *wgnet.Config {
	t.Helper()
	cfg, err := n.Invite(opts)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// From an invitation to a page fetched over the network, with one paste in between; and back again.
func TestInvite(t *testing.T) {
	network, host, endpoint := newHost(t, func(c *wgnet.Config) {
		c.MTU, c.DNS, c.SearchDomains = 1400, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("9.9.9.9")}, []string{"corp.example"}
	})
	l, port := listen(t, host, ":0")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "welcome") })}
	defer server.Close()
	go func() { _ = server.Serve(l) }() // ends with server

	token, err := invite(t, host, wgnet.InviteOptions{Name: "guest", HostName: "host", Endpoint: endpoint}).Token()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := wgnet.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	us := cfg.Peers[0]
	if us.PresharedKey.IsZero() || us.PublicKey != host.PublicKey() || us.PersistentKeepalive != 25*time.Second ||
		!slices.Equal(us.AllowedIPs, prefixes("10.0.0.1/32", "fd00::1/128")) || cfg.MTU != 1400 ||
		!slices.Equal(cfg.Addresses, prefixes("10.0.0.2/16", "fd00::2/64")) || fmt.Sprint(cfg.DNS) != "[10.0.0.1]" ||
		fmt.Sprint(cfg.SearchDomains) != "[corp.example]" {
		t.Errorf("the invitation is\n%v", cfg)
	}
	cfg.ListenPacket = network.Join("guest", wgnet.PublicKey{}).ListenPacket
	guest := newNet(t, cfg)
	client := &http.Client{Transport: &http.Transport{DialContext: guest.DialContext, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Get("http://host:" + port)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "welcome" {
		t.Errorf("%q, %v", body, err)
	}
	// The host knows the guest by name.
	guestListener, guestPort := listen(t, guest, ":0")
	serveEcho(t, guestListener)
	c := dialEcho(t, host, "guest:"+guestPort)
	checkWho(t, "the guest", c, wgnet.Peer{Name: "guest", PublicKey: guest.PublicKey()})

	if err := host.RemovePeer(guest.PublicKey()); err != nil {
		t.Fatal(err)
	}
	isReset(t, "the guest's connection", c)
	again := invite(t, host, wgnet.InviteOptions{Endpoint: endpoint})
	if !slices.Equal(again.Addresses, cfg.Addresses) || again.PrivateKey == cfg.PrivateKey {
		t.Errorf("after RemovePeer the next one gets %v", again.Addresses)
	}
	closeNet(t, guest)
}

// A guest that has a key already, and is upstream's own implementation.
func TestInviteKey(t *testing.T) {
	network, host, endpoint := newHost(t, nil)
	key := testpeer.GenerateKey()
	cfg := invite(t, host, wgnet.InviteOptions{PublicKey: wgnet.PublicKey(key.Public()), Endpoint: endpoint})
	if !cfg.PrivateKey.IsZero() {
		t.Error("the config has a private key")
	}
	if _, err := wgnet.New(cfg); err == nil || !strings.Contains(err.Error(), "PrivateKey: missing") {
		t.Errorf("New without the private key: %v", err)
	}
	token, err := cfg.Token()
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err = wgnet.ParseToken(token); err != nil {
		t.Fatal(err)
	}
	if again, err := cfg.Token(); again != token {
		t.Errorf("the token has changed on the way: %v", err)
	}
	p := cfg.Peers[0]
	psk, err := testpeer.ParseKey(p.PresharedKey.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, a := range cfg.Addresses {
		addresses = append(addresses, a.Addr().String())
	}
	up := testpeer.New(t, testpeer.Options{
		PrivateKey: key, Addresses: addresses, MTU: cfg.MTU, ListenPacket: network.Join("guest", wgnet.PublicKey{}).ListenPacket,
	})
	err = up.AddPeer(testpeer.Remote{
		PublicKey: testpeer.Key(p.PublicKey), PresharedKey: psk, Endpoint: p.Endpoint,
		AllowedIPs: []string{p.AllowedIPs[0].String(), p.AllowedIPs[1].String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, port := listen(t, host, ":0")
	serveEcho(t, l)
	for _, addr := range []string{"10.0.0.1:", "[fd00::1]:"} {
		c, err := up.DialContext(testContext(t), "tcp", addr+port)
		if err != nil {
			t.Fatal(err)
		}
		lives(t, addr, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	waitFor(t, "the end of the connections", func() bool { // before upstream's peer ends without a word
		return !slices.ContainsFunc(host.Sockets(), func(s wgnet.Socket) bool { return s.Remote.IsValid() })
	})
}

func TestInviteAddresses(t *testing.T) {
	for _, test := range []struct {
		name      string
		addresses []netip.Prefix
		taken     []netip.Prefix // of one peer
		want      []netip.Prefix
	}{
		{"first", prefixes("10.0.0.1/24", "fd00::1/64"), nil, prefixes("10.0.0.2/24", "fd00::2/64")},
		{"before ours", prefixes("10.0.0.9/24"), nil, prefixes("10.0.0.1/24")},
		{"a gap", prefixes("10.0.0.1/24"), prefixes("10.0.0.2/32", "10.0.0.4/32"), prefixes("10.0.0.3/24")},
		{"a peer's subnet", prefixes("10.0.0.1/24"), prefixes("10.0.0.0/25", "10.0.0.64/28"), prefixes("10.0.0.128/24")},
		{"a way to everywhere", prefixes("10.0.0.1/24"), prefixes("0.0.0.0/0", "10.0.0.0/16"), prefixes("10.0.0.2/24")},
		{"without room in one", prefixes("10.0.0.1/24", "fd00::1/128"), nil, prefixes("10.0.0.2/24")},
		{"two in one subnet", prefixes("10.0.0.1/24", "10.0.0.2/24"), nil, prefixes("10.0.0.3/24")},
		{"one in the other", prefixes("10.0.0.1/24", "10.0.0.2/16"), nil, prefixes("10.0.0.3/24", "10.0.0.4/16")},
		{"two addresses", prefixes("10.0.0.0/31"), nil, prefixes("10.0.0.1/31")},
		{"two IPv6 addresses", prefixes("fd00::1/127"), nil, prefixes("fd00::/127")},
		{"at the end", prefixes("255.255.255.253/30"), nil, prefixes("255.255.255.254/30")},
		{"full", prefixes("10.0.0.1/30"), prefixes("10.0.0.2/32"), nil},
		{"two addresses, full", prefixes("10.0.0.0/31"), prefixes("10.0.0.1/32"), nil},
		{"all of it is a peer's", prefixes("10.0.0.1/24"), prefixes("10.0.0.0/24"), nil},
		{"no room", prefixes("10.0.0.1/32"), nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, host, _ := newHost(t, func(c *wgnet.Config) {
				c.Addresses = test.addresses
				addPeer(c, "", wgnet.NewPrivateKey().Public(), "")
				c.Peers[0].AllowedIPs = test.taken
			})
			cfg, err := host.Invite(wgnet.InviteOptions{Endpoint: "192.0.2.1"})
			if test.want == nil {
				if cfg != nil || err == nil || !strings.Contains(err.Error(), "full") && !strings.Contains(err.Error(), "no subnet") {
					t.Errorf("%v, %v", cfg, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(cfg.Addresses, test.want) {
				t.Errorf("got %v, want %v", cfg.Addresses, test.want)
			}
		})
	}
}

func TestInviteEndpoint(t *testing.T) {
	_, host, _ := newHost(t, nil) // which listens on 51820
	for given, want := range map[string]string{
		"vpn.example.com":      "vpn.example.com:51820",
		"vpn.example.com:1":    "vpn.example.com:1",
		"192.0.2.1":            "192.0.2.1:51820",
		"192.0.2.1:1":          "192.0.2.1:1",
		"2001:db8::1":          "[2001:db8::1]:51820",
		"[2001:db8::1]":        "[2001:db8::1]:51820",
		"[2001:db8::1]:1":      "[2001:db8::1]:1",
		"":                     "is missing",
		"vpn.example.com:0":    "port 0",
		"vpn.example.com:http": "no port",
		"0.0.0.0":              "no host's address",
		"a\nb":                 "the host",
	} {
		cfg, err := host.Invite(wgnet.InviteOptions{Endpoint: given})
		switch {
		case err != nil && !strings.HasPrefix(err.Error(), "wgnet: Invite: the Endpoint ") || err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v", given, err)
		case err == nil && cfg.Peers[0].Endpoint != want:
			t.Errorf("%q became %q, want %q", given, cfg.Peers[0].Endpoint, want)
		}
	}
}

// With an error nothing has changed.
func TestInviteErrors(t *testing.T) {
	_, host, endpoint := newHost(t, func(c *wgnet.Config) {
		addPeer(c, "db", wgnet.NewPrivateKey().Public(), "", "10.0.0.2/32")
	})
	known := host.Status().Peers[0].PublicKey
	for _, test := range []struct {
		name string
		opts wgnet.InviteOptions
		want string
	}{
		{"a name that is taken", wgnet.InviteOptions{Name: "DB"}, "also the name of peer db"},
		{"no name", wgnet.InviteOptions{Name: "a b"}, "Name"},
		{"no name for us", wgnet.InviteOptions{HostName: "a b"}, "the other side could not use its config"},
		{"a peer", wgnet.InviteOptions{PublicKey: known}, "there is a peer with the public key"},
		{"our own key", wgnet.InviteOptions{PublicKey: host.PublicKey()}, "our own key"},
		{"a key that is none", wgnet.InviteOptions{PublicKey: wgnet.PublicKey{1}}, "every shared secret zero"},
		{"a prefix with bits", wgnet.InviteOptions{AllowedIPs: prefixes("10.0.0.1/24")}, "bits set beyond"},
		{"half a second", wgnet.InviteOptions{PersistentKeepalive: time.Second / 2}, "PersistentKeepalive"},
		{"no server", wgnet.InviteOptions{DNS: []netip.Addr{{}}}, "DNS"},
	} {
		test.opts.Endpoint = endpoint
		if cfg, err := host.Invite(test.opts); cfg != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if peers := host.Status().Peers; len(peers) != 1 {
		t.Errorf("there are %d peers", len(peers))
	}
	off := invite(t, host, wgnet.InviteOptions{
		Endpoint: endpoint, PersistentKeepalive: -1, AllowedIPs: prefixes("0.0.0.0/0"), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")},
	})
	if off.Peers[0].PersistentKeepalive != 0 || fmt.Sprint(off.DNS, off.Peers[0].AllowedIPs) != "[9.9.9.9] [0.0.0.0/0]" {
		t.Errorf("the options say\n%v", off)
	}
	closeNet(t, host)
	if _, err := host.Invite(wgnet.InviteOptions{Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "use of closed") {
		t.Errorf("after Close: %v", err)
	}
}

// Invites at the same time get different addresses, until there are no more.
func TestInviteConcurrently(t *testing.T) {
	_, host, endpoint := newHost(t, func(c *wgnet.Config) { c.Addresses = prefixes("10.0.0.1/28") }) // 14 hosts
	var mu sync.Mutex                                                                                // guards seen and full
	seen, full := map[netip.Prefix]bool{}, 0
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			cfg, err := host.Invite(wgnet.InviteOptions{Endpoint: endpoint})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && !seen[cfg.Addresses[0]]:
				seen[cfg.Addresses[0]] = true
			case err == nil:
				t.Errorf("%v was given out twice", cfg.Addresses[0])
			case strings.Contains(err.Error(), "10.0.0.0/28 is full"):
				full++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(seen) != 13 || full != 3 {
		t.Errorf("%d addresses were given out, %d times there was none; want 13 and 3", len(seen), full)
	}
}
