// SPDX-License-Identifier: MIT

package netstack

import (
	"testing"
	"testing/synctest"
	"time"
)

// A peer whose packets the device drops, and one whose sends take their time, keep nothing from others: those get all
// that they send and are told of, at once.
func TestInFlightIsPerPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, rounds = 2 * batchSize, 200
		q := newQueueTest(t, false, limit)
		r := q.reader()
		begin := time.Now()
		read := map[PeerID]int{}
		for round := range rounds {
			for peer := PeerID(1); peer <= 3; peer++ {
				q.datagrams(peer, 5, round*batchSize, batchSize)
			}
			for {
				list := r.poll()
				if len(list) == 0 {
					break
				}
				peer := list[0].peer
				read[peer] += len(list)
				if peer == 2 && round == 0 {
					q.beginSend(2) // and it does not end
				}
				if peer == 3 {
					q.beginSend(3)
					q.sent(3, len(list))
				}
			}
		}
		if took := time.Since(begin); read[3] != rounds*batchSize || took != 0 {
			t.Errorf("read %d of %d packets to the live peer, in %v", read[3], rounds*batchSize, took)
		}
		if read[1] != limit || read[2] != limit {
			t.Errorf("read %d packets to the dead peer and %d to the slow one, want %d", read[1], read[2], limit)
		}

		// What is lost makes room for one packet each time, until there is a send again.
		for range 3 {
			time.Sleep(stallPause)
			if n := len(r.all()); n != 1 {
				t.Errorf("read %d packets to the dead peer, want one to try", n)
			}
		}
		q.beginSend(1)
		q.sent(1, 1)
		if n := len(r.all()); n != limit {
			t.Errorf("read %d packets to a peer that was reached again, want %d", n, limit)
		}
		q.sent(2, batchSize) // the slow one is done with a half
		if n := len(r.all()); n != batchSize {
			t.Errorf("read %d packets after a slow send, want %d", n, batchSize)
		}
		q.close()
	})
}

// In all, what is in flight is bounded too, and peers that go, or get another session, leave nothing behind.
func TestInFlightInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = batchSize
		q := newQueueTest(t, true, limit)
		r := q.reader()
		for peer := PeerID(1); peer <= 9; peer++ {
			q.setSession(peer, q.now()+time.Hour)
			q.datagrams(peer, 5, 0, 2*limit)
		}
		if n := len(r.all()); n != fullPeers*limit {
			t.Fatalf("read %d packets to 9 peers, want %d", n, fullPeers*limit)
		}
		q.routes.Store(newRouteTable(testRoutes(2, 9)))
		q.retain(testRoutes(2, 9)) // without peer 1, the first that was served
		if n := len(r.all()); n != limit {
			t.Errorf("read %d packets when a peer was gone, want %d", n, limit)
		}
		q.setSession(2, q.now()+time.Hour)
		if n := len(r.all()); n != limit {
			t.Errorf("read %d packets after a new session, want %d", n, limit)
		}
		q.close()
	})
}

// A message that the device makes of a packet, in the buffer that the packet was read into, tells whose it is.
func TestPeerOf(t *testing.T) {
	const offset = 16
	q := newQueueTest(t, false, 128)
	bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
	for peer := PeerID(1); peer <= 2; peer++ {
		q.write(q.packet(classStream, peer, 5, 0, 1380))
		if n, _ := q.take(bufs, sizes, offset); n != 1 {
			t.Fatal("no packet was read")
		}
		message := bufs[0][:offset+sizes[0]+16]
		clear(bufs[0][:DefaultMTU+overhead])
		if got, ok := q.peerOf(message); !ok || got != peer {
			t.Errorf("a message to peer %d is told to be to %d, %v", peer, got, ok)
		}
	}
	if _, ok := q.peerOf(make([]byte, 1<<10)); ok {
		t.Error("a message in a buffer of another kind is told to be to a peer")
	}
	q.write(q.packet(classStream, 1, 5, 0, 1380))
	if n, _ := q.take([][]byte{make([]byte, DefaultMTU)}, sizes, 0); n != 1 { // no place for a mark
		t.Error("no packet was read into a short buffer")
	}
}
