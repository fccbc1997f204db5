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

// floodConn gives a number of datagrams of one source, and then waits for Close.
type floodConn struct {
	net.PacketConn
	from   net.Addr
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
	return copy(b, "hello"), c.from, nil
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

// TestUDPWaiting: of what comes while a source's connection is being made, 16 datagrams wait.
func TestUDPWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		pc := &floodConn{from: &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, left: 100, closed: make(chan struct{})}
		d := &heldDialer{may: make(chan struct{}), conn: ours}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- forward.UDP(ctx, pc, d, "unused:1", forward.Options{}) }() // cancel ends it
		synctest.Wait()                                                                 // all have come
		var got atomic.Int32
		go func() { // ends with the connection
			for buf := make([]byte, 100); ; got.Add(1) {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
			}
		}()
		close(d.may)
		synctest.Wait()
		if n := got.Load(); n != 16 || pc.left != 0 {
			t.Errorf("%d datagrams waited, want 16; %d were not read", n, pc.left)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
