// SPDX-License-Identifier: MIT

package netstack

import (
	"testing"
	"testing/synctest"
	"time"
)

// fault 47: segments to a peer are cut to what the path takes, until that is old; those to others are not.
func TestPathMTU(t *testing.T) {
	const mtu, payload = 1000, 5000
	synctest.Test(t, func(t *testing.T) {
		q := newQueueTest(t, false, 128)
		largest := func(peer PeerID) (largest int) {
			t.Helper()
			q.write(q.packet(classStream, peer, 5, 0, payload))
			bufs, sizes := make([][]byte, 2*batchSize), make([]int, 2*batchSize)
			for i := range bufs {
				bufs[i] = make([]byte, DefaultMTU)
			}
			n, _ := q.take(bufs, sizes, 0)
			sum := 0
			for _, size := range sizes[:n] {
				largest = max(largest, size)
				sum += size - 40
			}
			if sum != payload {
				t.Fatalf("%d bytes were cut into %d packets with %d", payload, n, sum)
			}
			if in := q.queues[peer].inFlight; in != n {
				t.Errorf("%d packets in flight, want %d", in, n)
			}
			q.sent(peer, n)
			return largest
		}
		if got := largest(1); got != DefaultMTU {
			t.Errorf("packets of %d bytes, want %d", got, DefaultMTU)
		}
		largest(2)
		q.setPathMTU(1, mtu)
		q.setPathMTU(2, 1_000_000) // more than the link takes
		if got := largest(1); got != mtu {
			t.Errorf("packets of %d bytes, want %d", got, mtu)
		}
		if got := largest(2); got != DefaultMTU {
			t.Errorf("packets of %d bytes to another peer, want %d", got, DefaultMTU)
		}
		time.Sleep(pathMTUTime)
		if got := largest(1); got != DefaultMTU {
			t.Errorf("packets of %d bytes after a while, want %d", got, DefaultMTU)
		}
		q.setPathMTU(1, 1)
		if got := largest(1); got != minPathMTU {
			t.Errorf("packets of %d bytes on an absurd path, want %d", got, minPathMTU)
		}
		q.setPathMTU(1, 0)
		if got := largest(1); got != DefaultMTU {
			t.Errorf("packets of %d bytes on a path that is not known, want %d", got, DefaultMTU)
		}
		q.setPathMTU(3, mtu) // of a peer that is not there
		q.close()
	})
}
