// SPDX-License-Identifier: MIT

package outer

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// waitFor waits for room in a backlog, and keeps how long that took.
func waitFor(b *backlog, done, closed <-chan struct{}) (took func() time.Duration) {
	result := make(chan time.Duration, 1)
	begin := time.Now()
	go func() { // ends with the wait
		b.wait(done, closed)
		result <- time.Since(begin)
	}()
	return func() time.Duration { return <-result }
}

// fault 70: the receiver waits while the device has not delivered what it was given.
func TestBacklog(t *testing.T) {
	const limit = 100
	tests := []struct {
		name  string
		limit int
		do    func(b *backlog, done, closed chan struct{}) // while somebody waits
		want  time.Duration
	}{
		{"no limit", 0, func(*backlog, chan struct{}, chan struct{}) {}, 0},
		{"all delivered", limit, func(b *backlog, _, _ chan struct{}) { b.remove(limit) }, 0},
		{"one delivered", limit, func(b *backlog, _, _ chan struct{}) { b.remove(1) }, 0},
		{"more than all delivered", limit, func(b *backlog, _, _ chan struct{}) { b.remove(10 * limit) }, 0},
		{"nothing delivered", limit, func(*backlog, chan struct{}, chan struct{}) {}, backlogPause},
		{"a part delivered, and not enough", limit, func(b *backlog, _, _ chan struct{}) {
			b.add(limit) // another batch, as receive may
			for range 5 {
				time.Sleep(backlogPause / 2)
				b.remove(1)
			}
		}, 4 * backlogPause},
		{"facade closed", limit, func(_ *backlog, done, _ chan struct{}) { close(done) }, 0},
		{"sockets closed", limit, func(_ *backlog, _, closed chan struct{}) { close(closed) }, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, done, closed := newBacklog(test.limit), make(chan struct{}), make(chan struct{})
				b.add(limit - 1)
				if took := waitFor(b, done, closed)(); took != 0 {
					t.Fatalf("waited for %v with room for one", took)
				}
				b.add(1)
				took := waitFor(b, done, closed)
				synctest.Wait()
				test.do(b, done, closed)
				if got := took(); got != test.want {
					t.Errorf("waited for %v, want %v", got, test.want)
				}
			})
		})
	}
	b := newBacklog(limit)
	b.add(10)
	b.remove(1000)
	b.add(limit)
	if full, _ := b.full(); !full {
		t.Error("what was delivered twice counts for later messages")
	}
}

// What counts is what carries a packet: no handshake, no keepalive.
func TestDataMessagesAreCounted(t *testing.T) {
	message := func(kind byte, size int) []byte {
		b := make([]byte, size)
		b[0] = kind
		return b
	}
	var mu sync.Mutex
	var events []int // -1 for Sending
	a := openSystem(t, Config{
		Sending: func(first []byte) {
			if len(first) != 48 {
				t.Errorf("told of a send with %d bytes first, want the first with a packet", len(first))
			}
			mu.Lock()
			defer mu.Unlock()
			events = append(events, -1)
		},
		Sent: func(_ []byte, n int) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, n)
		},
	})
	b := openSystem(t, Config{MaxBacklog: 1000})
	from, to := a.Bind(), b.Bind()
	if _, _, err := from.Open(0); err != nil {
		t.Fatal(err)
	}
	receive, _, err := to.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	end, err := from.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	for _, bufs := range [][][]byte{
		{message(1, 148)},
		{message(4, 32)},
		{message(4, 48), message(4, 32), message(4, 1452), message(2, 92)},
	} {
		if err := from.Send(bufs, end); err != nil {
			t.Fatal(err)
		}
	}
	if len(events) != 2 || events[0] != -1 || events[1] != 2 {
		t.Errorf("told %v, want one send of 2 messages", events)
	}
	n := to.BatchSize()
	bufs, sizes, ends := make([][]byte, n), make([]int, n), make([]conn.Endpoint, n)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
		bufs[i][0] = 4 // what was in a buffer before does not count
	}
	for got := 0; got < 6; {
		k, err := receive[0](bufs, sizes, ends)
		if err != nil {
			t.Fatal(err)
		}
		got += k
	}
	if b.backlog.size != 2 {
		t.Errorf("%d messages in the backlog, want 2", b.backlog.size)
	}
}
