// SPDX-License-Identifier: MIT

package wgnet

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
)

// meantLine is all that the device is ever told of a peer, in the form of the cross-platform protocol.
var meantLine = regexp.MustCompile(`^(public_key=[0-9a-f]{64}|preshared_key=[0-9a-f]{64}|update_only=true|remove=true|` +
	`persistent_keepalive_interval=[0-9]{1,5}|allowed_ip=-?[0-9a-f:.]+/[0-9]{1,3}|` +
	`endpoint=([0-9.]+|\[[0-9a-f:.]+(%[!-~]+)?\]):[0-9]{1,5})$`)

// checkDeviceText fails if there is a line that is none of those, or another number of those that begin so.
func checkDeviceText(t *testing.T, text string, want map[string]int) {
	t.Helper()
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Errorf("the last line has no end: %q", text)
	}
	got := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !meantLine.MatchString(line) {
			t.Errorf("a line that was not meant: %q", line)
		}
		key, _, _ := strings.Cut(line, "=")
		got[key]++
	}
	for key, n := range want {
		if got[key] != n {
			t.Errorf("%d lines %q, want %d, in %q", got[key], key, n, text)
		}
	}
}

// fault 5: whatever the fields of a config are set to, it is refused, or the device is told what was meant and not a line
// more: at first, on a change of everything, and of an address that the program's own resolver has found.
func FuzzDeviceText(f *testing.F) {
	f.Add("home", "192.0.2.1:51820", "10.0.0.0/8", "", []byte{192, 0, 2, 9}, int64(25))                // all is well
	f.Add("a\nprivate_key=00", "vpn.example:1\nremove=true", "::/0", "x", []byte{1}, int64(0))         // lines in the name and the endpoint
	f.Add("", "[fe80::1%eth0\nremove=true]:1", "fd00::/64", "eth0", make([]byte, 16), int64(1))        // in an endpoint's zone
	f.Add("", "vpn.example:1", "0.0.0.0/0", "e\nremove=true", []byte{0xfe, 0x80, 15: 1}, int64(65535)) // in a zone that was looked up
	f.Add("", "[fe80::1%\r]:1", "::ffff:0:0/96", "\u2028", []byte{0xff, 2, 15: 1}, int64(-1))          // what others end lines with
	private, public, preshared := NewPrivateKey(), NewPrivateKey().Public(), NewPresharedKey()
	f.Fuzz(func(t *testing.T, name, at, allowed, zone string, found []byte, keepalive int64) {
		prefix, _ := netip.ParsePrefix(allowed)
		cfg := &Config{
			PrivateKey: private, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
			Peers: []PeerConfig{{
				Name: name, PublicKey: public, PresharedKey: preshared, Endpoint: at,
				AllowedIPs: []netip.Prefix{prefix}, PersistentKeepalive: time.Duration(keepalive) * time.Second,
			}},
		}
		if cfg.Validate() != nil {
			return
		}
		old := newPeerTable(cfg.Peers, nil)
		p := old.all[0]
		endpoints := 0
		if e, err := parseEndpoint(at); err == nil && e.host == "" {
			endpoints = 1
			if to := p.resolved(); to != netip.AddrPortFrom(e.addr, e.port) {
				t.Errorf("%q leads to %v", at, to)
			}
		}
		checkDeviceText(t, uapiPeers(old.all), map[string]int{
			"public_key": 1, "preshared_key": 1, "endpoint": endpoints, "persistent_keepalive_interval": 1, "allowed_ip": 1,
			"remove": 0, "update_only": 0,
		})
		checkDeviceText(t, uapiChange(comparePeers(&peerTable{}, old)), map[string]int{"public_key": 1, "allowed_ip": 1, "remove": 0})

		bare := newPeerTable([]PeerConfig{{PublicKey: public}}, nil)
		checkDeviceText(t, uapiChange(comparePeers(bare, newPeerTable(cfg.Peers, bare))), map[string]int{
			"public_key": 1, "update_only": 1, "preshared_key": 1, "endpoint": endpoints, "allowed_ip": 1, "remove": 0,
		})
		checkDeviceText(t, uapiChange(comparePeers(old, newPeerTable(nil, old))), map[string]int{"public_key": 1, "remove": 1})

		addr, ok := netip.AddrFromSlice(found)
		if !ok {
			return
		}
		s := &search{peer: p, endpoint: endpoint{port: 51820}}
		for _, to := range s.usable([]netip.Addr{addr.WithZone(zone)}) {
			p.endpoint.Store(&endpointState{addr: to})
			checkDeviceText(t, uapiEndpoint(p), map[string]int{"public_key": 1, "update_only": 1, "endpoint": 1, "remove": 0})
		}
	})
}

// FuzzEndpoint: an endpoint is an error of one line, a name, or an address that is read back from what it is written as.
func FuzzEndpoint(f *testing.F) {
	f.Add("vpn.example.com:51820")          // a name
	f.Add("[fe80::1%eth0]:1")               // with a zone
	f.Add("192.0.2.1:080")                  // a port with zeros before it
	f.Add("2001:db8::1:51820")              // no brackets: address or port?
	f.Add("[::ffff:192.0.2.1]:1")           // an IPv4 address in IPv6 clothes
	f.Add("[vpn.example.com]:1")            // a name in brackets
	f.Add("1.2.3:1")                        // neither name nor address
	f.Add("host\n:1")                       // a line of its own
	f.Add(strings.Repeat("a.", 200) + ":1") // a name that is too long
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseEndpoint(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if e.port == 0 || (e.host == "") != e.addr.IsValid() {
			t.Fatalf("%q is %+v", text, e)
		}
		if e.host != "" {
			if checkDomain(e.host) != nil {
				t.Errorf("%q has the host %q", text, e.host)
			}
			return
		}
		to := netip.AddrPortFrom(e.addr, e.port)
		again := to.String()
		if f, err := parseEndpoint(again); err != nil || f != e {
			t.Errorf("%q is %v, which is %+v, %v", text, to, f, err)
		}
		// The device and the table of peers read it so.
		if direct, err := netip.ParseAddrPort(text); err != nil || direct != to {
			t.Errorf("%q is %v here, and %v, %v elsewhere", text, to, direct, err)
		}
	})
}
