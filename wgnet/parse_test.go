// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// expand puts real keys in the places of $A (Alice, private), $B (Bob, public), $C (Alice, public) and $P (preshared).
func expand(t testing.TB, text string) string {
	t.Helper()
	return strings.NewReplacer(
		"$A", base64Of(t, aliceHex), "$B", base64Of(t, bobPubHex), "$C", base64Of(t, alicePubHex), "$P", base64Of(t, bobHex),
	).Replace(text)
}

func parse(t testing.TB, text string) (*Config, error) {
	t.Helper()
	return ParseConfig(strings.NewReader(expand(t, text)))
}

// sameFile reports whether two Configs are the same as far as a file can hold them.
func sameFile(a, b *Config) bool {
	a, b = a.Clone(), b.Clone()
	a.warnings, b.warnings = nil, nil
	return reflect.DeepEqual(a, b)
}

const minimal = "[Interface]\nPrivateKey = $A\nAddress = 10.0.0.1\n"

// Faults 3 and 14: files as people write them.
func TestParseConfig(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}
	alice, bob := mustPrivate(t, aliceHex), mustPrivate(t, bobHex).Public()
	prefixes := func(s ...string) (p []netip.Prefix) {
		for _, s := range s {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	peer := func(p PeerConfig) *Config {
		p.PublicKey = bob
		return &Config{PrivateKey: alice, Addresses: own, Peers: []PeerConfig{p}}
	}
	const peerHead = minimal + "[Peer]\nPublicKey = $B\n"

	for _, c := range []struct {
		name, text string
		want       *Config
	}{
		{
			"scene 1", `# peer1
[Interface]
PrivateKey = $A
Address = 10.0.0.1
ListenPort = 51820
PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE
PostDown = iptables -D FORWARD -i %i -j ACCEPT

[Peer]
PublicKey = $B
EndPoint = peer2.example:51820
AllowedIPs = 10.0.0.2/32,192.168.1.0/24
`,
			&Config{PrivateKey: alice, Addresses: own, ListenPort: 51820, Peers: []PeerConfig{{
				PublicKey: bob, Endpoint: "peer2.example:51820", AllowedIPs: prefixes("10.0.0.2/32", "192.168.1.0/24"),
			}}},
		},
		{"every key, any letter case, no blank lines, no spaces", `[INTERFACE]
PRIVATEKEY=$A
address=10.0.0.1
listenport=0
dns=10.0.0.53,fd00::53,corp.example,1.1.1.1
Mtu=1380
FWMARK=0xca6c
table=off
saveconfig=true
preup=true
POSTUP=true
predown=true
PostDown=true
[peer]
publickey=$B
presharedkey=$P
endpoint=[fe80::1%eth0]:51820
allowedips=10.0.0.2,fd00::2,0.0.0.0/0,::/0
persistentkeepalive=25
`, &Config{
			PrivateKey: alice, Addresses: own, MTU: 1380,
			DNS:           []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fd00::53"), netip.MustParseAddr("1.1.1.1")},
			SearchDomains: []string{"corp.example"},
			Peers: []PeerConfig{{
				PublicKey: bob, PresharedKey: mustPreshared(t, bobHex), Endpoint: "[fe80::1%eth0]:51820",
				AllowedIPs: prefixes("10.0.0.2/32", "fd00::2/128", "0.0.0.0/0", "::/0"), PersistentKeepalive: 25 * time.Second,
			}},
		}},
		{
			"lists add up, with any separators", "[Interface]\nPrivateKey = $A\nAddress = 10.0.0.1/24 , fd00::1/64\nAddress=10.1.0.1\n" +
				"DNS = 10.0.0.53 a.example\nDNS =\nDNS = b.example,\n[Peer]\nPublicKey = $B\nAllowedIPs = 10.0.0.2/32,,\t10.0.0.3\nAllowedIPs = 10.0.0.4/32\n",
			&Config{
				PrivateKey: alice, Addresses: prefixes("10.0.0.1/24", "fd00::1/64", "10.1.0.1/32"),
				DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}, SearchDomains: []string{"a.example", "b.example"},
				Peers: []PeerConfig{{PublicKey: bob, AllowedIPs: prefixes("10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32")}},
			},
		},
		{"no peers", minimal, &Config{PrivateKey: alice, Addresses: own}},
		{"no final newline", strings.TrimSuffix(minimal, "\n"), &Config{PrivateKey: alice, Addresses: own}},
		{"BOM", "\ufeff" + minimal, &Config{PrivateKey: alice, Addresses: own}},
		{"CRLF", strings.ReplaceAll(minimal, "\n", "\r\n"), &Config{PrivateKey: alice, Addresses: own}},
		{"tabs, indents, no-break spaces", "\t[ Interface ]\t\n  PrivateKey\t=\t$A\u00a0\n\tAddress =\u00a010.0.0.1\n", &Config{PrivateKey: alice, Addresses: own}},
		{"keys in hex", "[Interface]\nPrivateKey = " + aliceHex + "\nAddress = 10.0.0.1\n", &Config{PrivateKey: alice, Addresses: own}},
		{
			"inline comments", "[Interface] # mine\nPrivateKey = $A # secret\nAddress = 10.0.0.1# no space\n#Address = 10.0.0.9\n",
			&Config{PrivateKey: alice, Addresses: own},
		},
		{"peers first", "[Peer]\nPublicKey = $B\n" + minimal, peer(PeerConfig{})},
		{"MTU 0", minimal + "MTU = 0\n", &Config{PrivateKey: alice, Addresses: own}},
		{"fault 6: no AllowedIPs", peerHead, peer(PeerConfig{})},
		{"fault 6: empty AllowedIPs", peerHead + "AllowedIPs =\n", peer(PeerConfig{})},
		{"host bits", peerHead + "AllowedIPs = 10.192.124.1/24, fd00::1/64\n", peer(PeerConfig{AllowedIPs: prefixes("10.192.124.0/24", "fd00::/64")})},
		{"keepalive off", peerHead + "PersistentKeepalive = OFF\n", peer(PeerConfig{})},
		{"keepalive 0", peerHead + "PersistentKeepalive = 0\n", peer(PeerConfig{})},
		{"preshared key of zeros", peerHead + "PresharedKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", peer(PeerConfig{})},
		{"name", peerHead + "# Name = db\n", peer(PeerConfig{Name: "db"})},
		{"pinned", peerHead + "#pinendpoint=TRUE # by hand\nEndpoint = a.example:1\n", peer(PeerConfig{Endpoint: "a.example:1", PinEndpoint: true})},
		{"pinned outside of a peer's section", "# PinEndpoint = true\n" + minimal + "# PinEndpoint = true\n", &Config{PrivateKey: alice, Addresses: own}},
		{"name without spaces", peerHead + "#name=Db-1.example\n", peer(PeerConfig{Name: "Db-1.example"})},
		{"name behind the section", minimal + "[Peer] # Name = db\nPublicKey = $B\n", peer(PeerConfig{Name: "db"})},
		{"name with a comment of its own", peerHead + "## NAME = db # the old one\n", peer(PeerConfig{Name: "db"})},
		{"name outside of a peer's section", "# Name = x\n" + minimal + "# Name = y\n\n[Peer]\nPublicKey = $B\n", peer(PeerConfig{})},
		{"other comments", peerHead + "# Named = db\n# Name: db\n# Name\n# Name =\n", peer(PeerConfig{})},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			if !sameFile(got, c.want) {
				t.Fatalf("got\n%v\nwant\n%v", got, c.want)
			}
			text, err := got.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseConfig(bytes.NewReader(text)); err != nil || !sameFile(got, again) {
				t.Errorf("after marshal and parse: %v\n%v\nwant\n%v", err, again, got)
			}
		})
	}
}

func TestMarshalText(t *testing.T) {
	text, err := testConfig(t).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	want := expand(t, `[Interface]
PrivateKey = $A
Address = 10.0.0.1/24, fd00::1/64
ListenPort = 51820
DNS = 10.0.0.53, fd00::53, corp.example, _sites.example.
MTU = 1380

[Peer]
# Name = db
PublicKey = $B
PresharedKey = $P
Endpoint = [fe80::1%eth0]:51820
AllowedIPs = 10.0.0.2/32, fd00::2/128
PersistentKeepalive = 25

[Peer]
PublicKey = AAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
Endpoint = vpn.example.com:1
AllowedIPs = 0.0.0.0/0

[Peer]
PublicKey = AAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
`)
	if string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}

	// More prefixes than a line may hold.
	c := testConfig(t)
	for i := range 50_000 {
		c.Peers[2].AllowedIPs = append(c.Peers[2].AllowedIPs,
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), 128))
	}
	if text, err = c.MarshalText(); err != nil {
		t.Fatal(err)
	}
	if again, err := ParseConfig(bytes.NewReader(text)); err != nil || !sameFile(c, again) {
		t.Errorf("50,000 prefixes do not come back: %v", err)
	}
}

// Faults 1 to 10, 12 and 13, in files: each error has its line, section and key, and shows no secret.
func TestParseErrors(t *testing.T) {
	const (
		head  = "[Interface]\nPrivateKey = $A\n"               // lines 1 and 2
		peer  = minimal + "[Peer]\n"                           // lines 1 to 4
		peer1 = peer + "PublicKey = $B\n"                      // lines 1 to 5
		other = "AAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" // a key that somebody may have
	)
	for _, c := range []struct {
		name, text   string
		line         int
		section, key string
		want         string
	}{
		{"empty file", "", 0, "", "", "no [Interface]"},
		{"fault 1: no interface", "[Peer]\nPublicKey = $B\n", 0, "", "", "no [Interface]"},
		{"fault 1: two interfaces", minimal + "\n[interface]\n", 5, "Interface", "", "the first is in line 1"},
		{"fault 1: unknown key", head + "Colour = s3cret\n", 3, "Interface", "Colour", "unknown key; [Interface] may have PrivateKey"},
		{"fault 1: unknown key of a peer", peer + "Colour = s3cret\n", 5, "Peer", "Colour", "unknown key; [Peer] may have PublicKey"},
		{"unknown section", head + "[s3cret]\n", 3, "", "", "want [Interface] or [Peer]"},
		{"open section", "[Interface\n", 1, "", "", "want [Interface] or [Peer]"},
		{"key before any section", "PrivateKey = $A\n", 1, "", "", "line above"},
		{"key in the wrong section", peer + "Address = 10.0.0.2\n", 5, "Peer", "Address", "belongs to a section [Interface]"},
		{"hook in the wrong section", peer + "PostUp = s3cret\n", 5, "Peer", "PostUp", "belongs to a section [Interface]"},
		{"peer's key in the interface", head + "PublicKey = $B\n", 3, "Interface", "PublicKey", "belongs to a section [Peer]"},
		{"no equals sign", head + "s3cret\n", 3, "Interface", "", "Key = value"},
		{"other comment sign", head + "; s3cret\n", 3, "Interface", "", "begins with #"},
		{"key by itself", head + "$A\n", 3, "Interface", "", "unknown key"},
		{"key by itself, and more", head + "$A = $A\n", 3, "Interface", "", "unknown key"},
		{"half a key by itself", head + "fIuHmfqzzJ37u5mS3cre=\n", 3, "Interface", "", "unknown key"},
		{"value missing", head + "ListenPort =\n", 3, "Interface", "ListenPort", "missing"},
		{"value behind a comment", head + "ListenPort = # 51820\n", 3, "Interface", "ListenPort", "missing"},

		{"fault 2: short key", "[Interface]\nPrivateKey = s3cret\n", 2, "Interface", "PrivateKey", "6 characters"},
		{"fault 2: secret key for a public one", peer + "PublicKey = $A$A\n", 5, "Peer", "PublicKey", "88 characters"},
		{"fault 2: preshared key", peer + "PresharedKey = s3cret\n", 5, "Peer", "PresharedKey", "6 characters"},
		{"secret key as a port", head + "ListenPort = $A\n", 3, "Interface", "ListenPort", "text of 44 characters"},
		{"secret key as an address", head + "Address = $A\n", 3, "Interface", "Address", "text of 44 characters"},
		{"secret key as a server", head + "DNS = $A\n", 3, "Interface", "DNS", "text of 44 characters"},
		{"secret key as an MTU", head + "MTU = $A\n", 3, "Interface", "MTU", "text of 44 characters"},
		{"secret key as an endpoint", peer + "Endpoint = $A\n", 5, "Peer", "Endpoint", "text of 44 characters"},
		{"secret key as a keepalive", peer + "PersistentKeepalive = $A\n", 5, "Peer", "PersistentKeepalive", "text of 44 characters"},
		{"secret key as a prefix", peer + "AllowedIPs = $A/32\n", 5, "Peer", "AllowedIPs", "text of 47 characters"},

		{"fault 3: NUL", head + "Address = 10.0.0.1\x00\n", 3, "Interface", "", "control character 0x00 in column 19"},
		{"fault 3: NUL in a comment", head + "# \x00\n", 3, "Interface", "", "control character"},
		{"fault 3: UTF-16", "\xff\xfe[\x00I\x00", 1, "", "", "UTF-16"},
		{"fault 3: UTF-16 without a BOM", "[\x00I\x00", 1, "", "", "UTF-8"},
		{"fault 3: line ends of an old Mac", strings.ReplaceAll(minimal, "\n", "\r"), 1, "", "", "control character 0x0d"},
		{"fault 3: long line", head + "# " + strings.Repeat("x", 10<<20), 3, "Interface", "", "longer than 1 MiB"},
		{"fault 3: long file", head + strings.Repeat(strings.Repeat("#", 1<<16)+"\n", 1<<9), 514, "", "", "larger than 32 MiB"},

		{"no private key", "\n[Interface]\nAddress = 10.0.0.1\n", 2, "Interface", "PrivateKey", "missing"},
		{"private key of zeros", "[Interface]\nPrivateKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 2, "Interface", "PrivateKey", "zeros"},
		{"private key twice", head + "PrivateKey = $A\n", 3, "Interface", "PrivateKey", "the first is in line 2"},
		{"no address", head, 1, "Interface", "Address", "missing"},
		{"empty address", head + "Address =\n", 1, "Interface", "Address", "missing"},
		{"address twice", minimal + "Address = fd00::1,10.0.0.1/24\n", 4, "Interface", "Address", "twice"},
		{"broken address", head + "Address = 10.0.0.256\n", 3, "Interface", "Address", `"10.0.0.256" is not an IP address`},
		{"netmask", head + "Address = 10.0.0.1/255.0.0.0\n", 3, "Interface", "Address", "prefix length"},
		{"address with a zone", head + "Address = fe80::1%eth0\n", 3, "Interface", "Address", "zone"},
		{"address with a zone and a length", head + "Address = fe80::1%eth0/64\n", 3, "Interface", "Address", "prefix length"},
		{"fault 8: 4-in-6 address", head + "Address = ::ffff:10.0.0.1\n", 3, "Interface", "Address", "write 10.0.0.1"},
		{"fault 9: multicast address", head + "Address = 224.0.0.1\n", 3, "Interface", "Address", "multicast"},
		{"fault 9: unspecified address", head + "Address = ::\n", 3, "Interface", "Address", "no host's"},
		{"broken server", head + "DNS = 10.0.0\n", 3, "Interface", "DNS", "not an IP address"},
		{"broken search domain", head + "DNS = corp..example\n", 3, "Interface", "DNS", "search domain \"corp..example\" has a label"},
		{"unspecified server", head + "DNS = 0.0.0.0\n", 3, "Interface", "DNS", "one server"},
		{"large port", head + "ListenPort = 65536\n", 3, "Interface", "ListenPort", "65535"},
		{"fault 9: negative MTU", minimal + "MTU = -1\n", 4, "Interface", "MTU", "-1 is not from"},
		{"fault 9: large MTU", minimal + "MTU = 70000\n", 4, "Interface", "MTU", "70000 is not from"},
		{"fault 9: MTU of IPv6", "[Interface]\nPrivateKey = $A\nMTU = 1000\nAddress = fd00::1\n", 3, "Interface", "MTU", "1280"},
		{"MTU of words", minimal + "MTU = auto\n", 4, "Interface", "MTU", "not a number"},

		{"no public key", peer + "AllowedIPs = 10.0.0.2\n", 4, "Peer", "PublicKey", "missing"},
		{"public key twice", peer1 + "PublicKey = $B\n", 6, "Peer", "PublicKey", "the first is in line 5"},
		{"fault 12: public key of zeros", peer + "PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 5, "Peer", "PublicKey", "zeros"},
		{"fault 12: low order", peer + "PublicKey = AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 5, "Peer", "PublicKey", "shared secret"},
		{"fault 13: own key", peer + "PublicKey = $C\n", 5, "Peer", "PublicKey", "our own key"},
		{"own private key as a peer's", peer + "PublicKey = $A\n", 5, "Peer", "PublicKey", "peer number 1: it is our own private key"},
		{"two sections of one peer", peer1 + "# Name = db\n\n[Peer]\nPublicKey = $B\n", 9, "Peer", "PublicKey", "key of peer db (number 1, line 5)"},
		{"fault 10: endpoint with port 0", peer + "Endpoint = 192.0.2.1:0\n", 5, "Peer", "Endpoint", "port 0"},
		{"fault 10: unspecified endpoint", peer + "Endpoint = 0.0.0.0:1\n", 5, "Peer", "Endpoint", "no host's"},
		{"fault 10: multicast endpoint", peer + "Endpoint = 224.0.0.1:1\n", 5, "Peer", "Endpoint", "multicast"},
		{"endpoint without a port", peer + "Endpoint = vpn.example.com\n", 5, "Peer", "Endpoint", "no port"},
		{"endpoint twice", peer + "Endpoint = a:1\nEndpoint = a:1\n", 6, "Peer", "Endpoint", "the first is in line 5"},
		{
			"fault 7: a prefix of two peers",
			peer1 + "# Name = db\nAllowedIPs = 10.0.0.2/32,\nAllowedIPs = 10.1.0.0/16\n\n[Peer]\nPublicKey = " + other +
				"\nAllowedIPs = 10.0.0.3\nAllowedIPs = 10.1.2.3/16\n",
			13, "Peer", "AllowedIPs", "peer AAEAAAAA…: 10.1.0.0/16 also belongs to peer db (number 1, line 8)",
		},
		{"fault 8: 4-in-6 prefix", peer + "AllowedIPs = ::ffff:10.0.0.1/100\n", 5, "Peer", "AllowedIPs", "as IPv4"},
		{"broken prefix", peer + "AllowedIPs = 10.0.0.0/33\n", 5, "Peer", "AllowedIPs", `"10.0.0.0/33" is not`},
		{"added prefix", peer + "AllowedIPs = +10.0.0.0/8\n", 5, "Peer", "AllowedIPs", "leave the sign out"},
		{"removed prefix", peer + "AllowedIPs = 10.0.0.2, -10.0.0.0/8\n", 5, "Peer", "AllowedIPs", "leave the sign out"},
		{"long keepalive", peer + "PersistentKeepalive = 65536\n", 5, "Peer", "PersistentKeepalive", "off"},
		{"negative keepalive", peer + "PersistentKeepalive = -1\n", 5, "Peer", "PersistentKeepalive", "off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := parse(t, c.text)
			var e *ParseError
			if cfg != nil || !errors.As(err, &e) {
				t.Fatalf("got %v, %v; want a ParseError", cfg, err)
			}
			if e.Section != c.section || e.Key != c.key || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q (section %q, key %q); want section %q, key %q, and %q", err, e.Section, e.Key, c.section, c.key, c.want)
			}
			if e.Line != c.line {
				t.Errorf("got line %d, want %d: %v", e.Line, c.line, err)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
			for _, secret := range []string{base64Of(t, aliceHex), base64Of(t, bobHex)} {
				if piece := leaked(err.Error(), secret); piece != "" {
					t.Errorf("error %q shows %q of a key", err, piece)
				}
			}
			if strings.Contains(strings.ToLower(err.Error()), "s3cre") {
				t.Errorf("error %q shows the value", err)
			}
		})
	}

	t.Run("too many peers", func(t *testing.T) {
		_, err := parse(t, minimal+strings.Repeat("[Peer]\n", maxPeers+1))
		if err == nil || !strings.Contains(err.Error(), "line 65540: [Peer]: more than 65536 peers") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("reader fails", func(t *testing.T) {
		broken := errors.New("the disk is on fire")
		if _, err := ParseConfig(io.MultiReader(strings.NewReader(expand(t, minimal)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// Fault 4, and what else is worth a word but no error.
func TestWarnings(t *testing.T) {
	const peer = minimal + "[Peer]\nPublicKey = $B\nAllowedIPs = 10.0.0.2\n" // lines 1 to 6
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", peer, nil},
		{"fault 4: each ignored key once", minimal + "PostUp = a = b; c\nPostUp = d\nPREUP = e\nPreDown = f\nPostDown = g\nTable = auto\nSaveConfig = true\nFwMark = off\n", []string{
			"line 4: [Interface] PostUp: ignored: wgnet starts no programs",
			"line 6: [Interface] PreUp: ignored: wgnet starts no programs",
			"line 7: [Interface] PreDown: ignored: wgnet starts no programs",
			"line 8: [Interface] PostDown: ignored: wgnet starts no programs",
			"line 9: [Interface] Table: ignored: wgnet has no part in the host's routing",
			"line 10: [Interface] SaveConfig: ignored: wgnet does not write config files",
			"line 11: [Interface] FwMark: ignored: wgnet has no part in the host's routing; Config.Control can mark the socket",
		}},
		{"host bits", peer + "AllowedIPs = 10.1.2.3/16\n", []string{"line 7: [Peer] AllowedIPs: 10.1.2.3/16 has bits set beyond its length; taken as 10.1.0.0/16"}},
		{"fault 6: no AllowedIPs", minimal + "[Peer]\nPublicKey = $B\n", []string{"line 4: [Peer] AllowedIPs: peer 3p7bfXt9… has none, so it may send and receive nothing"}},
		{"empty AllowedIPs are meant", minimal + "[Peer]\nPublicKey = $B\nAllowedIPs =\n", nil},
		{"bad name", peer + "# Name = Alice's laptop\n", []string{"line 7: [Peer] Name: \"Alice's laptop\" ignored: the name is not made of letters"}},
		{"pinned without an endpoint", peer + "# PinEndpoint = true\n", []string{"line 7: [Peer] PinEndpoint: ignored: the peer has no Endpoint to be kept at"}},
		{"pinned or not", peer + "# PinEndpoint = yes\n", []string{"line 7: [Peer] PinEndpoint: \"yes\" ignored: want true, or no such comment"}},
		{"second name", peer + "# Name = a\n# Name = b\n", []string{"line 8: [Peer] Name: ignored: the peer has its name from line 7"}},
		{"name of another peer", peer + "# Name = db\n\n[Peer]\n# Name = DB\nPublicKey = AAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAllowedIPs =\n", []string{
			"line 10: [Peer] Name: DB ignored: it is the name of the peer in line 4",
		}},
		{"name above a section", peer + "# Name = db\n[Peer]\nPublicKey = AAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAllowedIPs =\n", []string{
			"line 8: [Peer] Name: the Name comment right above this line is ignored",
		}},
		{"name above the first section", minimal + "# Name = db\n[Peer]\nPublicKey = $B\nAllowedIPs =\n", []string{
			"line 5: [Interface] Name: the Name comment right above this line is ignored",
		}},
		{"routing domain", minimal + "DNS = 10.0.0.53, ~.\n", []string{"line 4: [Interface] DNS: an entry that begins with ~"}},
		{"own loopback as a server", minimal + "DNS = 127.0.0.53\n", []string{"line 4: [Interface] DNS: 127.0.0.53 is the loopback"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := parse(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			got := cfg.Warnings()
			if len(got) != len(c.want) {
				t.Fatalf("got %v; want %q", got, c.want)
			}
			for i, w := range got {
				if !strings.HasPrefix(w.String(), c.want[i]) {
					t.Errorf("got %q; want %q", w, c.want[i])
				}
			}
			for i := range cfg.Peers {
				if strings.HasPrefix(c.name, "name above") && cfg.Peers[i].Name != "" {
					t.Errorf("peer %d has the name %q, which may be another's", i, cfg.Peers[i].Name)
				}
			}
		})
	}

	cfg, err := parse(t, peer+strings.Repeat("# Name = ?\n", 10_000))
	if err != nil || len(cfg.Warnings()) != maxWarnings+1 {
		t.Errorf("10,000 bad comments: %v, %d warnings", err, len(cfg.Warnings()))
	}
}

// What we write is what wg(8) and wg-quick(8) read: the file goes through `wg-quick strip`, and `wg setconf` then gets
// as far as the interface, which does not exist.
func TestMarshalTextForTools(t *testing.T) {
	wg, err := exec.LookPath("wg")
	if err != nil {
		t.Skip("wg is not installed")
	}
	quick, err := exec.LookPath("wg-quick")
	if err != nil || os.Getuid() != 0 {
		t.Skip("wg-quick is not installed, or this is not root, whom it asks for")
	}
	c := testConfig(t)
	c.Peers[0].Endpoint = "[fe80::1%1]:51820" // wg(8) wants a zone that exists
	c.Peers[1].Endpoint = "192.0.2.1:51820"   // and looks names up
	text, err := c.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	path := filepath.Join(t.TempDir(), "wg0.conf")
	setconf := func(text []byte) string {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, _ := exec.CommandContext(ctx, wg, "setconf", "nosuchwg0", path).CombinedOutput()
		return string(out)
	}
	const broken = "Configuration parsing error"
	if out := setconf([]byte("[Peer]\nPublicKey = x\n")); !strings.Contains(out, broken) {
		t.Skipf("wg setconf does not tell a broken file by %q: %q", broken, out)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	stripped, err := exec.CommandContext(ctx, quick, "strip", path).Output()
	if err != nil {
		t.Fatalf("wg-quick strip: %v", err)
	}
	if bytes.Contains(stripped, []byte("Address")) || bytes.Contains(stripped, []byte("DNS")) || !bytes.Contains(stripped, []byte("ListenPort = 51820")) {
		t.Errorf("wg-quick leaves\n%s", stripped)
	}
	if out := setconf(stripped); out == "" || strings.Contains(out, broken) || strings.Contains(out, "nrecognized") {
		t.Errorf("wg setconf: %s", out)
	}
}

// FuzzParseConfig checks that what parses is valid and survives marshal and parse, and that no error and no warning
// shows a piece of a key, wherever in the text the key stands. $A, $B, $C and $P stand for keys.
func FuzzParseConfig(f *testing.F) {
	f.Add("")                                                                                                                                         // no section at all
	f.Add(minimal)                                                                                                                                    // the least that is valid
	f.Add("\ufeff" + strings.ReplaceAll(minimal, "\n", "\r\n"))                                                                                       // as Windows editors save it
	f.Add("[Interface]\nPrivateKey=$A\nAddress=10.0.0.1/8,fd00::1\nDNS=10.0.0.1 x.example\nMTU=1280\nListenPort=1\nFwMark=0x1\nPostUp=a=b\n")         // every kind of key
	f.Add(minimal + "[peer]\n#Name=db\npublickey=$B\nPresharedKey=$P\nENDPOINT=[fe80::1%1]:1\nAllowedIPs=10.0.0.2/8,::/0\nPersistentKeepalive=off\n") // a whole peer, with host bits
	f.Add(minimal + "[Peer]\nPublicKey=$B\n# Name = a\n[Peer]\n# Name = a\nPublicKey=$P\n")                                                           // a name that may be either's
	f.Add(minimal + "[Peer]\nPublicKey=$B\n[Peer]\nPublicKey=$B\n")                                                                                   // one peer twice
	f.Add(minimal + "[Peer]\nPublicKey=$C\n")                                                                                                         // our own key
	f.Add("[Interface]\nPrivateKey=$A\n$A\n")                                                                                                         // a key where a name should be
	f.Add("[Interface]\nPrivateKey=$A\n$A=1\nAddress=$A\n")                                                                                           // and where a value should be
	f.Add(minimal + "DNS=$A\n[$A]\n")                                                                                                                 // and as a domain and a section
	f.Add(minimal + "[Peer]\nEndpoint=$A:1\nPublicKey=$A$A\n")                                                                                        // and as a host, and too long
	f.Add(minimal + "[Peer]\nPublicKey=$B\n# PinEndpoint = true\nEndpoint = a:1\n[Peer]\nPublicKey=$P\n#PinEndpoint=true\n")                          // pinned, with an endpoint and without one
	f.Add(minimal + "[Peer]\nPublicKey=$B\nAllowedIPs=$A/32\n# Name = $A\n")                                                                          // and as a prefix and a comment
	f.Add(minimal + "[Peer]\nPublicKey=$B\nEndpoint=[fe80::1%$A]:0\nPersistentKeepalive=$A\n")                                                        // and as a zone and a number
	f.Add("[Interface]\nAddress=10.0.0.1\x00\n")                                                                                                      // NUL
	f.Add("\xff\xfe[\x00")                                                                                                                            // UTF-16
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(t, text)
		check := func(said string) {
			for _, secret := range []string{base64Of(t, aliceHex), base64Of(t, bobHex)} {
				if piece := leaked(said, secret); piece != "" {
					t.Fatalf("%q shows %q of a key", said, piece)
				}
			}
		}
		if err != nil {
			check(err.Error())
			return
		}
		for _, w := range c.Warnings() {
			check(w.String())
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("parsed, but not valid: %v", err)
		}
		out, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(bytes.NewReader(out))
		if err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
		if !sameFile(c, again) {
			t.Fatalf("was\n%v\nbecame\n%v", c, again)
		}
	})
}
