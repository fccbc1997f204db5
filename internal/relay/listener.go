// SPDX-License-Identifier: MIT

package relay

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Limit returns a listener whose Accept waits while n of its connections are open. They keep CloseWrite and SetLinger.
func Limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, n), done: make(chan struct{})}
}

type limited struct {
	net.Listener
	places chan struct{} // one token for each open connection
	once   sync.Once     // closes done
	done   chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, leave: func() { <-l.places }}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// placed is a connection that takes a place until it is closed.
type placed struct {
	net.Conn
	once  sync.Once // calls leave
	leave func()
}

func (c *placed) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}

// CloseWrite ends the writing side, or the connection if it has no sides.
func (c *placed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// SetLinger does nothing on a connection that does not have it.
func (c *placed) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// Serve calls handle in a goroutine of its own for each connection that l accepts, until ctx is done: then it returns nil.
// Another error of l is returned, but for those that pass, such as too many open files: after them it waits a little. It
// closes l, has the context of the handlers end, and waits for them.
func Serve(ctx context.Context, l net.Listener, handle func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var handlers sync.WaitGroup
	defer handlers.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = shortest
			handlers.Go(func() { handle(ctx, c) }) // ends with ctx at the latest
			continue
		case ctx.Err() != nil:
			return nil
		case !passes(err):
			return err
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, longest)
		case <-ctx.Done():
			return nil
		}
	}
}

// passes is what package http asks too: there is no other word for it.
func passes(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}
