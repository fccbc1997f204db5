// SPDX-License-Identifier: MIT

package netstack_test

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// checkGoroutines fails the test if, once it and the clean-ups registered after this call are done, goroutines of this
// package or of gVisor live on. Tests that use it must not be parallel.
func checkGoroutines(tb testing.TB) {
	tb.Helper()
	tb.Cleanup(func() {
		var left []string
		settled := eventually(func() bool {
			left = ourGoroutines()
			return len(left) == 0
		})
		if !settled {
			tb.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

func ourGoroutines() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var ours []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "example.com/wgnet/netstack.") || strings.Contains(g, "gvisor.dev/gvisor/") {
			ours = append(ours, g)
		}
	}
	return ours
}

// eventually polls a condition that has no event of its own, for ten seconds at most.
func eventually(cond func() bool) bool {
	if cond() {
		return true
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		select {
		case <-ticker.C:
			if cond() {
				return true
			}
		case <-limit.C:
			return false
		}
	}
}
