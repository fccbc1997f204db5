// SPDX-License-Identifier: MIT

package gateway

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLog is fault 71 for what peers can cause: a line a second at most, which says how many it stands for, and why a
// flow was denied.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		var mu sync.Mutex
		g := newGateway(t, Config{Logger: logger(&text, &mu)}, "deny to 10.0.0.0/8")
		deny := func(dst string) {
			g.Serve(newFlow(t, "laptop", "tcp", dst))
		}
		for range 1000 {
			deny("10.0.0.1:80")
		}
		time.Sleep(logEvery)
		deny("192.168.1.3:80")
		got := text.String()
		for _, want := range []string{
			`level=INFO msg="flow denied" peer=laptop network=tcp source=10.0.0.1:40000 destination=10.0.0.1:80 reason="rule 1: deny to 10.0.0.0/8"`,
			`destination=192.168.1.3:80 reason="no rule allows it" skipped=999`,
		} {
			if !strings.Contains(got, want) {
				t.Errorf("want %q in:\n%s", want, got)
			}
		}
		if n := strings.Count(got, "\n"); n != 2 {
			t.Errorf("%d lines, want two:\n%s", n, got)
		}
	})
}
