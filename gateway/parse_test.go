// SPDX-License-Identifier: MIT

package gateway

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseRules(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tc := range []struct {
		text string
		want []Rule
	}{
		{"", nil},
		{"\n  # a comment\n\n", nil},
		{"deny", []Rule{{}}},
		{"allow", []Rule{{Action: Allow}}},
		{"\ufeffallow\r\ndeny # all\r\n", []Rule{{Action: Allow}, {}}},
		{"allow ping", []Rule{{Action: Allow, Networks: []string{"ping"}}}},
		{"allow from any to any port any", []Rule{{Action: Allow}}},
		{
			"\tallow  tcp,udp from laptop, phone ,tv to 192.168.1.0/24,10.0.0.1 , fd00::/8 port 80,8000-8099 special",
			[]Rule{{
				Action: Allow, Networks: []string{"tcp", "udp"}, Peers: []string{"laptop", "phone", "tv"},
				To:    []netip.Prefix{prefix("192.168.1.0/24"), prefix("10.0.0.1/32"), prefix("fd00::/8")},
				Ports: []Ports{{80, 80}, {8000, 8099}}, Special: true,
			}},
		},
		{"deny to ::/0", []Rule{{To: []netip.Prefix{prefix("::/0")}}}},
		{"deny tcp port 1-65535", []Rule{{Networks: []string{"tcp"}, Ports: []Ports{{1, 65535}}}}},
	} {
		t.Run(tc.text, func(t *testing.T) {
			got, err := ParseRules(tc.text)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

// TestParseErrors: an error says the line, what is wrong and what was expected.
func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"permit tcp":                         `line 1: "permit": want allow or deny first`,
		"\n# x\nallow icmp":                  `line 3: protocol "icmp": want tcp, udp or ping`,
		"allow tcp,":                         `"tcp,": a comma too many`,
		"allow ,tcp":                         `"allow,tcp": want allow or deny first`,
		"allow to":                           `nothing after "to"`,
		"allow to port 80":                   `nothing after "to"`,
		"allow to 192.168.1.5/24":            `destination 192.168.1.5/24 has bits after its length: want 192.168.1.0/24, or 192.168.1.5`,
		"allow to ::ffff:10.0.0.0/104":       `write it as IPv4`,
		"allow to ::ffff:10.0.0.1":           `write it as IPv4`,
		"allow to example.com":               `"example.com": want an address, or a prefix such as`,
		"allow to fe80::1%eth0":              `"fe80::1%eth0": want an address`,
		"allow to 10.0.0.0/33":               `"10.0.0.0/33": want an address`,
		"allow port 0":                       `port 0: want a number from 1 to 65535`,
		"allow port 80-79":                   `port 80-79: want`,
		"allow port 65536":                   `"65536": want a number`,
		"allow port 1-2-3":                   `"1-2-3": want a number`,
		"allow port http":                    `"http": want a number`,
		"allow ping port 80":                 `ping has no ports`,
		"allow tcp udp":                      `"udp": want protocols, from, to, port, special, each once and in this order`,
		"allow port 80 to 10.0.0.1":          `"to": want protocols, from`,
		"allow to 10.0.0.1 to 10.0.0.2":      `"to": want protocols, from`,
		"allow special":                      "special: say which addresses with `to`",
		"allow to any special":               "special: say which addresses with `to`",
		"allow from laptop,any":              `"any" in a list`,
		strings.Repeat("deny\n", maxRules+1): "line 10001: more than 10000 rules",
	} {
		if _, err := ParseRules(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q in it", text, err, want)
		}
	}
}

// TestNewErrors: what cannot be meant is an error of New.
func TestNewErrors(t *testing.T) {
	for want, cfg := range map[string]Config{
		"rule 2: action 7":                {Rules: []Rule{{}, {Action: 7}}},
		`rule 1: protocol "icmp"`:         {Rules: []Rule{{Networks: []string{"icmp"}}}},
		`rule 1: peer "a b"`:              {Rules: []Rule{{Peers: []string{"a b"}}}},
		`rule 1: peer "any"`:              {Rules: []Rule{{Peers: []string{"any"}}}},
		`rule 1: peer ""`:                 {Rules: []Rule{{Peers: []string{""}}}},
		"rule 1: a destination is not":    {Rules: []Rule{{To: []netip.Prefix{{}}}}},
		"MaxFlows is negative":            {MaxFlows: -1},
		"UDPIdleTimeout is negative":      {UDPIdleTimeout: -1},
		"rule 1: port 0":                  {Rules: []Rule{{Ports: []Ports{{}}}}},
		"rule 1: special: say which":      {Rules: []Rule{{Special: true}}},
		"want 10.0.0.0/8, or 10.1.1.1 fo": {Rules: []Rule{{To: []netip.Prefix{netip.MustParsePrefix("10.1.1.1/8")}}}},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// FuzzParseRules: no text makes it fail in another way than by an error of one line, and what it reads it reads again
// from what it writes.
func FuzzParseRules(f *testing.F) {
	f.Add("allow tcp,udp from laptop to 192.168.1.0/24 port 80,8000-8099\ndeny") // everything but special
	f.Add("allow to 127.0.0.1 , ::1 special # a list with spaces")
	f.Add("allow from any to any port any") // what matches all is written as nothing
	f.Add("allow from to to from")          // keywords in the place of values
	f.Add("deny\x00tcp\u2028from\u00a0x")   // what is white space to some
	f.Add("allow from \xff to ::ffff:1.2.3.4")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, r := range rules {
			b.WriteString(r.String() + "\n")
		}
		again, err := ParseRules(b.String())
		if err != nil || !reflect.DeepEqual(again, rules) {
			t.Errorf("%q is written as %q, which is %+v, %v", text, b.String(), again, err)
		}
	})
}

// FuzzKind: an address is no less special for being spelled in another way.
func FuzzKind(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})                                   // loopback
	f.Add([]byte{192, 168, 1, 255})                               // broadcast of the test's host
	f.Add([]byte{8, 8, 8, 8})                                     // an ordinary address
	f.Add(netip.MustParseAddr("64:ff9b::7f00:1").AsSlice())       // NAT64
	f.Add(netip.MustParseAddr("2001:db8::5efe:7f00:1").AsSlice()) // ISATAP
	own := testOwn()
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		kind := own.kind(addr)
		spellings := []netip.Addr{netip.AddrFrom16(addr.As16())} // 4-in-6
		if addr = addr.Unmap(); addr.Is4() {
			v4 := addr.As4()
			for _, text := range []string{"64:ff9b::", "2001:db8:1::5efe:0:0", "fd00::200:5efe:0:0"} {
				b := netip.MustParseAddr(text).As16()
				copy(b[12:], v4[:])
				spellings = append(spellings, netip.AddrFrom16(b))
			}
		}
		for _, s := range spellings {
			if k := own.kind(s); (k.what == "") != (kind.what == "") || k.never != kind.never {
				t.Errorf("%v is %+v, and %v is %+v", addr, kind, s, k)
			}
		}
	})
}

// FuzzReply: what comes to the socket for pings is not to be trusted.
func FuzzReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 5, 0, 1, 'x'}, false)                                    // a reply
	f.Add([]byte{129, 0, 0, 0, 0, 5, 0, 1, 'x'}, true)                                   // of IPv6
	f.Add(append([]byte{0x45, 19: 0}, 0, 0, 0, 0, 0, 5, 0, 1), false)                    // with its IP header
	f.Add(append([]byte{0x4f, 19: 0}, 0, 0, 0, 0, 0, 5, 0, 1), false)                    // whose length lies
	f.Add([]byte{3, 1, 0, 0, 0, 0, 0, 0, 0x45}, false)                                   // an error
	f.Add([]byte{0, 0, 0}, false)                                                        // cut off
	f.Add([]byte{3, 1, 0, 0, 0, 0x11, 0, 0, 0x45, 27: 0x40, 0x20, 0, 0, 0, 0xff}, false) // an extension that lies
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		_, _, data, ok := parseReply(b, v6)
		if ok && len(data) > len(b)-8 {
			t.Errorf("%d bytes of data in a message of %d", len(data), len(b))
		}
	})
}
