// SPDX-License-Identifier: MIT

package wgnet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestUAPIChange(t *testing.T) {
	prefix := netip.MustParsePrefix
	keys := []PublicKey{NewPrivateKey().Public(), NewPrivateKey().Public(), NewPrivateKey().Public()}
	psk := NewPresharedKey()
	base := []PeerConfig{
		{PublicKey: keys[0], Name: "a", Endpoint: "192.0.2.1:1", AllowedIPs: []netip.Prefix{prefix("10.0.0.1/32"), prefix("10.0.0.2/32")}},
		{PublicKey: keys[1], Name: "b", PresharedKey: psk, AllowedIPs: []netip.Prefix{prefix("fd00::/64")}},
	}
	tests := []struct {
		name   string
		change func([]PeerConfig) []PeerConfig
		want   []string // without public keys' values
	}{
		{"nothing", func(p []PeerConfig) []PeerConfig { return p }, nil},
		{"another order", func(p []PeerConfig) []PeerConfig { slices.Reverse(p); return p }, nil},
		{"a name, which is not of the device's concern", func(p []PeerConfig) []PeerConfig { p[0].Name = "c"; return p }, []string{
			"0", "update_only=true",
		}},
		{"an endpoint", func(p []PeerConfig) []PeerConfig { p[0].Endpoint = "192.0.2.2:2"; return p }, []string{
			"0", "update_only=true", "endpoint=192.0.2.2:2",
		}},
		{"a name for an endpoint, and none", func(p []PeerConfig) []PeerConfig {
			p[0].Endpoint, p[1].PersistentKeepalive = "vpn.example:1", 25*time.Second
			return p
		}, []string{
			"0", "update_only=true", "1", "update_only=true", "persistent_keepalive_interval=25",
		}},
		{"no preshared key", func(p []PeerConfig) []PeerConfig { p[1].PresharedKey = PresharedKey{}; return p }, []string{
			"1", "update_only=true", "preshared_key=" + strings.Repeat("0", 64),
		}},
		{"a prefix moves: it comes before it goes, and nothing else is touched", func(p []PeerConfig) []PeerConfig {
			p[0].AllowedIPs, p[1].AllowedIPs = p[0].AllowedIPs[:1], append(p[1].AllowedIPs, prefix("10.0.0.2/32"))
			return p
		}, []string{
			"0", "update_only=true", "1", "update_only=true", "allowed_ip=10.0.0.2/32",
			"0", "update_only=true", "allowed_ip=-10.0.0.2/32",
		}},
		{"a peer takes another one's place", func(p []PeerConfig) []PeerConfig {
			p[1] = PeerConfig{PublicKey: keys[2], AllowedIPs: p[1].AllowedIPs}
			return p
		}, []string{
			"2", "persistent_keepalive_interval=0", "allowed_ip=fd00::/64", "1", "remove=true",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			old := newPeerTable(base, nil)
			cfg := &Config{Peers: base}
			now := newPeerTable(test.change(cfg.Clone().Peers), old)
			var got []string
			for line := range strings.Lines(uapiChange(comparePeers(old, now))) {
				line = strings.TrimSuffix(line, "\n")
				for i, key := range keys {
					if line == "public_key="+key.hex() {
						line = string(rune('0' + i))
					}
				}
				got = append(got, line)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			ids := map[string]bool{}
			for _, p := range now.all {
				if before := old.byKey[p.PublicKey]; before != nil && before.link != p.link {
					t.Error("a peer that stays has lost what is known of it")
				} else if before == nil && old.byID[p.id] != nil {
					t.Error("the ID of a peer is used again")
				}
				ids[p.PublicKey.String()] = true
			}
			if len(ids) != len(now.byID) || len(ids) != len(now.byKey) {
				t.Errorf("%d peers, %d by ID and %d by key", len(ids), len(now.byID), len(now.byKey))
			}
		})
	}
}

// An ID is not used again, not even when the peer that had the highest one has gone.
func TestPeerIDs(t *testing.T) {
	config := []PeerConfig{{PublicKey: NewPrivateKey().Public()}}
	first := newPeerTable(config, nil)
	again := newPeerTable(config, newPeerTable(nil, first))
	if first.all[0].id == again.all[0].id {
		t.Errorf("ID %d twice", first.all[0].id)
	}
}
