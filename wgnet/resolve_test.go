// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A hook that does not return when its context is done costs a bounded number of goroutines.
func TestResolveEndpointNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		release := make(chan struct{})
		n := &Net{}
		n.state.Store(&state{config: &Config{ResolveEndpoint: func(context.Context, string) ([]netip.Addr, error) {
			calls.Add(1)
			<-release
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}}})
		look := func() ([]netip.Addr, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return n.resolveOuter(ctx, "vpn.example")
		}
		for range maxResolving {
			if _, err := look(); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if _, err := look(); err == nil || !strings.HasPrefix(err.Error(), "16 calls of Config.ResolveEndpoint have not returned") || calls.Load() != maxResolving {
			t.Errorf("call %d: %v", calls.Load(), err)
		}
		close(release)
		synctest.Wait()
		if addrs, err := look(); err != nil || len(addrs) != 1 {
			t.Errorf("once they have returned: %v, %v", addrs, err)
		}
	})
}
