// SPDX-License-Identifier: MIT

package resolver

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// TestNames covers fault 58 and what reaches a server for each kind of name.
func TestNames(t *testing.T) {
	tests := []struct {
		name    string
		host    string
		network string
		search  []string
		ndots   int
		want    string   // addresses, or "" for not found
		asked   []string // nil: nothing
	}{
		{
			"with a final dot", "v4.example.", "ip4",
			[]string{"corp.test"},
			0, "192.0.2.4",
			[]string{"udp v4.example. A"},
		},
		{"without a final dot", "v4.example", "ip4", nil, 0, "192.0.2.4", []string{"udp v4.example. A"}},
		{
			"both families, IPv6 first", "db.example", "ip", nil, 0, "2001:db8::1 192.0.2.1",
			[]string{"udp db.example. A", "udp db.example. AAAA"},
		},
		{
			"only IPv4 there", "v4.example", "ip", nil, 0, "192.0.2.4",
			[]string{"udp v4.example. A", "udp v4.example. AAAA"},
		},
		{"only IPv6 asked", "db.example", "ip6", nil, 0, "2001:db8::1", []string{"udp db.example. AAAA"}},
		{"family missing", "v4.example", "ip6", nil, 0, "", []string{"udp v4.example. AAAA"}},
		{"upper case", "DB.Example", "ip4", nil, 0, "192.0.2.1", []string{"udp DB.Example. A"}},
		{"CNAME chain", "www.example", "ip4", nil, 0, "192.0.2.80 192.0.2.81", []string{"udp www.example. A"}},
		{"one label without search domains", "short", "ip4", nil, 0, "10.1.1.3", []string{"udp short. A"}},
		{
			"one label in a search domain", "db", "ip4",
			[]string{"corp.test"},
			0, "10.1.1.1",
			[]string{"udp db.corp.test. A"},
		},
		{
			"one label, second search domain, odd dots", "db", "ip4",
			[]string{"nope.test.", ".corp.test."},
			0, "10.1.1.1",
			[]string{"udp db.corp.test. A", "udp db.nope.test. A"},
		},
		{
			"one label, search domain first", "both", "ip4",
			[]string{"corp.test"},
			0, "10.1.1.4",
			[]string{"udp both.corp.test. A"},
		},
		{
			"one label, as it stands last", "short", "ip4",
			[]string{"corp.test"},
			0, "10.1.1.3",
			[]string{"udp short. A", "udp short.corp.test. A"},
		},
		{"one label with a final dot", "both.", "ip4", []string{"corp.test"}, 0, "10.1.1.5", []string{"udp both. A"}},
		{
			"a dot: as it stands first", "v4.example", "ip4",
			[]string{"corp.test"},
			0, "192.0.2.4",
			[]string{"udp v4.example. A"},
		},
		{
			"a dot: then the search domain", "a.b", "ip4",
			[]string{"corp.test"},
			0, "10.1.1.2",
			[]string{"udp a.b. A", "udp a.b.corp.test. A"},
		},
		{
			"fewer dots than ndots", "v4.example", "ip4",
			[]string{"corp.test"},
			2, "192.0.2.4",
			[]string{"udp v4.example. A", "udp v4.example.corp.test. A"},
		},
		{
			"a search domain of the root or of nonsense", "short", "ip4",
			[]string{".", "", "no good"},
			0, "10.1.1.3",
			[]string{"udp short. A"},
		},
		{
			"unknown everywhere", "nobody", "ip4",
			[]string{"corp.test"},
			0, "",
			[]string{"udp nobody. A", "udp nobody.corp.test. A"},
		},
		{"no records", "empty.example", "ip4", nil, 0, "", []string{"udp empty.example. A"}},
		{"underscore", "under_score.example", "ip4", nil, 0, "192.0.2.5", []string{"udp under_score.example. A"}},
		{"numeric label", "9.example", "ip4", nil, 0, "192.0.2.9", []string{"udp 9.example. A"}},
		{
			"longest name", strings.Repeat("a.", 127), "ip4", nil, 0, "192.0.2.126",
			[]string{"udp " + strings.Repeat("a.", 127) + " A"},
		},
		{
			"too long for its search domain", strings.Repeat("a.", 126) + "a", "ip4",
			[]string{"corp.test"},
			0, "192.0.2.126",
			[]string{"udp " + strings.Repeat("a.", 127) + " A"},
		},

		{"empty", "", "ip", []string{"corp.test"}, 0, "", nil},
		{"empty label", "a..b", "ip", nil, 0, "", nil},
		{"leading dot", ".example", "ip", nil, 0, "", nil},
		{"label of 64", strings.Repeat("a", 64) + ".example", "ip", nil, 0, "", nil},
		{"name of 255", strings.Repeat("a.", 127) + "a", "ip", nil, 0, "", nil},
		{"hyphen at the start", "-db.example", "ip", nil, 0, "", nil},
		{"hyphen at the end", "db-.example", "ip", nil, 0, "", nil},
		{"space", "d b.example", "ip", nil, 0, "", nil},
		{"other script", "bücher.example", "ip", nil, 0, "", nil},
		{"part of an address", "192.0.2", "ip", nil, 0, "", nil},
		{"address with a final dot", "192.0.2.1.", "ip", nil, 0, "", nil},

		{"literal IPv4", "192.0.2.7", "ip", nil, 0, "192.0.2.7", nil},
		{"literal IPv6", "2001:db8::7", "ip6", nil, 0, "2001:db8::7", nil},
		{"literal IPv6 with a zone", "fe80::1%eth0", "ip", nil, 0, "fe80::1%eth0", nil},
		{"literal 4-in-6", "::ffff:192.0.2.7", "ip4", nil, 0, "192.0.2.7", nil},
		{"literal of the other family", "192.0.2.7", "ip6", nil, 0, "", nil},

		// RFC 6761 and RFC 7686: these names never reach a server.
		{"localhost", "localhost", "ip", []string{"corp.test"}, 0, "127.0.0.1 ::1", nil},
		{"localhost with a final dot, upper case", "LOCALHOST.", "ip6", nil, 0, "::1", nil},
		{"below localhost", "db.localhost", "ip4", nil, 0, "127.0.0.1", nil},
		{"onion", "abc.onion", "ip", []string{"corp.test"}, 0, "", nil},
		{"invalid", "abc.invalid.", "ip", []string{"corp.test"}, 0, "", nil},
		{
			"localhost as a search domain", "short", "ip4",
			[]string{"localhost", "onion"},
			0, "10.1.1.3",
			[]string{"udp short. A"},
		},
		{"only like localhost", "notlocalhost", "ip4", nil, 0, "", []string{"udp notlocalhost. A"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: world.answer}
				c := s.client(server1)
				c.Search, c.Ndots = tt.search, tt.ndots
				got, err := c.LookupNetIP(t.Context(), tt.network, tt.host)
				if !slices.Equal(got, ips(tt.want)) {
					t.Errorf("got %v, %v; want %v", got, err, tt.want)
				}
				if tt.want == "" {
					if e := dnsError(t, err); !e.IsNotFound || e.IsTimeout || e.IsTemporary || e.Name != tt.host {
						t.Errorf("got %#v, want IsNotFound alone and the name as asked", e)
					}
				} else if err != nil {
					t.Error(err)
				}
				if asked := s.queries(); !slices.Equal(asked, tt.asked) {
					t.Errorf("asked %q, want %q", asked, tt.asked)
				}
				synctest.Wait()
				if n := s.openConns(); n != 0 {
					t.Errorf("%d conns left open", n)
				}
			})
		})
	}
}
