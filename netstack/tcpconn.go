// SPDX-License-Identifier: MIT

package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Keepalive as the net package sets it by default, instead of gVisor's two hours.
const (
	keepaliveIdle     = 15 * time.Second
	keepaliveInterval = 15 * time.Second
	keepaliveCount    = 9
)

// TCPConn is a TCP connection. It behaves as [net.TCPConn] does: keepalive is on at 15 s, Nagle's algorithm is off,
// Close delivers what was written in the background unless there is unread data or SetLinger said otherwise, and
// every error is a [*net.OpError]. Its methods are safe for concurrent use.
type TCPConn struct {
	socket
	network string // as given to DialTCP or ListenTCP
	// local and remote are fixed, and still known after the end.
	local, remote netip.AddrPort
	peer          pinned
	onClose       func() // called by Close, if not nil. Set before anybody has the connection.
}

var _ net.Conn = (*TCPConn)(nil)

// newTCPConn takes over a connected endpoint, also when it fails.
func newTCPConn(st *Stack, network string, ep tcpip.Endpoint, wq *waiter.Queue, remote netip.AddrPort, peer pinned) (*TCPConn, error) {
	c := &TCPConn{network: network, remote: remote, peer: peer}
	c.init(st, ep, wq)
	c.local = c.localAddrPort()
	if err := setKeepalive(ep, keepaliveIdle, keepaliveInterval, keepaliveCount); err != nil {
		abort(ep)
		return nil, st.failed("setsockopt", err)
	}
	if isClosed(st.done) {
		// The stack's Close may have looked for endpoints to end before this one was there, and waits for their end.
		abort(ep)
		return nil, net.ErrClosed
	}
	return c, nil
}

func setKeepalive(ep tcpip.Endpoint, idle, interval time.Duration, count int) tcpip.Error {
	idleOption, intervalOption := tcpip.KeepaliveIdleOption(idle), tcpip.KeepaliveIntervalOption(interval)
	if err := ep.SetSockOpt(&idleOption); err != nil {
		return err
	}
	if err := ep.SetSockOpt(&intervalOption); err != nil {
		return err
	}
	if err := ep.SetSockOptInt(tcpip.KeepaliveCountOption, count); err != nil {
		return err
	}
	ep.SocketOptions().SetKeepAlive(true)
	return nil
}

// keepaliveOf is what setKeepalive has set. gVisor never fails to tell.
func keepaliveOf(ep tcpip.Endpoint) (idle, interval time.Duration, count int) {
	var idleOption tcpip.KeepaliveIdleOption
	var intervalOption tcpip.KeepaliveIntervalOption
	_ = ep.GetSockOpt(&idleOption)
	_ = ep.GetSockOpt(&intervalOption)
	count, _ = ep.GetSockOptInt(tcpip.KeepaliveCountOption)
	return time.Duration(idleOption), time.Duration(intervalOption), count
}

// Read implements [net.Conn]. With an empty b it returns 0 and no error at once. After the other side's orderly end
// it returns [io.EOF], after a reset ECONNRESET.
func (c *TCPConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		if c.ended() {
			return 0, c.opError("read", net.ErrClosed)
		}
		return 0, nil
	}
	res, err := c.receive(b, tcpip.ReadOptions{})
	if res.Count > 0 {
		// The receive buffer grows with what is read in a round trip, and gVisor leaves it to the reader to say so.
		c.ep.ModerateRecvBuf(res.Count)
	}
	return res.Count, c.opError("read", err)
}

// Write implements [net.Conn]: it returns when all of b is in the send buffer, or with the reason why not.
func (c *TCPConn) Write(b []byte) (int, error) {
	c.write.mu.Lock()
	defer c.write.mu.Unlock()
	if err := c.check(&c.write); err != nil {
		return 0, c.opError("write", err)
	}
	sent := 0
	for sent < len(b) {
		c.write.payload.b = b[sent:]
		n, err := c.ep.Write(&c.write.payload, tcpip.WriteOptions{})
		c.write.payload.b = nil
		sent += int(n)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.await(&c.write, nil); err != nil {
				return sent, c.opError("write", err)
			}
		default:
			return sent, c.opError("write", c.failed("write", c.cause(err)))
		}
	}
	return sent, nil
}

// cause is why the connection ended, for a write of which gVisor says no more than that it has: the reset or the time-out
// that Read reports. A look at what there is to read tells it. As on Linux it is told once, to whoever comes first.
func (c *TCPConn) cause(err tcpip.Error) tcpip.Error {
	if tcp.EndpointState(c.ep.State()) != tcp.StateError {
		return err
	}
	var nothing tcpip.SliceWriter
	switch _, cause := c.ep.Read(&nothing, tcpip.ReadOptions{Peek: true}); cause.(type) {
	case *tcpip.ErrConnectionReset, *tcpip.ErrAborted, *tcpip.ErrTimeout:
		return cause
	}
	return err
}

// Close implements [net.Conn]. What was written is delivered in the background; unread data turns the end into a
// reset, as on Linux. Blocked calls return [net.ErrClosed], and so does a second Close.
func (c *TCPConn) Close() error {
	if !c.close(func() {
		over := tcp.EndpointState(c.ep.State()) == tcp.StateError // which the program could see
		c.ep.Close()
		if !over {
			c.stack.closing.add(c.ep)
		}
		if c.onClose != nil {
			c.onClose()
		}
	}) {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// CloseRead ends the reading side: Read returns [io.EOF] from now on.
func (c *TCPConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite ends the writing side: the other side reads [io.EOF] after what was written.
func (c *TCPConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *TCPConn) shutdown(flags tcpip.ShutdownFlags) error {
	if c.ended() {
		return c.opError("close", net.ErrClosed)
	}
	if err := c.ep.Shutdown(flags); err != nil {
		return c.opError("close", c.failed("shutdown", err))
	}
	return nil
}

// LocalAddr implements [net.Conn]: a [*net.TCPAddr].
func (c *TCPConn) LocalAddr() net.Addr { return tcpAddr(c.local) }

// RemoteAddr implements [net.Conn]: a [*net.TCPAddr].
func (c *TCPConn) RemoteAddr() net.Addr { return tcpAddr(c.remote) }

// SetDeadline implements [net.Conn].
func (c *TCPConn) SetDeadline(t time.Time) error {
	return c.opError("set", c.setDeadline(t, &c.read, &c.write))
}

// SetReadDeadline implements [net.Conn].
func (c *TCPConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.setDeadline(t, &c.read))
}

// SetWriteDeadline implements [net.Conn].
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.setDeadline(t, &c.write))
}

// SetLinger is as [net.TCPConn.SetLinger] says: with 0 seconds Close resets the connection; with a negative number,
// the default, what was written is delivered in the background. A positive number is the same as a negative one:
// Close does not wait.
func (c *TCPConn) SetLinger(sec int) error {
	if c.ended() {
		return c.opError("set", net.ErrClosed)
	}
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec == 0})
	return nil
}

// SetNoDelay says whether small segments are sent at once (true, the default) or gathered by Nagle's algorithm.
func (c *TCPConn) SetNoDelay(noDelay bool) error {
	if c.ended() {
		return c.opError("set", net.ErrClosed)
	}
	c.ep.SocketOptions().SetDelayOption(!noDelay)
	return nil
}

// SetKeepAlive turns keepalive on or off. It is on by default.
func (c *TCPConn) SetKeepAlive(on bool) error {
	if c.ended() {
		return c.opError("set", net.ErrClosed)
	}
	c.ep.SocketOptions().SetKeepAlive(on)
	return nil
}

// SetKeepAlivePeriod sets the idle time before the first probe and the time between probes. The default is 15 s.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	return c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: d, Interval: d})
}

// SetKeepAliveConfig is as [net.TCPConn.SetKeepAliveConfig] says: zero fields mean 15 s, 15 s and 9 probes, and
// negative ones leave things as they are.
func (c *TCPConn) SetKeepAliveConfig(cfg net.KeepAliveConfig) error {
	if c.ended() {
		return c.opError("set", net.ErrClosed)
	}
	if !cfg.Enable {
		return c.SetKeepAlive(false)
	}
	idle, interval, count := keepaliveOf(c.ep)
	err := setKeepalive(c.ep,
		orDefault(cfg.Idle, keepaliveIdle, idle),
		orDefault(cfg.Interval, keepaliveInterval, interval),
		orDefault(cfg.Count, keepaliveCount, count))
	if err != nil {
		return c.opError("set", c.failed("setsockopt", err))
	}
	return nil
}

// orDefault is net.KeepAliveConfig's rule: positive values count, zero means the default, negative ones keep.
func orDefault[T int | time.Duration](value, fallback, current T) T {
	switch {
	case value > 0:
		return value
	case value == 0:
		return fallback
	}
	return current
}

// SetReadBuffer fixes the size of the receive buffer in bytes, at most 32 MiB, which ends its auto-tuning. Half of it is
// offered as the window.
func (c *TCPConn) SetReadBuffer(bytes int) error {
	return c.opError("set", c.setReadBuffer(bytes))
}

// SetWriteBuffer fixes the size of the send buffer in bytes, at most 32 MiB, which ends its auto-tuning between 212 KiB
// and 4 MiB. More than that is for long and fast paths on which next to nothing is lost: it fills 1 Gbit/s over 100 ms,
// and a burst of losses with as much in flight stops the connection for many seconds.
func (c *TCPConn) SetWriteBuffer(bytes int) error {
	return c.opError("set", c.setWriteBuffer(bytes))
}

func (c *TCPConn) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return opError(op, c.network, tcpAddr(c.local), tcpAddr(c.remote), err)
}

func (s *socket) setReadBuffer(bytes int) error {
	return s.setBuffer(bytes, func(n int64) { s.ep.SocketOptions().SetReceiveBufferSize(n, true) })
}

func (s *socket) setWriteBuffer(bytes int) error {
	return s.setBuffer(bytes, func(n int64) { s.ep.SocketOptions().SetSendBufferSize(n, true) })
}

// setBuffer keeps the size inside of the stack's bounds, as a kernel does.
func (s *socket) setBuffer(bytes int, set func(int64)) error {
	switch {
	case s.ended():
		return net.ErrClosed
	case bytes <= 0:
		return syscall.EINVAL
	}
	set(int64(min(max(bytes, minBuffer), maxBuffer)))
	return nil
}
