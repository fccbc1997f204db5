// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Closed connections that still deliver, which never end where nobody answers, are bounded; the oldest goes.
func TestClosingIsBounded(t *testing.T) {
	s, err := New(Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	made, problem := s.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, new(waiter.Queue))
	if problem != nil {
		t.Fatal(problem)
	}
	defer made.Close()
	ep := made.(*tcp.Endpoint)
	var c closingList
	aborted := 0
	for i := range maxClosing + 1000 {
		aborted += len(c.push(ep)) // one that neither has ended nor is in TIME_WAIT
		if len(c.queue) > maxClosing {
			t.Fatalf("%d closed connections after %d", len(c.queue), i+1)
		}
	}
	if aborted+len(c.queue) != maxClosing+1000 {
		t.Errorf("%d were reset and %d are there, of %d", aborted, len(c.queue), maxClosing+1000)
	}
}
