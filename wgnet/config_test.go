// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// testConfig returns a Config with every field of the file set.
func testConfig(t testing.TB) *Config {
	t.Helper()
	return &Config{
		PrivateKey:    mustPrivate(t, aliceHex),
		Addresses:     []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
		ListenPort:    51820,
		DNS:           []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53")},
		SearchDomains: []string{"corp.example", "_sites.example."},
		MTU:           1380,
		Peers: []PeerConfig{
			{
				Name:                "db",
				PublicKey:           mustPrivate(t, bobHex).Public(),
				PresharedKey:        mustPreshared(t, bobHex),
				Endpoint:            "[fe80::1%eth0]:51820",
				AllowedIPs:          []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::2/128")},
				PersistentKeepalive: 25 * time.Second,
			},
			{PublicKey: PublicKey{1: 1}, Endpoint: "vpn.example.com:1", AllowedIPs: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
			{PublicKey: PublicKey{1: 2}},
		},
	}
}

func TestClone(t *testing.T) {
	c := testConfig(t)
	c.warnings = []Warning{{Line: 1}}
	d := c.Clone()
	if !reflect.DeepEqual(c, d) {
		t.Fatalf("the clone differs:\n%v\n%v", c, d)
	}
	c.Addresses[0] = netip.Prefix{}
	c.DNS[0] = netip.Addr{}
	c.SearchDomains[0] = "changed"
	c.Peers[0].AllowedIPs[0] = netip.Prefix{}
	c.Peers[1].Name = "changed"
	c.warnings[0].Line = 2
	if want := testConfig(t); !reflect.DeepEqual(want.Peers, d.Peers) || !slices.Equal(want.Addresses, d.Addresses) ||
		!slices.Equal(want.DNS, d.DNS) || !slices.Equal(want.SearchDomains, d.SearchDomains) || d.Warnings()[0].Line != 1 {
		t.Error("the clone changes with the original")
	}
	if (*Config)(nil).Clone() != nil {
		t.Error("the clone of nil is not nil")
	}
}

func TestLoadConfig(t *testing.T) {
	text, err := testConfig(t).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "wg0.conf")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}

	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Warnings() {
		if strings.Contains(w.Reason, "mode") {
			t.Errorf("a warning about a file of mode 0600: %v", w)
		}
	}

	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			c, err := LoadConfig(path)
			if err != nil {
				t.Fatal(err)
			}
			if w := c.Warnings(); len(w) == 0 || !strings.Contains(w[len(w)-1].String(), "lets others read it") {
				t.Errorf("no warning about a file of mode %#o: %v", mode, w)
			}
		}
	}

	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: got %v", err)
	}
	if _, err := LoadConfig(t.TempDir()); err == nil {
		t.Error("a folder is taken for a file")
	}

	bad := filepath.Join(t.TempDir(), "bad.conf")
	if err := os.WriteFile(bad, []byte("[Interface]\nColor = red\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadConfig(bad)
	var e *ParseError
	if !errors.As(err, &e) || e.File != bad || e.Line != 2 || !strings.HasPrefix(err.Error(), "wgnet: "+bad+" line 2: [Interface] Color: unknown key") {
		t.Errorf("got %v", err)
	}
}

func TestLabel(t *testing.T) {
	key := mustPrivate(t, bobHex).Public()
	for _, c := range []struct {
		peer PeerConfig
		want string
	}{
		{PeerConfig{Name: "db", PublicKey: key}, "db"},
		{PeerConfig{PublicKey: key}, key.String()[:8] + "…"},
		{PeerConfig{Name: "a\nb", PublicKey: key}, key.String()[:8] + "…"}, // fault 5: not even into a log
		{PeerConfig{}, "without a key"},
	} {
		if got := c.peer.label(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// Faults 5 to 10, 12 and 13, through the Go API: each change makes a good Config bad.
func TestValidate(t *testing.T) {
	prefix := netip.MustParsePrefix
	type change = func(c *Config)
	for _, c := range []struct {
		name   string
		change change
		key    string
		want   string
	}{
		{"no private key", func(c *Config) { c.PrivateKey = PrivateKey{} }, "PrivateKey", "missing"},

		{"no address", func(c *Config) { c.Addresses = nil }, "Address", "missing"},
		{"invalid address", func(c *Config) { c.Addresses[0] = netip.Prefix{} }, "Address", "not valid"},
		{"fault 8: 4-in-6 address", func(c *Config) { c.Addresses[0] = prefix("::ffff:10.0.0.1/128") }, "Address", "write 10.0.0.1"},
		{"fault 9: multicast address", func(c *Config) { c.Addresses[0] = prefix("224.0.0.1/32") }, "Address", "multicast"},
		{"fault 9: IPv6 multicast address", func(c *Config) { c.Addresses[0] = prefix("ff02::1/128") }, "Address", "multicast"},
		{"fault 9: unspecified address", func(c *Config) { c.Addresses[0] = prefix("0.0.0.0/0") }, "Address", "no host's"},
		{"fault 9: IPv6 unspecified address", func(c *Config) { c.Addresses[0] = prefix("::/128") }, "Address", "no host's"},
		{"loopback address", func(c *Config) { c.Addresses[0] = prefix("127.0.0.2/8") }, "Address", "loopback"},
		{"broadcast address", func(c *Config) { c.Addresses[0] = prefix("255.255.255.255/32") }, "Address", "no host's"},
		{"address twice", func(c *Config) { c.Addresses[1] = prefix("10.0.0.1/32") }, "Address", "twice"},

		{"invalid server", func(c *Config) { c.DNS[0] = netip.Addr{} }, "DNS", "not valid"},
		{"4-in-6 server", func(c *Config) { c.DNS[0] = netip.MustParseAddr("::ffff:10.0.0.1") }, "DNS", "write 10.0.0.1"},
		{"server with a zone", func(c *Config) { c.DNS[0] = netip.MustParseAddr("fe80::1%e\nth0") }, "DNS", "zone"},
		{"multicast server", func(c *Config) { c.DNS[0] = netip.MustParseAddr("224.0.0.251") }, "DNS", "not the address of one"},
		{"fault 5: newline in a search domain", func(c *Config) { c.SearchDomains[0] = "a\nlisten_port=1" }, "DNS", "not made of"},
		{"empty search domain", func(c *Config) { c.SearchDomains[0] = "" }, "DNS", "empty"},
		{"search domain of one dot", func(c *Config) { c.SearchDomains[0] = "." }, "DNS", "empty"},
		{"long search domain", func(c *Config) { c.SearchDomains[0] = strings.Repeat("a.", 127) + "a" }, "DNS", "253"},

		{"fault 9: negative MTU", func(c *Config) { c.MTU = -1 }, "MTU", "576 to 65475"},
		{"fault 9: large MTU", func(c *Config) { c.MTU = 70000 }, "MTU", "576 to 65475"},
		{"fault 9: small MTU with IPv6", func(c *Config) { c.MTU = 1000 }, "MTU", "1280"},

		{"too many peers", func(c *Config) { c.Peers = make([]PeerConfig, maxPeers+1) }, "", "65536"},
		{"fault 12: no public key", func(c *Config) { c.Peers[0].PublicKey = PublicKey{} }, "PublicKey", "missing"},
		{"fault 12: low order", func(c *Config) { c.Peers[0].PublicKey = lowOrder[2] }, "PublicKey", "shared secret"},
		{"impossible public key", func(c *Config) { c.Peers[0].PublicKey[31] |= 0x80 }, "PublicKey", "no private key"},
		{"fault 13: own key", func(c *Config) { c.Peers[0].PublicKey = c.PrivateKey.Public() }, "PublicKey", "our own key"},
		{"own private key as a peer's", func(c *Config) { c.Peers[1].PublicKey = mustHex(aliceHex) }, "PublicKey", "peer number 2"},
		{"key twice", func(c *Config) { c.Peers[1].PublicKey = c.Peers[0].PublicKey }, "PublicKey", "key of peer db (number 1)"},

		{"name with a space", func(c *Config) { c.Peers[0].Name = "my db" }, "Name", "not made of"},
		{"fault 5: newline in a name", func(c *Config) { c.Peers[0].Name = "db\n[Peer]" }, "Name", "not made of"},
		{"name with an underscore", func(c *Config) { c.Peers[0].Name = "my_db" }, "Name", "underscore"},
		{"name with a final dot", func(c *Config) { c.Peers[0].Name = "db." }, "Name", "dot"},
		{"name with a final hyphen", func(c *Config) { c.Peers[0].Name = "db-" }, "Name", "hyphen"},
		{"name with a long label", func(c *Config) { c.Peers[0].Name = strings.Repeat("a", 64) }, "Name", "63"},
		{"name like an address", func(c *Config) { c.Peers[0].Name = "10.0.0.2" }, "Name", "IPv4"},
		{"name like a number", func(c *Config) { c.Peers[0].Name = "7" }, "Name", "IPv4"},
		{"name like an IPv6 address", func(c *Config) { c.Peers[0].Name = "fd00::2" }, "Name", "not made of"},
		{"localhost", func(c *Config) { c.Peers[0].Name = "LocalHost" }, "Name", "RFC 6761"},
		{"below localhost", func(c *Config) { c.Peers[0].Name = "db.localhost" }, "Name", "RFC 6761"},
		{"name twice", func(c *Config) { c.Peers[1].Name = "DB" }, "Name", "name of peer db (number 1)"},

		{"fault 5: newline in an endpoint", func(c *Config) { c.Peers[0].Endpoint = "a\nprivate_key=00:1" }, "Endpoint", "not made of"},
		{"fault 5: newline in a port", func(c *Config) { c.Peers[0].Endpoint = "192.0.2.1:1\n" }, "Endpoint", "port"},
		{"fault 5: newline in a zone", func(c *Config) { c.Peers[0].Endpoint = "[fe80::1%a\nb]:1" }, "Endpoint", "zone"},

		{"invalid prefix", func(c *Config) { c.Peers[0].AllowedIPs[0] = netip.Prefix{} }, "AllowedIPs", "not valid"},
		{"fault 8: 4-in-6 prefix", func(c *Config) { c.Peers[0].AllowedIPs[0] = prefix("::ffff:10.0.0.0/104") }, "AllowedIPs", "as IPv4"},
		{"host bits", func(c *Config) { c.Peers[0].AllowedIPs[0] = prefix("10.0.0.1/8") }, "AllowedIPs", "write 10.0.0.0/8"},
		{
			"fault 7: prefix of two peers", func(c *Config) { c.Peers[1].AllowedIPs[0] = prefix("10.0.0.2/32") },
			"AllowedIPs", "peer AAEAAAAA…: 10.0.0.2/32 also belongs to peer db (number 1)",
		},
		{"too many prefixes", func(c *Config) { c.Peers[1].AllowedIPs = make([]netip.Prefix, maxAllowedIPs) }, "AllowedIPs", "1048576"},

		{"pinned to nothing", func(c *Config) { c.Peers[2].PinEndpoint = true }, "PinEndpoint", "no Endpoint"},
		{"look-ups in a busy loop", func(c *Config) { c.ResolveInterval = time.Millisecond }, "ResolveInterval", "1ms is less than 1s"},

		{"negative keepalive", func(c *Config) { c.Peers[0].PersistentKeepalive = -time.Second }, "PersistentKeepalive", "whole number"},
		{"keepalive of milliseconds", func(c *Config) { c.Peers[0].PersistentKeepalive = 1500 * time.Millisecond }, "PersistentKeepalive", "whole number"},
		{"long keepalive", func(c *Config) { c.Peers[0].PersistentKeepalive = 65536 * time.Second }, "PersistentKeepalive", "whole number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t)
			c.change(cfg)
			err := cfg.Validate()
			var e *ParseError
			if !errors.As(err, &e) || e.Line != 0 || e.Key != c.key || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v; want an error about %q with %q", err, c.key, c.want)
			}
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("the error is not one line: %q", err)
			}
			if _, err := cfg.MarshalText(); err == nil {
				t.Error("MarshalText writes it all the same")
			}
		})
	}

	t.Run("good", func(t *testing.T) {
		for _, change := range []change{
			func(*Config) {},
			func(c *Config) { c.MTU = 1280 },
			func(c *Config) { c.MTU = maxMTU },
			func(c *Config) { c.MTU, c.Addresses = 576, c.Addresses[:1] },
			func(c *Config) { c.Peers = nil },
			func(c *Config) { c.Peers[0].Name = "Web-1.eu" },
			func(c *Config) { c.ResolveInterval = -1 },
			func(c *Config) { c.Peers[1].PinEndpoint = true },
			// A prefix twice with one peer, and one inside of another's, are what real configs have.
			func(c *Config) { c.Peers[0].AllowedIPs = append(c.Peers[0].AllowedIPs, c.Peers[0].AllowedIPs...) },
			func(c *Config) { c.Peers[2].AllowedIPs = []netip.Prefix{prefix("10.0.0.0/8")} },
		} {
			c := testConfig(t)
			change(c)
			if err := c.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
	if err := (*Config)(nil).Validate(); err == nil {
		t.Error("nil is a valid config")
	}
}

// A pinned endpoint goes through a file, and a token has no place for it.
func TestPinnedMarshal(t *testing.T) {
	c := testConfig(t)
	c.Peers[1].PinEndpoint = true
	text, err := c.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseConfig(bytes.NewReader(text))
	if err != nil || !reflect.DeepEqual(c.Peers, d.Peers) {
		t.Errorf("%v\n%s", err, text)
	}
	if _, err := c.Token(); err == nil || !strings.Contains(err.Error(), "PinEndpoint: peer AAEAAAAA…: a token has no place for it") {
		t.Errorf("Token: %v", err)
	}
	for interval, want := range map[time.Duration]time.Duration{0: DefaultResolveInterval, -1: 0, time.Minute: time.Minute} {
		if got := (&Config{ResolveInterval: interval}).resolveInterval(); got != want {
			t.Errorf("%v means %v, want %v", interval, got, want)
		}
	}
}

// Fault 10, and the forms that an endpoint can have.
func TestParseEndpoint(t *testing.T) {
	for _, c := range []struct {
		text string
		want endpoint
	}{
		{"192.0.2.1:51820", endpoint{addr: netip.MustParseAddr("192.0.2.1"), port: 51820}},
		{"[2001:db8::1]:1", endpoint{addr: netip.MustParseAddr("2001:db8::1"), port: 1}},
		{"[fe80::1%eth0]:65535", endpoint{addr: netip.MustParseAddr("fe80::1%eth0"), port: 65535}},
		{"127.0.0.1:51820", endpoint{addr: netip.MustParseAddr("127.0.0.1"), port: 51820}},
		{"vpn.example.com:51820", endpoint{host: "vpn.example.com", port: 51820}},
		{"vpn.example.com.:51820", endpoint{host: "vpn.example.com.", port: 51820}},
		{"my_host:51820", endpoint{host: "my_host", port: 51820}},
		{"xn--bcher-kva.example:51820", endpoint{host: "xn--bcher-kva.example", port: 51820}},
	} {
		if got, err := parseEndpoint(c.text); err != nil || got != c.want {
			t.Errorf("%s: got %v, %v; want %v", c.text, got, err, c.want)
		}
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no port"},
		{"no port", "vpn.example.com", "no port"},
		{"no port after an address", "192.0.2.1", "no port"},
		{"no port after brackets", "[2001:db8::1]", "no port"},
		{"empty port", "192.0.2.1:", "no port from 1"},
		{"port 0", "192.0.2.1:0", "port 0"},
		{"large port", "192.0.2.1:65536", "no port from 1"},
		{"signed port", "192.0.2.1:+1", "no port from 1"},
		{"named port", "192.0.2.1:http", "no port from 1"},
		{"no host", ":51820", "empty"},
		{"unspecified", "0.0.0.0:51820", "no host's"},
		{"unspecified IPv6", "[::]:51820", "no host's"},
		{"multicast", "224.0.0.1:51820", "multicast"},
		{"multicast IPv6", "[ff02::1%eth0]:51820", "multicast"},
		{"broadcast", "255.255.255.255:51820", "no host's"},
		{"4-in-6", "[::ffff:192.0.2.1]:51820", "as IPv4"},
		{"4-in-6 unspecified", "[::ffff:0.0.0.0]:51820", "as IPv4"},
		{"no brackets", "2001:db8::1:51820", "brackets"},
		{"brackets around IPv4", "[192.0.2.1]:51820", "brackets"},
		{"brackets around a name", "[vpn.example.com]:51820", "brackets"},
		{"open bracket", "[2001:db8::1:51820", "bracket"},
		{"broken IPv4", "192.0.2.256:51820", "IPv4"},
		{"leading zeros", "192.0.2.01:51820", "IPv4"},
		{"space", "vpn example:51820", "not made of"},
		{"slash", "https://vpn.example.com:51820", "understood"},
		{"a key", base64Of(t, aliceHex) + ":51820", "not made of"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseEndpoint(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want an error with %q", got, err, c.want)
			} else if piece := leaked(err.Error(), base64Of(t, aliceHex)); piece != "" {
				t.Errorf("the error shows %q of a key", piece)
			}
		})
	}
}
