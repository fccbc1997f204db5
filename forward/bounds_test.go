// SPDX-License-Identifier: MIT

package forward_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/wgnet/forward"
)

// floodConn gives a number of datagrams, and then waits for Close.
type floodConn struct {
	net.PacketConn
	size   int
	from   func(left int) net.Addr
	left   int
	closed chan struct{}
	once   sync.Once
}

func (c *floodConn) ReadFrom(b []byte) (int, net.Addr, error) {
	if c.left == 0 {
		<-c.closed
		return 0, nil, net.ErrClosed
	}
	c.left--
	return c.size, c.from(c.left), nil
}

func (c *floodConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// heldDialer dials once it may.
type heldDialer struct {
	may  chan struct{}
	conn net.Conn
}

func (d *heldDialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	select {
	case <-d.may:
		return d.conn, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func oneSource(int) net.Addr { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

// TestUDPWaiting: of what comes while a source's connection is being made, 16 datagrams wait, or 64 KiB.
func TestUDPWaiting(t *testing.T) {
	for _, tc := range []struct {
		name       string
		size, want int
	}{{"short", 5, 16}, {"empty", 0, 16}, {"of 4 KiB", 4096, 16}, {"of 9 KiB", 9216, 7}, {"the longest", 65507, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				pc := &floodConn{from: oneSource, size: tc.size, left: 100, closed: make(chan struct{})}
				d := &heldDialer{may: make(chan struct{}), conn: ours}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- forward.UDP(ctx, pc, d, "unused:1", forward.Options{}) }() // cancel ends it
				synctest.Wait()                                                                 // all have come
				var got atomic.Int32
				go func() { // ends with the connection
					for buf := make([]byte, 65535); ; got.Add(1) {
						if _, err := theirs.Read(buf); err != nil {
							return
						}
					}
				}()
				close(d.may)
				synctest.Wait()
				if n := int(got.Load()); n != tc.want || pc.left != 0 {
					t.Errorf("%d datagrams waited, want %d; %d were not read", n, tc.want, pc.left)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A stuckDialer heeds no context: its dials end when they may.
type stuckDialer struct {
	may   chan struct{}
	dials atomic.Int32
}

func (d *stuckDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	d.dials.Add(1)
	<-d.may
	return nil, net.ErrClosed
}

// TestUDPLive: sources that have lost their place and are not done yet are bounded too.
func TestUDPLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := func(left int) net.Addr { return &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1 + left} }
		pc := &floodConn{from: from, size: 5, left: 1000, closed: make(chan struct{})}
		d := &stuckDialer{may: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- forward.UDP(ctx, pc, d, "unused:1", forward.Options{MaxConns: 10}) }() // cancel ends it
		synctest.Wait()                                                                             // all have come
		if n := d.dials.Load(); n != 20 || pc.left != 0 {
			t.Errorf("%d dials at a time, want 20; %d datagrams were not read", n, pc.left)
		}
		close(d.may)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
