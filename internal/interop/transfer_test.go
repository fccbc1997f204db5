// SPDX-License-Identifier: MIT

package interop

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// transferSize is 100 MB, and a tenth of it under the race detector and with -short.
func transferSize() int64 {
	if raceEnabled || testing.Short() {
		return 10_000_000
	}
	return 100_000_000
}

// TestTransfer moves 100 MB each way (a tenth with -short or -race) over IPv4 and IPv6 inside, one after the other.
// The other side's stack verifies the checksum of every segment of ours, and SHA-256 all the rest.
func TestTransfer(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		s := newScene(t, setting{them: kind, starts: "we"})
		for _, way := range []struct {
			name     string
			from, to side
			addr     string
		}{
			{"from us", s.us, s.them, s.addrs2[0]},
			{"to us", s.them, s.us, s.addrs1[1]},
		} {
			t.Run(way.name, func(t *testing.T) { transfer(t, way.from, way.to, way.addr, transferSize(), nil) })
		}
	})
}

// transfer sends size bytes over one connection and compares their SHA-256 at both ends. halfway, if not nil, is
// called when half of them have been written.
func transfer(t *testing.T, from, to side, addr string, size int64, halfway func()) {
	t.Helper()
	ctx := testContext(t)
	deadline, _ := ctx.Deadline()
	l, err := to.listen(":0")
	must(t, err)
	defer l.Close()

	type result struct {
		sum []byte
		n   int64
		err error
	}
	received := make(chan result, 1)
	go func() { // ends with the connection, or when l is closed
		c, err := l.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer c.Close()
		c.SetDeadline(deadline)
		h := sha256.New()
		n, err := io.Copy(h, c)
		received <- result{h.Sum(nil), n, err}
	}()

	c, err := from.dial(ctx, "tcp", net.JoinHostPort(addr, fmt.Sprint(l.Addr().(*net.TCPAddr).Port)))
	must(t, err)
	defer c.Close()
	c.SetDeadline(deadline)
	h := sha256.New()
	begin := time.Now()
	source := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 64<<10)
	for sent := int64(0); sent < size; {
		b := buf[:min(int64(len(buf)), size-sent)]
		source.Read(b) // never fails
		h.Write(b)
		if _, err := c.Write(b); err != nil {
			t.Fatalf("after %d bytes: %v", sent, err)
		}
		sent += int64(len(b))
		if halfway != nil && sent >= size/2 {
			halfway()
			halfway = nil
		}
	}
	must(t, c.(interface{ CloseWrite() error }).CloseWrite())
	got := <-received
	took := time.Since(begin)
	if got.err != nil || got.n != size {
		t.Fatalf("%d of %d bytes arrived: %v", got.n, size, got.err)
	}
	if want := h.Sum(nil); string(got.sum) != string(want) {
		t.Errorf("SHA-256 %x, sent %x", got.sum, want)
	}
	// The other side closes its half after the last byte: what comes here is the end, and no reset.
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		t.Errorf("after the transfer: %d bytes, %v", n, err)
	}
	t.Logf("%d MB in %v: %.0f Mbit/s", size/1e6, took.Round(time.Millisecond), float64(size)*8/1e6/took.Seconds())
}
