// SPDX-License-Identifier: MIT

package forward

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxDatagram = 65535 // the largest payload of UDP
	maxWaiting  = 16    // datagrams of a source that wait to be sent; further ones are lost
	maxBytes    = 65536 // in those datagrams
	maxFailures = 1000  // of a socket, in a row, before that is taken for its end
)

// UDP forwards each datagram that comes to pc to address, and what comes back to where the first came from, until ctx is
// done: then it returns nil. Another end is an error of pc. It closes pc and returns when nothing is left.
//
// Each source has a connection of its own, so address sees different ports for different sources.
func UDP(ctx context.Context, pc net.PacketConn, d Dialer, address string, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	f := &udpForward{pc: pc, dialer: d, address: address, Options: o.withDefaults(), sources: map[string]*udpSource{}}
	defer f.running.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { pc.Close() })
	defer func() {
		if stop() {
			pc.Close()
		}
	}()
	buf := make([]byte, maxDatagram)
	failures := 0 // in a row
	for {
		n, from, err := pc.ReadFrom(buf)
		switch {
		case err == nil:
			failures = 0
			f.pass(ctx, from, buf[:n])
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded), failures == maxFailures:
			return err
		default:
			failures++ // what ICMP says of a datagram that was sent back
		}
	}
}

type udpForward struct {
	Options
	pc      net.PacketConn
	dialer  Dialer
	address string
	running sync.WaitGroup // the sources' goroutines

	mu      sync.Mutex // guards sources and live
	sources map[string]*udpSource
	live    int // sources whose goroutines run: those above, and those that were ended and are not done yet
}

// A udpSource is who has sent datagrams, and its connection.
type udpSource struct {
	addr    net.Addr
	waiting chan []byte
	bytes   atomic.Int64 // in waiting; only pass adds to it
	end     context.CancelFunc
	active  atomic.Int64 // when a datagram passed, in nanoseconds since the epoch
}

func (s *udpSource) touch() { s.active.Store(time.Now().UnixNano()) }

// pass gives a datagram to its source, which may be new. It does not wait.
func (f *udpForward) pass(ctx context.Context, from net.Addr, b []byte) {
	key := from.String()
	f.mu.Lock()
	s := f.sources[key]
	if s == nil {
		if f.live >= 2*f.MaxConns { // dials and closes that hang hold on to what they have
			f.mu.Unlock()
			return
		}
		if len(f.sources) >= f.MaxConns {
			f.evict()
		}
		s = &udpSource{addr: from, waiting: make(chan []byte, maxWaiting)}
		s.touch()
		ctx, s.end = context.WithCancel(ctx)
		f.sources[key] = s
		f.live++
		f.running.Go(func() { // ends with ctx, by being idle, or by an error of its connection
			defer f.remove(key, s)
			f.carry(ctx, s)
		})
	}
	f.mu.Unlock()
	size := int64(len(b))
	if s.bytes.Load()+size > maxBytes {
		return
	}
	s.bytes.Add(size)
	select {
	case s.waiting <- append([]byte(nil), b...):
	default:
		s.bytes.Add(-size)
	}
}

// evict ends the source that has been idle for longest. The caller holds mu.
func (f *udpForward) evict() {
	var oldest string
	for key, s := range f.sources {
		if oldest == "" || s.active.Load() < f.sources[oldest].active.Load() {
			oldest = key
		}
	}
	f.sources[oldest].end()
	delete(f.sources, oldest)
}

func (f *udpForward) remove(key string, s *udpSource) {
	s.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live--
	if f.sources[key] == s {
		delete(f.sources, key)
	}
}

// carry passes a source's datagrams on, and back.
func (f *udpForward) carry(ctx context.Context, s *udpSource) {
	conn, err := dial(ctx, f.dialer, "udp", f.address, f.Options)
	if err != nil {
		f.Logger.DebugContext(ctx, "datagrams not forwarded", "from", s.addr, "to", f.address, "error", err)
		return
	}
	defer conn.Close()
	var back sync.WaitGroup
	defer back.Wait()
	defer s.end()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	back.Go(func() { // ends when conn is closed, by being idle, or by an error
		defer s.end()
		if err := f.back(conn, s); err != nil && ctx.Err() == nil {
			f.Logger.DebugContext(ctx, "datagrams not forwarded", "from", s.addr, "to", f.address, "error", err)
		}
	})
	for {
		select {
		case b := <-s.waiting:
			s.bytes.Add(-int64(len(b)))
			s.touch()
			// An error that matters is one of Read too. A datagram that is too long for one side is lost.
			_, _ = conn.Write(b)
		case <-ctx.Done():
			return
		}
	}
}

// back passes on what comes back, until nothing has moved either way for too long.
func (f *udpForward) back(conn net.Conn, s *udpSource) error {
	buf := make([]byte, maxDatagram)
	for {
		deadline := time.Unix(0, s.active.Load()).Add(f.UDPIdleTimeout)
		if err := conn.SetReadDeadline(deadline); err != nil {
			return err
		}
		n, err := conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Since(time.Unix(0, s.active.Load())) >= f.UDPIdleTimeout {
				return nil
			}
		case err != nil:
			return err
		default:
			s.touch()
			_, _ = f.pc.WriteTo(buf[:n], s.addr) // what cannot be sent is lost; the end of pc is for UDP to see
		}
	}
}
