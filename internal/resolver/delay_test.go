// SPDX-License-Identifier: MIT

package resolver

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// There are servers that never answer to AAAA. Who dials does not wait for them long (RFC 8305, section 3); who asks for
// all addresses does, and who has the IPv6 ones first waits for the IPv4 ones, without which there is no way back.
func TestResolutionDelay(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	all := zone{"a.example.": {
		&dnsmessage.AResource{A: v4.As4()}, &dnsmessage.AAAAResource{AAAA: v6.As16()},
	}}
	tests := []struct {
		name   string
		delay  time.Duration
		silent dnsmessage.Type
		took   time.Duration
		want   []netip.Addr
	}{
		{"no AAAA", 50 * time.Millisecond, dnsmessage.TypeAAAA, 50 * time.Millisecond, []netip.Addr{v4}},
		{"no AAAA, no delay set", 0, dnsmessage.TypeAAAA, 10 * time.Second, []netip.Addr{v4}},
		{"no A", 50 * time.Millisecond, dnsmessage.TypeA, 10 * time.Second, []netip.Addr{v6}},
		{"both", 50 * time.Millisecond, 0, 0, []netip.Addr{v6, v4}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(r request) [][]byte {
					if r.q.Type == test.silent {
						return nil
					}
					return all.answer(r)
				}}
				c := s.client(server1)
				c.ResolutionDelay = test.delay
				begin := time.Now()
				addrs, err := c.LookupNetIP(t.Context(), "ip", "a.example.")
				if took := time.Since(begin); took != test.took || err != nil || !slices.Equal(addrs, test.want) {
					t.Errorf("%v, %v after %v, want %v after %v", addrs, err, took, test.want, test.took)
				}
				synctest.Wait()
				if n := s.openConns(); n != 0 {
					t.Errorf("%d conns are left open", n)
				}
			})
		})
	}
}
