// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"strings"
	"time"
)

// The device is configured by text (https://www.wireguard.com/xplatform/#configuration-protocol). It is written here
// and nowhere else, from typed values that cannot hold a line break, after the whole config has been validated: the
// device would apply the lines before a bad one.

func uapiKey(key PrivateKey) string { return "private_key=" + key.hex() + "\n" }

func uapiPeers(peers []*peer) string {
	var b strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&b, "public_key=%s\n", p.PublicKey.hex())
		if !p.PresharedKey.IsZero() {
			fmt.Fprintf(&b, "preshared_key=%s\n", p.PresharedKey.hex())
		}
		if e := p.endpoint.Load(); e != nil && e.addr.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", e.addr)
		}
		fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
		for _, prefix := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", prefix)
		}
	}
	return b.String()
}

func uapiEndpoint(p *peer) string {
	return fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%s\n", p.PublicKey.hex(), p.endpoint.Load().addr)
}
