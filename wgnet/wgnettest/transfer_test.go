// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// megabytes is how much TestBadWeather carries. For the long run:
//
//	go test ./wgnet/wgnettest -run TestBadWeather -v -megabytes 10000 -connections 512 -timeout 0
var (
	megabytes   = flag.Int("megabytes", 16, "how much TestBadWeather carries, in MiB")
	connections = flag.Int("connections", 32, "over how many connections at a time")
	bothWays    = flag.Bool("bothways", false, "the same weather for the acknowledgments")
)

// fault 49: with 10 % loss, 25 % reordering and 5 % duplication, every byte arrives once and in order, over every
// connection. The weather is that of the data's direction: where a tenth of the acknowledgments is lost too, each
// connection is so often in exponential back-off that the last of them takes minutes. For the same reason it begins once
// the connections are there: a SYN that is lost makes a connection slow for as long as it lives.
func TestBadWeather(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	pairs := connect(t, a.Net, b.Net, *connections)
	weather := wgnettest.Link{Loss: 0.1, Reorder: 0.25, Duplicate: 0.05}
	n.SetLink(a, b, weather)
	if *bothWays {
		n.SetLink(b, a, weather)
	}
	start := time.Now()
	var next atomic.Int64
	next.Store(16 << 20)
	total := transfer(t, pairs, *megabytes<<20 / *connections, func(received int) {
		if at := next.Load(); *megabytes > 16 && int64(received) > at && next.CompareAndSwap(at, at+256<<20) {
			t.Logf("%v: %d MiB, %.1f Mbit/s", time.Since(start).Round(time.Second), received>>20,
				float64(received)*8e-6/time.Since(start).Seconds())
		}
	})
	t.Logf("%d MiB over %d connections in %v: %.1f Mbit/s; %+v", total>>20, *connections, time.Since(start),
		float64(total)*8e-6/time.Since(start).Seconds(), n.Stats(a, b))
	if s := n.Stats(a, b); s.Lost == 0 || s.Reordered == 0 || s.Duplicated == 0 {
		t.Errorf("the weather was good: %+v", s)
	}
}

// pair are the two ends of a connection.
type pair struct{ from, to net.Conn }

// connect makes connections from one Net to another.
func connect(t *testing.T, from, to *wgnet.Net, count int) []pair {
	t.Helper()
	l := listen(t, to, ":9")
	address := net.JoinHostPort(to.Addresses()[0].Addr().String(), "9")
	pairs := make([]pair, count)
	for i := range pairs {
		pairs[i].from = dial(t, from, "tcp", address)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // it may be closed already
		pairs[i].to = c
	}
	return pairs
}

// transfer sends size bytes over each of some connections at a time, and compares hashes. It calls moved with how much has
// arrived, from several goroutines unless there is one connection only.
func transfer(t *testing.T, pairs []pair, size int, moved func(received int)) (total int) {
	t.Helper()
	var limit time.Time // the long run has none
	if *megabytes <= 16 {
		limit = time.Now().Add(4 * patience)
	}
	var received atomic.Int64
	var ends sync.WaitGroup
	for i, p := range pairs {
		sent, got := sha256.New(), sha256.New()
		if err := errors.Join(p.from.SetDeadline(limit), p.to.SetDeadline(limit)); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { // ends with what there is to send, or at the limit
			content := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
			if _, err := io.Copy(io.MultiWriter(p.from, sent), io.LimitReader(content, int64(size))); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		})
		both.Go(func() { // ends with what there is to receive, or at the limit
			buf := make([]byte, 64<<10)
			for left := size; left > 0; {
				k, err := p.to.Read(buf[:min(len(buf), left)])
				got.Write(buf[:k])
				left -= k
				moved(int(received.Add(int64(k))))
				if err != nil {
					t.Errorf("connection %d: %d bytes are missing: %v", i, left, err)
					return
				}
			}
		})
		ends.Go(func() { // ends with these two
			both.Wait()
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Errorf("connection %d: the hashes differ", i)
			}
		})
	}
	ends.Wait()
	return int(received.Load())
}
