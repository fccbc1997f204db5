// SPDX-License-Identifier: MIT

package netstack

import (
	"testing"
	"time"
)

// fault 24: a session that is told of after its peer has gone makes nothing that would stay, nor does a packet that was on
// its way to it.
func TestNothingIsKeptForAPeerThatHasGone(t *testing.T) {
	q := newQueueTest(t, true, 0)
	w := q.silence
	w.report = func(PeerID) {}
	pkt := q.packet(classStream, 1, 5, 0, 100)
	q.setSession(1, q.now()+time.Minute)
	q.write(pkt)
	if len(q.queues) != 1 || len(w.peers) != 1 {
		t.Fatalf("%d queues and %d silences for a peer, want one of each", len(q.queues), len(w.peers))
	}
	table := newRouteTable(testRoutes(2, 9))
	q.routes.Store(table)
	w.retain(testRoutes(2, 9))
	q.retain(testRoutes(2, 9))
	q.setSession(1, q.now()+time.Minute)
	w.owe(1, false, pkt)
	if len(q.queues) != 0 || len(w.peers) != 0 {
		t.Errorf("%d queues and %d silences are left", len(q.queues), len(w.peers))
	}
	q.setSession(2, q.now()+time.Minute)
	w.owe(2, false, pkt)
	if len(q.queues) != 1 || len(w.peers) != 1 {
		t.Errorf("%d queues and %d silences for a peer that is there, want one of each", len(q.queues), len(w.peers))
	}
	w.close()
}
