// SPDX-License-Identifier: MIT

package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxFlowBuffered bounds the datagrams of one flow that were not read, in bytes.
const maxFlowBuffered = 1 << 20

// messageCost is what a datagram that waits costs beyond its bytes.
const messageCost = 64

// flowConn is the program's end of a flow of datagrams: see [Flow.Accept].
type flowConn struct {
	flow        *Flow
	read, write deadline
	ready       chan struct{} // holds one token when there is something to read
	ended       chan struct{} // closed by end

	mu     sync.Mutex // guards what follows
	queue  fifo[[]byte]
	size   int    // of what is in queue, with its costs
	err    error  // why it has ended
	missed error  // an ICMP error, told once
	last   []byte // the beginning of the datagram that came last
}

var _ net.Conn = (*flowConn)(nil)

func newFlowConn(f *Flow) *flowConn {
	return &flowConn{flow: f, ready: make(chan struct{}, 1), ended: make(chan struct{})}
}

// deliver takes in a datagram, if it is sound and there is room.
func (c *flowConn) deliver(p *transitPacket) {
	if p.kind == kindEchoReply || !p.checksumValid() {
		return
	}
	message := p.message()
	cost := len(message) + messageCost
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	if c.size+cost > maxFlowBuffered {
		c.flow.transit.unread.Add(1)
		return
	}
	if buffered := &c.flow.peer.buffered; buffered.Add(int64(cost)) > c.flow.transit.limits.peerBuffered {
		buffered.Add(-int64(cost))
		c.flow.transit.unread.Add(1)
		return
	}
	c.queue.push(append([]byte(nil), message...))
	c.last = append(c.last[:0], p.b[:p.ipLen+echoHeader]...)
	c.size += cost
	c.signal()
}

// newest is the beginning of the datagram that came last, or nil: as much as an ICMP error must have of it (RFC 792), since
// each flow keeps it.
func (c *flowConn) newest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Clone(c.last)
}

// fail has the next call return an error that an ICMP error brought.
func (c *flowConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = err
	c.signal()
}

func (c *flowConn) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// end lets go of everything. Calls return err from now on.
func (c *flowConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	c.flow.peer.buffered.Add(-int64(c.size))
	c.queue, c.size = fifo[[]byte]{}, 0
	close(c.ended)
}

// Read implements [net.Conn]: one message, of which what does not fit into b is lost. With an empty b it returns 0 at once.
func (c *flowConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		message, err := c.take()
		switch {
		case err == nil:
			return copy(b, message), nil
		case err != errNothing:
			return 0, c.opError("read", err)
		}
		select {
		case <-c.ready:
		case <-c.ended:
		case <-c.read.wait():
		}
	}
}

// errNothing says that there is nothing to read yet.
var errNothing = errors.New("nothing to read")

func (c *flowConn) take() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case isClosed(c.read.wait()):
		return nil, os.ErrDeadlineExceeded
	case c.missed != nil:
		err := c.missed
		c.missed = nil
		return nil, err
	case c.queue.len() == 0:
		return nil, errNothing
	}
	message := c.queue.pop()
	cost := len(message) + messageCost
	c.size -= cost
	c.flow.peer.buffered.Add(-int64(cost))
	if c.queue.len() > 0 {
		c.signal() // another reader may wait
	}
	return message, nil
}

// Write implements [net.Conn]: one datagram, in fragments where it has to be; of a ping an answer. It waits while the
// queue into the tunnel is full.
func (c *flowConn) Write(b []byte) (int, error) {
	src, dst := c.flow.key.dst, c.flow.key.src
	packet, err := c.packet(src, dst, b)
	if err != nil {
		return 0, c.opError("write", err)
	}
	st := c.flow.transit.stack
	for {
		if err := c.check(); err != nil {
			return 0, c.opError("write", err)
		}
		peer, ok := st.PeerFor(dst.Addr())
		if !ok {
			return 0, c.opError("write", os.NewSyscallError("sendto", syscall.ENETUNREACH))
		}
		room := st.link.wait(peer)
		if room == nil {
			break
		}
		select {
		case <-room:
		case <-c.ended:
		case <-c.write.wait():
		}
	}
	c.flow.touch()
	st.link.send(fragmented(packet, int(st.link.mtu)))
	return len(b), nil
}

func (c *flowConn) check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if isClosed(c.write.wait()) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// packet makes the packet of a message.
func (c *flowConn) packet(src, dst netip.AddrPort, message []byte) ([]byte, error) {
	v4 := src.Addr().Is4()
	udp := c.flow.key.proto == flowUDP
	headers, limit := echoHeader, maxPayload6
	if v4 {
		limit = maxPayload4
	}
	if !udp {
		if len(message) < 2 {
			return nil, os.NewSyscallError("sendto", syscall.EINVAL) // no sequence number
		}
		headers -= 2
		limit += 2
	}
	if len(message) > limit {
		return nil, os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}
	switch {
	case udp:
		b, n := newIP(src.Addr(), dst.Addr(), uint8(header.UDPProtocolNumber), headers+len(message))
		h := header.UDP(b[n:])
		h.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(h))})
		copy(h[headers:], message)
		sum := ^transportSum(b, n, uint8(header.UDPProtocolNumber))
		if sum == 0 {
			sum = 0xffff // 0 says that there is none (RFC 768)
		}
		h.SetChecksum(sum)
		return b, nil
	case v4:
		b, n := newIP(src.Addr(), dst.Addr(), uint8(header.ICMPv4ProtocolNumber), headers+len(message))
		b[n] = byte(header.ICMPv4EchoReply)
		c.fillEcho(b[n:], message)
		header.ICMPv4(b[n:]).SetChecksum(^checksumOf(b[n:]))
		return b, nil
	}
	b, n := newIP(src.Addr(), dst.Addr(), uint8(header.ICMPv6ProtocolNumber), headers+len(message))
	b[n] = byte(header.ICMPv6EchoReply)
	c.fillEcho(b[n:], message)
	header.ICMPv6(b[n:]).SetChecksum(^transportSum(b, n, uint8(header.ICMPv6ProtocolNumber)))
	return b, nil
}

func (c *flowConn) fillEcho(icmp, message []byte) {
	binary.BigEndian.PutUint16(icmp[4:], c.flow.key.src.Port())
	copy(icmp[6:], message)
}

// Close implements [net.Conn]. A second Close returns [net.ErrClosed].
func (c *flowConn) Close() error {
	select {
	case <-c.ended:
		return c.opError("close", net.ErrClosed)
	default:
		c.flow.finish()
		return nil
	}
}

// LocalAddr implements [net.Conn]: the flow's destination.
func (c *flowConn) LocalAddr() net.Addr { return c.flow.addr(c.flow.Destination()) }

// RemoteAddr implements [net.Conn]: the flow's source.
func (c *flowConn) RemoteAddr() net.Addr { return c.flow.addr(c.flow.Source()) }

// SetDeadline implements [net.Conn].
func (c *flowConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (c *flowConn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.read, t) }

// SetWriteDeadline implements [net.Conn].
func (c *flowConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.write, t) }

func (c *flowConn) setDeadline(d *deadline, t time.Time) error {
	select {
	case <-c.ended:
		return c.opError("set", net.ErrClosed)
	default:
		d.set(t)
		return nil
	}
}

func (c *flowConn) opError(op string, err error) error {
	return opError(op, c.flow.Network(), c.LocalAddr(), c.RemoteAddr(), err)
}

// send queues packets, each of which it copies.
func (l *link) send(packets [][]byte) {
	var list stack.PacketBufferList
	for _, b := range packets {
		list.PushBack(packetBuffer(b))
	}
	_, _ = l.WritePackets(list) // it fails only when the link is closed, and then nobody waits for them
	list.DecRef()
}
