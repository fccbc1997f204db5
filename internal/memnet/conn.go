// SPDX-License-Identifier: MIT

package memnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is an endpoint: what a UDP socket is to a machine. It is a [net.PacketConn] whose addresses are
// [*net.UDPAddr]; addresses that it gives out are never 4-in-6. Errors are [*net.OpError]; errors.Is finds
// [net.ErrClosed] after Close and [os.ErrDeadlineExceeded] after a deadline. All methods are safe for concurrent use.
type Conn struct {
	host    *Host
	network string
	// writeDeadline is in the time of Network.now, 0 is none. Writes never wait, so there is nobody to wake.
	writeDeadline atomic.Int64

	port  uint16                         // constant once it listens
	local atomic.Pointer[netip.AddrPort] // for LocalAddr; stored by register

	bound    netip.Addr // the address it listens at, not valid if all the host's; guarded by Network.mu
	released bool       // Close was called; guarded by Network.mu

	closed bool // written under both Network.mu and mu

	mu           sync.Mutex // guards the rest
	arrived      sync.Cond  // there is a datagram, the deadline is over, or it is closed
	queue        queue
	memory       int // of queue
	limit        int // of memory
	dropped      uint64
	readDeadline time.Duration // in the time of Network.now, 0 is none
	readTimer    *time.Timer   // wakes at readDeadline; nil until there is one
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(h *Host, network string, bound netip.Addr, port uint16) *Conn {
	c := &Conn{host: h, network: network, bound: bound, port: port, limit: h.net.opts.ReceiveBuffer}
	c.arrived.L = &c.mu
	return c
}

// ReadFrom implements [net.PacketConn]. What does not fit into b is lost.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	size, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return size, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation, as that of [net.UDPConn].
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	var size [1]int
	var from [1]netip.AddrPort
	_, err := c.ReadBatch([][]byte{b}, size[:], from[:])
	return size[0], from[0], err
}

// ReadBatch waits for a datagram and takes as many as there are, at most one for each of bufs. Datagram i is in
// bufs[i][:sizes[i]] and comes from addrs[i]; what does not fit is lost. sizes and addrs must be as long as bufs. It
// returns 0, nil at once if bufs is empty.
func (c *Conn) ReadBatch(bufs [][]byte, sizes []int, addrs []netip.AddrPort) (int, error) {
	if len(sizes) < len(bufs) || len(addrs) < len(bufs) {
		return 0, c.opError("read", netip.AddrPort{}, fmt.Errorf("%d buffers, but room for %d sizes and %d addresses: %w",
			len(bufs), len(sizes), len(addrs), syscall.EINVAL))
	}
	batch, err := c.take(len(bufs))
	if err != nil {
		return 0, c.opError("read", netip.AddrPort{}, err)
	}
	n := batch.len
	for i := range n {
		d := batch.pop()
		sizes[i], addrs[i] = copy(bufs[i], d.buf), d.from
		d.free()
	}
	return n, nil
}

// take waits for datagrams and takes at most limit of them.
func (c *Conn) take(limit int) (batch queue, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return batch, net.ErrClosed
		case c.readDeadline != 0 && c.host.net.now() >= c.readDeadline:
			return batch, os.ErrDeadlineExceeded
		case limit == 0:
			return batch, nil
		case c.queue.head == nil:
			c.arrived.Wait()
			continue
		}
		if c.queue.len <= limit {
			batch, c.queue, c.memory = c.queue, queue{}, 0
			return batch, nil
		}
		for range limit {
			d := c.queue.pop()
			c.memory -= d.memory()
			batch.push(d)
		}
		c.arrived.Signal() // receive wakes one reader for a whole run: pass the rest on
		return batch, nil
	}
}

// receive puts a run into the receive buffer and returns how many found no room.
func (c *Conn) receive(run *queue) (dropped uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := run.pop(); d != nil; d = run.pop() {
		if c.memory+d.memory() > c.limit {
			d.free()
			dropped++
			continue
		}
		c.memory += d.memory()
		c.queue.push(d)
	}
	c.dropped += dropped
	c.arrived.Signal()
	return dropped
}

// WriteTo implements [net.PacketConn]. It never waits. addr is a [*net.UDPAddr].
func (c *Conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, c.opError("write", netip.AddrPort{}, fmt.Errorf("to a %T: %w", addr, syscall.EINVAL))
	}
	return c.WriteToUDPAddrPort(b, udp.AddrPort()) // also if udp is nil: then the address is not valid
}

// WriteToUDPAddrPort is WriteTo without an allocation, as that of [net.UDPConn].
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if _, err := c.WriteBatch([][]byte{b}, to); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteBatch sends each of bufs as one datagram. It never waits, and keeps nothing of bufs. It returns how many the
// network took, whatever becomes of them there: all, or those before the one that the error is about. A datagram
// that is too long for UDP, or for a link that refuses it, is [syscall.EMSGSIZE]; a family of which the host has no
// address [syscall.ENETUNREACH].
func (c *Conn) WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n, err := c.write(bufs, to)
	if err != nil {
		return n, c.opError("write", to, err)
	}
	return n, nil
}

func (c *Conn) write(bufs [][]byte, to netip.AddrPort) (int, error) {
	n := c.host.net
	n.mu.RLock()
	defer n.mu.RUnlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if d := c.writeDeadline.Load(); d != 0 && n.now() >= time.Duration(d) {
		return 0, os.ErrDeadlineExceeded
	}
	if !to.Addr().IsValid() {
		return 0, &net.AddrError{Err: "missing address"}
	}
	if to.Port() == 0 {
		return 0, os.NewSyscallError("sendto", syscall.EINVAL)
	}
	source, err := c.source(to.Addr())
	if err != nil {
		return 0, err
	}
	if len(bufs) == 0 {
		return 0, nil
	}
	from, mapped := netip.AddrPortFrom(source, c.port), true
	if nat := n.inside[source]; nat != nil && n.inside[to.Addr()] != nat {
		from, mapped = nat.outbound(from, to)
	}
	l, err := n.link(from.Addr(), to.Addr())
	if err != nil {
		return 0, err
	}
	if !mapped {
		l.filter(bufs, to.Addr())
		return len(bufs), nil
	}
	return l.write(bufs, from, to)
}

// source is the address that a datagram to an address comes from. The caller holds Network.mu.
func (c *Conn) source(to netip.Addr) (netip.Addr, error) {
	if to.IsUnspecified() || to.IsMulticast() {
		return netip.Addr{}, os.NewSyscallError("sendto", syscall.ENETUNREACH)
	}
	for _, a := range c.host.addrs {
		if c.at(a) && a.Is4() == to.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, os.NewSyscallError("sendto", syscall.ENETUNREACH)
}

// Close implements [net.PacketConn]. Whoever waits in a read gets [net.ErrClosed], and so does a second Close.
func (c *Conn) Close() error {
	c.host.net.mu.Lock()
	again := c.released
	c.released = true
	c.leave()
	c.host.net.mu.Unlock()
	if again {
		return c.opError("close", netip.AddrPort{}, net.ErrClosed)
	}
	return nil
}

// leave closes the endpoint and takes it off its host. The caller holds Network.mu.
func (c *Conn) leave() {
	if _, ok := c.host.conns[c]; !ok {
		return
	}
	c.unregister()
	delete(c.host.conns, c)
	c.close()
	c.host.leave()
}

// close ends reads and writes. The caller holds Network.mu.
func (c *Conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.queue.clear()
	c.memory = 0
	if c.readTimer != nil {
		c.readTimer.Stop()
	}
	c.arrived.Broadcast()
}

// LocalAddr implements [net.PacketConn] with a [*net.UDPAddr]. An endpoint that listens at all addresses of its host
// gives the first of them. It changes with [Network.Move].
func (c *Conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(*c.local.Load()) }

// Dropped returns how many datagrams found the receive buffer full.
func (c *Conn) Dropped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

// SetReadBuffer sets the memory of the receive buffer in bytes, at least 1. What it holds already stays.
func (c *Conn) SetReadBuffer(bytes int) error {
	if bytes < 1 {
		return c.opError("set", netip.AddrPort{}, syscall.EINVAL)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", netip.AddrPort{}, net.ErrClosed)
	}
	c.limit = bytes
	return nil
}

// SetDeadline implements [net.PacketConn].
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.PacketConn].
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", netip.AddrPort{}, net.ErrClosed)
	}
	if c.readTimer != nil {
		c.readTimer.Stop()
	}
	c.readDeadline = c.host.net.deadline(t)
	if c.readDeadline == 0 {
		return nil
	}
	wait := c.readDeadline - c.host.net.now()
	if wait <= 0 {
		c.arrived.Broadcast()
	} else if c.readTimer == nil {
		c.readTimer = time.AfterFunc(wait, c.wake)
	} else {
		c.readTimer.Reset(wait)
	}
	return nil
}

// wake lets the readers look at the deadline. The timer runs it, and Close stops the timer.
func (c *Conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrived.Broadcast()
}

// SetWriteDeadline implements [net.PacketConn]. Writes never wait, but they fail after it.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.host.net.mu.RLock()
	defer c.host.net.mu.RUnlock()
	if c.closed {
		return c.opError("set", netip.AddrPort{}, net.ErrClosed)
	}
	c.writeDeadline.Store(int64(c.host.net.deadline(t)))
	return nil
}

// deadline is a deadline in the time of now: 0 for none, and never 0 for one, as 1 is over too.
func (n *Network) deadline(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(n.now()+time.Until(t), 1)
}

// at says whether the endpoint listens at an address of its host. The caller holds Network.mu.
func (c *Conn) at(a netip.Addr) bool {
	return allows(c.network, a) && (!c.bound.IsValid() || c.bound == a)
}

// addrs are the addresses that the endpoint listens at. The caller holds Network.mu.
func (c *Conn) addrs() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(c.host.addrs), func(a netip.Addr) bool { return !c.at(a) })
}

// register makes the endpoint reachable at its addresses. The caller holds Network.mu.
func (c *Conn) register() {
	addrs := c.addrs()
	for _, a := range addrs {
		c.host.net.conns[netip.AddrPortFrom(a, c.port)] = c
	}
	local := netip.AddrPortFrom(addrs[0], c.port)
	c.local.Store(&local)
}

// unregister is the opposite of register.
func (c *Conn) unregister() {
	for _, a := range c.addrs() {
		delete(c.host.net.conns, netip.AddrPortFrom(a, c.port))
	}
}

// opError is the error that every method returns.
func (c *Conn) opError(op string, to netip.AddrPort, err error) error {
	e := &net.OpError{Op: op, Net: c.network, Source: c.LocalAddr(), Err: err}
	if to.Addr().IsValid() {
		e.Addr = net.UDPAddrFromAddrPort(to)
	}
	return e
}
