// SPDX-License-Identifier: MIT

package interop

import (
	"fmt"
	"testing"
	"time"
)

// TestRoaming is fault 53: in the middle of a transfer, the other side's port changes, and the transfer goes on. Our
// file has an endpoint for it, which is out of date then.
func TestRoaming(t *testing.T) {
	for _, kind := range []string{"upstream", "wireguard-go"} {
		t.Run(kind, func(t *testing.T) {
			for _, toUs := range []bool{false, true} {
				t.Run(fmt.Sprintf("to us %v", toUs), func(t *testing.T) {
					s := newScene(t, setting{them: kind, starts: "we"})
					from, to, addr := side(s.us), s.them, s.addrs2[0]
					if toUs {
						from, to, addr = s.them, s.us, s.addrs1[0]
						s.establish(t, testContext(t)) // they learn our endpoint
					}
					transfer(t, from, to, addr, 10_000_000, func() {
						switch them := s.them.(type) {
						case *upstream:
							old := them.Port()
							must(t, them.Rebind())
							if them.Port() == old {
								t.Fatalf("the port is still %d", old)
							}
						case *kernel:
							s.ns.Run("wg", "set", them.wg.Interface, "listen-port", "51821")
						}
						// Who only receives, and loses that too, has nothing to say from its new port. So it says something.
						begin := time.Now()
						_, err := s.them.ping(testContext(t), s.addrs1[1])
						must(t, err)
						t.Logf("heard from the new port after %v", time.Since(begin).Round(time.Millisecond))
					})
				})
			}
		})
	}
}
