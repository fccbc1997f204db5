// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/log"
)

// fault 71: a library prints nothing, least of all what strangers cause.
func TestGvisorIsQuiet(t *testing.T) {
	s, err := New(Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, ok := log.Log().Emitter.(discard); !ok {
		t.Errorf("gVisor logs to %T", log.Log().Emitter)
	}
}
