// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"net"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// initiations is an endpoint that counts handshake initiations and answers nothing.
type initiations struct {
	endpoint string
	came     chan time.Time
}

func newInitiations(tb testing.TB) *initiations {
	tb.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	in := &initiations{endpoint: pc.LocalAddr().String(), came: make(chan time.Time, 1000)}
	done := make(chan struct{})
	tb.Cleanup(func() {
		if err := pc.Close(); err != nil {
			tb.Error(err)
		}
		<-done
	})
	go func() { // ends when pc is closed
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, _, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if n == 148 && buf[0] == 1 { // WireGuard paper, section 5.4.2
				in.came <- time.Now()
			}
		}
	}()
	return in
}

// next waits for an initiation.
func (in *initiations) next(tb testing.TB) time.Time {
	tb.Helper()
	select {
	case t := <-in.came:
		return t
	case <-time.After(20 * time.Second):
		tb.Fatal("waited in vain for a handshake initiation")
		return time.Time{}
	}
}

// remote is n as upstream's peer sees it.
func remote(n *wgnet.Net, allowed ...string) testpeer.Remote {
	return testpeer.Remote{PublicKey: testpeer.Key(n.PublicKey()), AllowedIPs: allowed}
}
