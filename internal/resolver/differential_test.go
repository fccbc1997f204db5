// SPDX-License-Identifier: MIT

package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// TestLikeNet asks net.Resolver and our Client the same of the same server and compares results and errors. The
// host's resolver configuration still decides about net.Resolver's search domains, so names that are found nowhere are
// asked with their final dot. Two of its quirks are left out: a *net.AddrError for .onion names and for literals of the
// other family, where every error of ours is a *net.DNSError.
func TestLikeNet(t *testing.T) {
	answer := func(r request) [][]byte {
		switch lower(r.q.Name.String()) {
		case "servfail.example.":
			return servfail(r)
		case "refused.example.":
			return [][]byte{reply(r, nil, code(dnsmessage.RCodeRefused))}
		case "formerr.example.":
			return [][]byte{reply(r, nil, code(dnsmessage.RCodeFormatError))}
		case "garbage.example.":
			return [][]byte{append(reply(r, nil, func(m *dnsmessage.Message) { m.Additionals = nil }), 0xc0), nil}
		case "cut.example.":
			m := reply(r, []dnsmessage.Resource{resource(r.q.Name.String(), a("192.0.2.1"))}, func(m *dnsmessage.Message) {
				m.Additionals = nil
			})
			return [][]byte{m[:len(m)-2]}
		case "lame.example.":
			return [][]byte{reply(r, nil, func(m *dnsmessage.Message) { m.RecursionAvailable, m.Additionals = false, nil })}
		case "wrongid.example.":
			r2 := r
			r2.id++
			return [][]byte{reply(r2, nil, nil), world.answer(request{
				network: r.network, id: r.id, edns: r.edns, payload: r.payload,
				q: dnsmessage.Question{Name: r.q.Name, Type: r.q.Type, Class: r.q.Class},
			})[0]}
		}
		return world.answer(r)
	}
	s := &script{answer: answer}
	ours := s.client(server1)
	theirs := &net.Resolver{PreferGo: true, Dial: s.Dial}

	names := []string{
		"db.example", "db.example.", "DB.example.", "v4.example", "v6.example", "www.example.", "www.cdn.example.",
		"empty.example.", "nobody.example.", "under_score.example", "9.example", "big.example", "bigtxt.example.",
		"txt.example", "alias.example.", "servfail.example.", "refused.example.", "formerr.example.",
		"garbage.example.", "cut.example.", "lame.example.", "wrongid.example.",
		"short.", "192.0.2.1", "192.0.2.1.", "192.0.2", "2001:db8::1", "::ffff:192.0.2.1", "", ".", "..", "a..b",
		".example", "-db.example", "db-.example", "d-b.example.", "d b.example", "bücher.example",
		strings.Repeat("a", 63) + ".example.", strings.Repeat("a", 64) + ".example.",
		strings.Repeat("a.", 127), strings.Repeat("a.", 127) + "a", strings.Repeat("a.", 128),
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for _, network := range []string{"ip", "ip4", "ip6"} {
				if literal, err := netip.ParseAddr(name); err == nil && literal.Unmap().Is4() == (network == "ip6") {
					continue
				}
				compare(t, "LookupNetIP "+network, name, func(r lookuper) (string, error) {
					addrs, err := r.LookupNetIP(t.Context(), network, name)
					for i := range addrs {
						addrs[i] = addrs[i].Unmap() // net.Resolver gives a literal IPv4 address as 4-in-6
					}
					return sorted(addrs), err
				}, ours, theirs)
			}
			compare(t, "LookupHost", name, func(r lookuper) (string, error) {
				hosts, err := r.LookupHost(t.Context(), name)
				return sorted(hosts), err
			}, ours, theirs)
			compare(t, "LookupTXT", name, func(r lookuper) (string, error) {
				texts, err := r.LookupTXT(t.Context(), name)
				return fmt.Sprintf("%q", texts), err
			}, ours, theirs)
		})
	}
	for _, q := range [][3]string{
		{"sip", "tcp", "example."},
		{"none", "tcp", "example."},
		{"bad", "tcp", "example."},
		{"alias", "tcp", "example."},
		{"ftp", "tcp", "example."},
		{"", "", "direct.example."},
		{"", "", "db.example."},
		{"", "", "servfail.example."},
		{"a b", "tcp", "example."},
		{"sip", "tcp", ""},
	} {
		t.Run("SRV "+strings.Join(q[:], " "), func(t *testing.T) {
			compare(t, "LookupSRV", "", func(r lookuper) (string, error) {
				owner, addrs, err := r.LookupSRV(t.Context(), q[0], q[1], q[2])
				all := owner
				for _, a := range addrs {
					all += fmt.Sprintf(" %+v", *a)
				}
				return all, err
			}, ours, theirs)
		})
	}
}

// lookuper is what net.Resolver and Client have in common.
type lookuper interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

var (
	_ lookuper = (*Client)(nil)
	_ lookuper = (*net.Resolver)(nil)
)

func compare(t *testing.T, what, name string, lookup func(lookuper) (string, error), ours, theirs lookuper) {
	t.Helper()
	got, err := lookup(ours)
	want, wantErr := lookup(theirs)
	if got != want {
		t.Errorf("%s %q: got %s, the net package has %s", what, name, got, want)
	}
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%s %q: got error %v, the net package has %v", what, name, err, wantErr)
	}
	if err == nil {
		return
	}
	e, want2 := dnsError(t, err), dnsError(t, wantErr)
	if flags(e) != flags(want2) || e.Name != want2.Name || (e.Server == "") != (want2.Server == "") ||
		!strings.HasPrefix(e.Err, want2.Err) {
		t.Errorf("%s %q: got error\n%#v, the net package has\n%#v", what, name, e, want2)
	}
}

// sorted hides the order, which net.Resolver makes depend on the host's own addresses.
func sorted[T any](list []T) string {
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = fmt.Sprint(v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
