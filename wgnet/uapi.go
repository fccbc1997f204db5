// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.com/wgnet/internal/outer"
)

// The device is configured by text (https://www.wireguard.com/xplatform/#configuration-protocol). It is written here
// and nowhere else, from typed values that cannot hold a line break, after the whole config has been validated: the
// device would apply the lines before a bad one.

func uapiKey(key PrivateKey) string { return "private_key=" + key.hex() + "\n" }

// uapiPeers is all of the peers' config, for a device that does not know them yet.
func uapiPeers(peers []*peer) string {
	var b strings.Builder
	for _, p := range peers {
		writePeer(&b, p)
	}
	return b.String()
}

func writePeer(b *strings.Builder, p *peer) {
	fmt.Fprintf(b, "public_key=%s\n", p.PublicKey.hex())
	if !p.PresharedKey.IsZero() {
		fmt.Fprintf(b, "preshared_key=%s\n", p.PresharedKey.hex())
	}
	writeEndpoint(b, p)
	fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
	for _, prefix := range p.AllowedIPs {
		fmt.Fprintf(b, "allowed_ip=%s\n", prefix)
	}
}

func writeEndpoint(b *strings.Builder, p *peer) {
	if e := p.endpoint.Load(); e != nil && e.addr.IsValid() {
		fmt.Fprintf(b, "endpoint=%s\n", e.addr)
	}
}

// uapiPin makes a peer that stays at its endpoint.
func uapiPin(p *peer) string {
	at := outer.NoEndpoint
	if addr := p.resolved(); addr.IsValid() {
		at = addr.String()
	}
	return fmt.Sprintf("public_key=%s\nendpoint=%s\n", p.PublicKey.hex(), at)
}

func uapiEndpoint(p *peer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\n", p.PublicKey.hex())
	writeEndpoint(&b, p)
	return b.String()
}

// uapiChange turns one table's config into another's. What comes is written before what goes: the device moves a prefix
// at once that way, with no moment in between in which it is nobody's, and the removal from the old peer does nothing.
// replace_allowed_ips would open such a moment.
func uapiChange(c *peerChange) string {
	var b strings.Builder
	for _, p := range c.added {
		writePeer(&b, p)
	}
	for _, u := range c.updated {
		from, to := u.from, u.to
		fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\n", to.PublicKey.hex())
		if from.PresharedKey != to.PresharedKey {
			fmt.Fprintf(&b, "preshared_key=%s\n", to.PresharedKey.hex()) // all zeros mean none
		}
		if from.Endpoint != to.Endpoint {
			writeEndpoint(&b, to)
		}
		if from.PersistentKeepalive != to.PersistentKeepalive {
			fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", to.PersistentKeepalive/time.Second)
		}
		for _, prefix := range without(to.AllowedIPs, from.AllowedIPs) {
			fmt.Fprintf(&b, "allowed_ip=%s\n", prefix)
		}
	}
	for _, u := range c.updated {
		gone := without(u.from.AllowedIPs, u.to.AllowedIPs)
		if len(gone) > 0 {
			fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\n", u.to.PublicKey.hex())
		}
		for _, prefix := range gone {
			fmt.Fprintf(&b, "allowed_ip=-%s\n", prefix)
		}
	}
	for _, p := range c.removed {
		fmt.Fprintf(&b, "public_key=%s\nremove=true\n", p.PublicKey.hex())
	}
	return b.String()
}

// uapiLearned is where the peers are that were found elsewhere than configured, but for those whose Endpoint is to take
// that place.
func uapiLearned(peers []*peer, learned map[PublicKey]netip.AddrPort) string {
	var b strings.Builder
	for _, p := range peers {
		if addr, ok := learned[p.PublicKey]; ok && !p.redirected {
			fmt.Fprintf(&b, "public_key=%s\nupdate_only=true\nendpoint=%s\n", p.PublicKey.hex(), addr)
		}
	}
	return b.String()
}

// without returns the prefixes that are not among others.
func without(prefixes, others []netip.Prefix) []netip.Prefix {
	known := make(map[netip.Prefix]bool, len(others))
	for _, p := range others {
		known[p] = true
	}
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return known[p] })
}
