// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
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
	told := refusals{flow: f}
	again := func(err error) bool { // of the target
		told.pass(err)
		return told.again(err)
	}
	var out sync.WaitGroup
	out.Go(func() { // ends when inside is closed, which the end of f sees to
		f.end(readMessages(inside, func(b []byte) error {
			n, err := outside.Write(b)
			if told.pass(err) {
				// It may be of a datagram before: then this one has not been sent.
				forgetErrorsOf(outside)
				if n, err = outside.Write(b); refusal(err) != nil {
					err = nil
				}
			}
			told.row.Store(0)
			f.moved(true, n)
			return err
		}, told.again))
	})
	f.end(readDatagrams(outside, func(b []byte) error {
		n, err := inside.Write(b)
		switch {
		case err == nil:
			told.row.Store(0)
			f.moved(false, n)
		case refusal(err) != nil: // no word of the target
			err = nil
		}
		return err
	}, again))
	out.Wait()
	return context.Cause(f.ctx)
}

// maxRefusals is how many errors in a row, with no datagram between them, are taken for the end of a socket: each should be
// of one datagram.
const maxRefusals = 1000

// refusals are what sockets of a flow have said of its datagrams. It is passed on, and does not end the flow (RFC 4787,
// REQ-10).
type refusals struct {
	flow *flow
	once sync.Once    // counts
	row  atomic.Int32 // errors of reads since the last datagram
}

// pass tells the peer, if an error is what the target or a router has said.
func (r *refusals) pass(err error) bool {
	reason := refusal(err)
	if reason == nil || r.flow.ctx.Err() != nil {
		return false
	}
	r.once.Do(func() { r.flow.count(func(c *counters) { c.refused.Add(1) }) })
	r.flow.Refuse(reason)
	return true
}

// again says whether to read on after an error.
func (r *refusals) again(err error) bool {
	return r.flow.ctx.Err() == nil && (lost(err) || refusal(err) != nil) && r.row.Add(1) <= maxRefusals
}

// forgetErrorsOf is forgetErrors for a whole socket.
func forgetErrorsOf(c *net.UDPConn) {
	if raw, err := c.SyscallConn(); err == nil { // or it is closed
		_ = raw.Control(func(fd uintptr) { forgetErrors(int(fd)) })
	}
}

// lost says whether an error concerns one datagram alone, which the network might have lost as well.
func lost(err error) bool {
	return slices.ContainsFunc(lossErrnos, func(errno error) bool { return errors.Is(err, errno) })
}

// readMessages gives each message of a flow to use, until an error of either. After one of c, again says whether to go on.
func readMessages(c net.Conn, use func([]byte) error, again func(error) bool) error {
	var useErr error
	forgiving := func(b []byte) error {
		if useErr = use(b); lost(useErr) {
			useErr = nil
		}
		return useErr
	}
	for {
		if err := readEach(c, forgiving); useErr != nil || !again(err) {
			return err
		}
	}
}

// readEach gives each message to use, until an error of either. A connection that is an [io.WriterTo] is trusted to write
// message by message, and then an idle flow holds no buffer.
func readEach(c net.Conn, use func([]byte) error) error {
	if w, ok := c.(io.WriterTo); ok {
		_, err := w.WriteTo(writerFunc(use))
		return err
	}
	buf := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buf)
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return err
		}
		if err := use(buf[:n]); err != nil {
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
