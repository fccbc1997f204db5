// SPDX-License-Identifier: MIT

// Package relay joins two stream connections: what one sends the other one gets, with half-close, resets and
// back-pressure passed on both ways. The gateway, the forwards and the proxies stand on it.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// bufferSize is what one direction holds at most beside the buffers of the two connections: as long as it is not
// written, nothing more is read, so that who reads slowly slows who writes.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Hooks are told what happens. They are called by two goroutines and must not block. Both may be nil.
type Hooks struct {
	Moved  func(fromA bool, n int) // n bytes were read at one side and written at the other
	Halved func()                  // one direction has ended in order, the other goes on
}

// Join copies between a and b until both directions have ended, and closes both. The orderly end of one direction is
// passed on with CloseWrite, and the other goes on; a connection without CloseWrite is closed instead. An error in
// either direction, a reset above all, ends both with a reset, as does the end of ctx. It returns nil after an orderly
// end, the cause of ctx, or the first error.
//
// The connections' own ReadFrom and WriteTo are not used: the operating system moves bytes between two sockets of its
// own only, and here one is none.
func Join(ctx context.Context, a, b net.Conn, hooks Hooks) error {
	var once sync.Once
	var first error
	end := func(err error) {
		once.Do(func() {
			first = err
			Reset(a)
			Reset(b)
		})
	}
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	copied := make(chan struct{})
	var halves sync.Once
	half := func(dst, src net.Conn, fromA bool) {
		if err := pump(dst, src, fromA, hooks.Moved); err != nil {
			end(err)
			return
		}
		if err := closeWrite(dst); err != nil {
			end(err)
			return
		}
		halves.Do(func() {
			if hooks.Halved != nil {
				hooks.Halved()
			}
		})
	}
	go func() { // ends with its direction; end closes what it waits for
		defer close(copied)
		half(a, b, false)
	}()
	half(b, a, true)
	<-copied
	if !stop() && ctx.Err() != nil {
		end(context.Cause(ctx)) // it has begun, and is waited for here
	}
	once.Do(func() { // both directions have ended in order
		first = errors.Join(ignoreClosed(a.Close()), ignoreClosed(b.Close()))
	})
	return first
}

// pump copies one direction until its orderly end, for which it returns nil.
func pump(dst, src net.Conn, fromA bool, moved func(bool, int)) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
			if moved != nil {
				moved(fromA, n)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return ignoreClosed(c.Close())
}

// Reset closes a connection so that the other side sees a reset (RFC 9293 section 3.5.2) where the connection can do
// that.
func Reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails on a connection that has ended: then there is nothing to reset
	}
	_ = c.Close() // an end is what is wanted, and a second close is no fault
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
