// SPDX-License-Identifier: MIT

package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// TestChain: an answer's records count only at the end of the CNAME chain that begins with the name that was asked.
func TestChain(t *testing.T) {
	long := func(n int) []dnsmessage.Resource {
		var all []dnsmessage.Resource
		owner := "v4.example."
		for i := range n {
			next := fmt.Sprintf("c%d.example.", i)
			all = append(all, resource(owner, cname(next)))
			owner = next
		}
		return append(all, resource(owner, a("192.0.2.1")))
	}
	chaos := resource("v4.example.", a("203.0.113.66"))
	chaos.Header.Class = dnsmessage.ClassCHAOS
	tests := []struct {
		name    string
		records []dnsmessage.Resource
		want    string // "" is "not found"
	}{
		{"no alias", []dnsmessage.Resource{resource("v4.example.", a("192.0.2.1"))}, "192.0.2.1"},
		{"owner in another case", []dnsmessage.Resource{resource("V4.eXample.", a("192.0.2.1"))}, "192.0.2.1"},
		{"alias", long(1), "192.0.2.1"},
		{"records before aliases", func() []dnsmessage.Resource { l := long(3); slices.Reverse(l); return l }(), "192.0.2.1"},
		{"longest chain", long(maxAliases), "192.0.2.1"},
		{"chain too long", long(maxAliases + 1), ""},
		{"another name's record", []dnsmessage.Resource{resource("evil.example.", a("203.0.113.66"))}, ""},
		{
			"another name's record beside", []dnsmessage.Resource{
				resource("evil.example.", a("203.0.113.66")), resource("v4.example.", a("192.0.2.1")),
			}, "192.0.2.1",
		},
		{
			"another name's chain beside", []dnsmessage.Resource{
				resource("evil.example.", cname("x.example.")), resource("x.example.", a("203.0.113.66")),
				resource("v4.example.", a("192.0.2.1")),
			}, "192.0.2.1",
		},
		{
			"a record beside an alias", []dnsmessage.Resource{
				resource("v4.example.", cname("x.example.")), resource("v4.example.", a("203.0.113.66")),
				resource("x.example.", a("192.0.2.1")),
			}, "192.0.2.1",
		},
		{
			"two aliases of one name: the first", []dnsmessage.Resource{
				resource("v4.example.", cname("x.example.")), resource("v4.example.", cname("evil.example.")),
				resource("x.example.", a("192.0.2.1")), resource("evil.example.", a("203.0.113.66")),
			}, "192.0.2.1",
		},
		{"alias of itself", []dnsmessage.Resource{resource("v4.example.", cname("v4.example."))}, ""},
		{
			"aliases in a circle", []dnsmessage.Resource{
				resource("v4.example.", cname("x.example.")), resource("x.example.", cname("v4.example.")),
			}, "",
		},
		{"alias without its target", []dnsmessage.Resource{resource("v4.example.", cname("x.example."))}, ""},
		{"another type", []dnsmessage.Resource{resource("v4.example.", txt("x"))}, ""},
		{"another class", []dnsmessage.Resource{chaos}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: func(r request) [][]byte { return [][]byte{reply(r, tt.records, nil)} }}
			got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
			if !slices.Equal(got, ips(tt.want)) {
				t.Errorf("got %v, %v; want %s", got, err, tt.want)
			}
			if tt.want == "" {
				if e := dnsError(t, err); !e.IsNotFound {
					t.Errorf("got %#v, want not found", e)
				}
			}
		})
	}
}

// TestMapped: a 4-in-6 address in an AAAA record is no address (fault 44 has the same for packets).
func TestMapped(t *testing.T) {
	z := zone{"mapped.example.": {
		&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("::ffff:127.0.0.1").As16()}, a("2001:db8::1"),
	}}
	s := &script{answer: z.answer}
	got, err := s.client(server1).LookupNetIP(t.Context(), "ip6", "mapped.example")
	if err != nil || !slices.Equal(got, ips("2001:db8::1")) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestMalformedAnswer is fault 61: an answer that matches the question and then cannot be read is an error at once.
func TestMalformedAnswer(t *testing.T) {
	// header packs a header with one question for v4.example. A, claiming count answers, and then the raw bytes.
	header := func(count byte, raw ...byte) func(request) [][]byte {
		return func(r request) [][]byte {
			r.edns = false
			m := reply(r, nil, nil)
			m[7] = count
			return [][]byte{append(m, raw...)}
		}
	}
	tests := []struct {
		name   string
		answer func(request) [][]byte
	}{
		{"owner that points at itself", header(1, 0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4)},
		{"owners that point at each other", header(1, 0xc0, 30, 0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4)},
		{"owner that points out of the message", header(1, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4)},
		{"more answers claimed than there are", header(255, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4)},
		{"answers claimed and none there", header(1)},
		{"A record of 3 octets", header(1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4)},
		{"A record of 5 octets", header(1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5)},
		{"record of another type longer than the message", header(1, 0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: tt.answer}
			_, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
			if e := dnsError(t, err); !strings.Contains(e.Err, "cannot unmarshal") || flags(e) != "none" {
				t.Errorf("got %#v", e)
			}
		})
	}
}

// TestManyRecords: the bound on records lets the largest answer through that makes sense, and no larger one.
func TestManyRecords(t *testing.T) {
	answer := func(records int) func(request) [][]byte {
		return func(r request) [][]byte {
			if r.network == "udp" {
				return [][]byte{reply(r, nil, func(m *dnsmessage.Message) { m.Truncated = true })}
			}
			r.edns = false
			m := reply(r, nil, nil)
			m[6], m[7] = byte(records>>8), byte(records)
			for range records {
				m = append(m, 0, 0, 99, 0, 1, 0, 0, 0, 0, 0, 0) // a record of the root, type 99, empty: 11 octets
			}
			return [][]byte{m}
		}
	}
	s := &script{answer: answer(maxRecords)}
	_, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
	if e := dnsError(t, err); !e.IsNotFound {
		t.Errorf("%d other records: got %#v, want not found", maxRecords, e)
	}
	s = &script{answer: answer(maxRecords + 1)}
	_, err = s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
	if e := dnsError(t, err); !strings.Contains(e.Err, "cannot unmarshal") {
		t.Errorf("%d records: got %#v, want an error", maxRecords+1, e)
	}
}
