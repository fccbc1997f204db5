// SPDX-License-Identifier: MIT

package resolver

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestLookupSRV(t *testing.T) {
	tests := []struct {
		name                string
		service, proto, dom string
		cname               string
		want                string // target:port, in order
		err                 string
	}{
		{"by priority", "sip", "tcp", "example", "_sip._tcp.example.", "b.example.:5061 c.example.:5062", ""},
		{"name as it stands", "", "", "direct.example", "direct.example.", "db.example.:80", ""},
		{"alias", "alias", "tcp", "example.", "_sip._tcp.example.", "b.example.:5061 c.example.:5062", ""},
		{"service that is not offered", "none", "tcp", "example", "_none._tcp.example.", ".:0", ""},
		{"bad target left out", "bad", "tcp", "example", "_bad._tcp.example.", "ok.example.:1", "invalid names"},
		{"unknown", "ftp", "tcp", "example", "", "", "no such host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: world.answer}
			owner, addrs, err := s.client(server1).LookupSRV(t.Context(), tt.service, tt.proto, tt.dom)
			var got []string
			for _, a := range addrs {
				got = append(got, fmt.Sprintf("%s:%d", a.Target, a.Port))
			}
			if owner != tt.cname || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, %q; want %q, %q", owner, got, tt.cname, tt.want)
			}
			if tt.err == "" {
				if err != nil {
					t.Error(err)
				}
			} else if e := dnsError(t, err); !strings.Contains(e.Err, tt.err) {
				t.Errorf("got %#v, want %q", e, tt.err)
			}
		})
	}
}

// TestSRVWeights: within a priority each record comes first as often as its weight says (RFC 2782), a record of
// weight 0 seldom and yet sometimes, and no record is lost. The bounds are six standard deviations wide.
func TestSRVWeights(t *testing.T) {
	const rounds = 20_000
	first := map[string]int{}
	for range rounds {
		records := []*net.SRV{
			{Target: "last", Priority: 2, Weight: 100},
			{Target: "heavy", Priority: 1, Weight: 6},
			{Target: "zero", Priority: 1, Weight: 0},
			{Target: "light", Priority: 1, Weight: 3},
		}
		sortSRV(records)
		seen := map[string]bool{}
		for _, r := range records {
			seen[r.Target] = true
		}
		if len(seen) != 4 || records[3].Target != "last" {
			t.Fatalf("got %v: want all four, the worse priority last", records)
		}
		first[records[0].Target]++
	}
	// The draw is from 0 to 9: 0 is zero's, 1 to 3 are light's, 4 to 9 heavy's.
	for target, want := range map[string]int{"zero": rounds / 10, "light": rounds * 3 / 10, "heavy": rounds * 6 / 10} {
		if got := first[target]; got < want-420 || got > want+420 {
			t.Errorf("%s first %d times of %d, want some %d", target, got, rounds, want)
		}
	}
}

func TestSRVEmpty(t *testing.T) {
	sortSRV(nil)
	zero := []*net.SRV{{Target: "a"}, {Target: "b"}}
	sortSRV(zero)
	if zero[0].Target == zero[1].Target {
		t.Error("records of weight 0 lost")
	}
}
