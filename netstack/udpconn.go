// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// The largest payloads of a datagram: 65,535 bytes less the headers of UDP and, for IPv4, of IP.
const (
	maxPayload4 = 65_535 - 20 - 8
	maxPayload6 = 65_535 - 8
)

// UDPConn is a UDP socket. It behaves as [net.UDPConn] does: made by DialUDP it is connected and has Read and Write,
// made by ListenUDP it has ReadFrom and WriteTo. A datagram of up to 65,507 bytes (IPv6: 65,527) travels whole, in
// fragments where it has to. Its methods are safe for concurrent use.
type UDPConn struct {
	socket
	network       string // as given, which bounds the family of WriteTo
	local, remote netip.AddrPort
	peer          pinned // of a connected one
}

var (
	_ net.Conn       = (*UDPConn)(nil)
	_ net.PacketConn = (*UDPConn)(nil)
)

// DialUDP makes a socket that sends to, and receives from, raddr only. network is "udp", "udp4" or "udp6"; laddr may
// be the zero AddrPort. Nothing is sent. Errors are those of [Stack.DialTCP]; ctx is looked at once.
func (s *Stack) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*UDPConn, error) {
	c, err := s.dialUDP(ctx, network, normalize(laddr), normalize(raddr))
	if err != nil {
		return nil, opError("dial", network, udpAddr(laddr), udpAddr(raddr), err)
	}
	return c, nil
}

func (s *Stack) dialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*UDPConn, error) {
	raddr = netip.AddrPortFrom(localHost(raddr.Addr()), raddr.Port())
	if err := s.checkDial(ctx, "udp", network, laddr, raddr); err != nil {
		return nil, err
	}
	wq := new(waiter.Queue)
	ep, err := s.stack.NewEndpoint(udp.ProtocolNumber, protocolOf(raddr.Addr()), wq)
	if err != nil {
		return nil, s.failed("socket", err)
	}
	if err := identify(ep); err != nil {
		ep.Close()
		return nil, s.failed("setsockopt", err)
	}
	if laddr = s.bindAddress(laddr, raddr.Addr()); laddr.IsValid() {
		if err := ep.Bind(fullAddress(laddr)); err != nil {
			ep.Close()
			return nil, s.failed("bind", err)
		}
	}
	peer, err := s.connectUDP(ep, raddr)
	if err != nil {
		ep.Close()
		return nil, s.failed("connect", err)
	}
	c := &UDPConn{network: network, remote: raddr, peer: peer}
	c.init(s, ep, wq)
	c.local = c.localAddrPort()
	return c, nil
}

// ListenUDP makes a socket that sends to, and receives from, anyone. network and laddr are those of
// [Stack.ListenTCP], with "udp" for "tcp", and so are the errors.
func (s *Stack) ListenUDP(network string, laddr netip.AddrPort) (*UDPConn, error) {
	c, err := s.listenUDP(network, normalize(laddr))
	if err != nil {
		return nil, opError("listen", network, nil, udpAddr(laddr), err)
	}
	return c, nil
}

func (s *Stack) listenUDP(network string, laddr netip.AddrPort) (*UDPConn, error) {
	laddr, err := s.checkListen("udp", network, laddr)
	if err != nil {
		return nil, err
	}
	wq := new(waiter.Queue)
	ep, err := s.bind("udp", network, udp.ProtocolNumber, laddr, wq)
	if err != nil {
		return nil, err
	}
	if err := identify(ep); err != nil {
		ep.Close()
		return nil, s.failed("setsockopt", err)
	}
	c := &UDPConn{network: network}
	c.init(s, ep, wq)
	c.local = withWildcard(c.localAddrPort(), laddr.Addr())
	return c, nil
}

// identify gives each IPv4 datagram an ID of its own. By default gVisor sends them with DF and without one, and cuts what is
// larger than the MTU all the same: fragments of two datagrams that are under way at once could not be told apart (RFC
// 6864, section 4.3).
func identify(ep tcpip.Endpoint) tcpip.Error {
	return ep.SetSockOptInt(tcpip.MTUDiscoverOption, int(tcpip.PMTUDiscoveryDont))
}

// Read implements [net.Conn]: one datagram, of which what does not fit into b is lost.
// With an empty b it returns 0 and no error at once.
func (c *UDPConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		if c.ended() {
			return 0, c.opError("read", c.remote, net.ErrClosed)
		}
		return 0, nil
	}
	res, err := c.receive(b, tcpip.ReadOptions{})
	return res.Count, c.opError("read", c.remote, c.cause(err))
}

// ReadFrom implements [net.PacketConn]: one datagram, of which what does not fit into b is lost, and its sender, a
// [*net.UDPAddr].
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, udpAddr(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without an allocation for the sender's address.
func (c *UDPConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	res, err := c.receive(b, tcpip.ReadOptions{NeedRemoteAddr: true})
	if err != nil {
		return 0, netip.AddrPort{}, c.opError("read", c.remote, c.cause(err))
	}
	return res.Count, addrPort(res.RemoteAddr), nil
}

// Write implements [net.Conn]: one datagram to the address that was dialed. It waits while the queue into the tunnel
// is full. EMSGSIZE means that b is larger than a datagram can be; ECONNREFUSED, that an earlier one found no one.
func (c *UDPConn) Write(b []byte) (int, error) {
	if !c.remote.IsValid() {
		return 0, c.opError("write", c.remote, os.NewSyscallError("write", syscall.EDESTADDRREQ))
	}
	return c.send(b, c.remote)
}

// WriteTo implements [net.PacketConn]. addr has to be a [*net.UDPAddr] with an address of the socket's family and a
// port. ENETUNREACH means that no peer serves it; the other errors are those of Write.
func (c *UDPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	a, ok := addr.(*net.UDPAddr)
	if !ok || a == nil {
		err := fmt.Errorf("%w: address of type %T, want a *net.UDPAddr", syscall.EINVAL, addr)
		return 0, opError("write", c.network, udpAddr(c.local), addr, err)
	}
	return c.WriteToUDPAddrPort(b, a.AddrPort())
}

// WriteToUDPAddrPort is WriteTo for a [netip.AddrPort].
func (c *UDPConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	to := normalize(addr)
	to = netip.AddrPortFrom(localHost(to.Addr()), to.Port())
	if err := c.checkDestination(to); err != nil {
		return 0, c.opError("write", addr, err)
	}
	return c.send(b, to)
}

func (c *UDPConn) checkDestination(to netip.AddrPort) error {
	switch {
	case c.remote.IsValid():
		return net.ErrWriteToConnected
	case !to.Addr().IsValid():
		return &net.AddrError{Err: "missing address"}
	case to.Port() == 0:
		return os.NewSyscallError("sendto", syscall.EINVAL)
	}
	if err := checkNetwork("udp", c.network, to.Addr()); err != nil {
		return err
	}
	if local := c.local.Addr(); !local.IsUnspecified() && local.Is4() != to.Addr().Is4() {
		return familyError("of "+local.String(), to)
	}
	return nil
}

func (c *UDPConn) send(b []byte, to netip.AddrPort) (int, error) {
	c.write.mu.Lock()
	defer c.write.mu.Unlock()
	if err := c.check(&c.write); err != nil {
		return 0, c.opError("write", to, err)
	}
	limit := maxPayload6
	if to.Addr().Is4() {
		limit = maxPayload4
	}
	if len(b) > limit {
		// gVisor counts the payload in 16 bits, and would send something else.
		return 0, c.opError("write", to, os.NewSyscallError("sendto", syscall.EMSGSIZE))
	}
	if !c.stack.reachable(to.Addr()) {
		return 0, c.opError("write", to, os.NewSyscallError("sendto", syscall.ENETUNREACH))
	}
	var opts tcpip.WriteOptions
	if !c.remote.IsValid() {
		c.write.to = fullAddress(to)
		opts.To = &c.write.to
		if source, ok := c.stack.source6(to.Addr()); ok && c.local.Addr().IsUnspecified() {
			opts.ControlMessages.HasIPv6PacketInfo = true
			opts.ControlMessages.IPv6PacketInfo.Addr = gvisorAddr(source)
		}
	}
	peer, remote := c.stack.PeerFor(to.Addr())
	for {
		var room <-chan struct{}
		if remote {
			room = c.stack.link.wait(peer)
		}
		if room == nil {
			c.write.payload.b = b
			n, err := c.ep.Write(&c.write.payload, opts)
			c.write.payload.b = nil
			if err == nil {
				return int(n), nil
			}
			if _, full := err.(*tcpip.ErrWouldBlock); !full {
				return 0, c.opError("write", to, c.cause(c.failed("sendto", err)))
			}
		}
		if err := c.await(&c.write, room); err != nil {
			return 0, c.opError("write", to, err)
		}
	}
}

// cause is why a call failed on a socket that gVisor has closed and the program has not: see Stack.reset.
func (c *UDPConn) cause(err error) error {
	if err != nil && !c.ended() && transport.DatagramEndpointState(c.ep.State()) == transport.DatagramEndpointStateClosed {
		return os.NewSyscallError("recvfrom", syscall.ECONNRESET)
	}
	return err
}

// Close implements [net.Conn]. Blocked calls return [net.ErrClosed], and so does a second Close.
func (c *UDPConn) Close() error {
	if !c.close(c.ep.Close) {
		return c.opError("close", c.remote, net.ErrClosed)
	}
	return nil
}

// LocalAddr implements [net.Conn]: a [*net.UDPAddr].
func (c *UDPConn) LocalAddr() net.Addr { return udpAddr(c.local) }

// RemoteAddr implements [net.Conn]: a [*net.UDPAddr], or nil for a socket that ListenUDP made.
func (c *UDPConn) RemoteAddr() net.Addr { return udpAddr(c.remote) }

// SetDeadline implements [net.Conn].
func (c *UDPConn) SetDeadline(t time.Time) error {
	return c.opError("set", c.local, c.setDeadline(t, &c.read, &c.write))
}

// SetReadDeadline implements [net.Conn].
func (c *UDPConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.local, c.setDeadline(t, &c.read))
}

// SetWriteDeadline implements [net.Conn].
func (c *UDPConn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.local, c.setDeadline(t, &c.write))
}

// SetReadBuffer sets how many bytes of datagrams wait for Read before further ones are lost. The default is 4 MiB.
func (c *UDPConn) SetReadBuffer(bytes int) error {
	return c.opError("set", c.local, c.setReadBuffer(bytes))
}

// SetWriteBuffer sets how many bytes of datagrams wait for the tunnel before Write does. The default is 1 MiB.
func (c *UDPConn) SetWriteBuffer(bytes int) error {
	return c.opError("set", c.local, c.setWriteBuffer(bytes))
}

func (c *UDPConn) opError(op string, addr netip.AddrPort, err error) error {
	if err == nil {
		return nil
	}
	return opError(op, c.network, udpAddr(c.local), udpAddr(addr), err)
}
