// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
)

// maxDatagram is the largest message of a flow: the payload of UDP over IPv6 without a jumbogram (RFC 8200 section 8.1).
const maxDatagram = 65535

var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// serveUDP carries datagrams between the peer and a socket that is connected to the target, so that the system drops
// what strangers send to it (RFC 4787, REQ-8: address and port-dependent filtering). It returns why the flow ended.
func (g *Gateway) serveUDP(f *flow) error {
	conn, err := g.dial(f, networkUDP, f.dst) // sends nothing
	if err != nil {
		return g.turnAway(f, err)
	}
	outside := conn.(*net.UDPConn)
	defer outside.Close()
	inside, err := g.accept(f)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(f.ctx, func() {
		inside.Close()
		outside.Close()
	})
	defer stop()
	defer inside.Close()
	var out sync.WaitGroup
	out.Go(func() { // ends when inside is closed, which the end of f sees to
		var target error
		err := readMessages(inside, func(b []byte) error {
			var n int
			n, target = outside.Write(b)
			f.moved(true, n)
			return target
		})
		g.carried(f, err, target)
	})
	var peer error
	err = readDatagrams(outside, func(b []byte) error {
		var n int
		n, peer = inside.Write(b)
		f.moved(false, n)
		return peer
	})
	target := err
	if peer != nil && !lost(peer) {
		target = nil
	}
	g.carried(f, err, target)
	out.Wait()
	return context.Cause(f.ctx)
}

// carried ends a flow of which one direction has ended. What the target or a router has said of a datagram is passed on.
func (g *Gateway) carried(f *flow, err, target error) {
	if reason := refusal(target); reason != nil && f.ctx.Err() == nil {
		f.count(func(c *counters) { c.refused.Add(1) })
		f.Refuse(reason)
	}
	f.end(err)
}

// lost says whether an error concerns one datagram alone, which the network might have lost as well.
func lost(err error) bool {
	return slices.ContainsFunc(lossErrnos, func(errno error) bool { return errors.Is(err, errno) })
}

// readMessages gives each message of a flow to use, until an error of either. A connection that is an [io.WriterTo] is
// trusted to write message by message, and then an idle flow holds no buffer.
func readMessages(c net.Conn, use func([]byte) error) error {
	forgiving := func(b []byte) error {
		if err := use(b); err != nil && !lost(err) {
			return err
		}
		return nil
	}
	if w, ok := c.(io.WriterTo); ok {
		_, err := w.WriteTo(writerFunc(forgiving))
		return err
	}
	buf := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buf)
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return err
		}
		if err := forgiving(buf[:n]); err != nil {
			return err
		}
	}
}

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
