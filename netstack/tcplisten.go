// SPDX-License-Identifier: MIT

package netstack

import (
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog bounds the connections that wait to be accepted, as Linux's somaxconn does. Past it SYN cookies are sent,
// so a flood of SYNs costs no memory.
const backlog = 4096

// TCPListener accepts TCP connections. It behaves as [net.TCPListener] does. Its methods are safe for concurrent use.
type TCPListener struct {
	socket
	addr netip.AddrPort
}

var _ net.Listener = (*TCPListener)(nil)

// ListenTCP listens on laddr. network is "tcp", "tcp4" or "tcp6"; port 0 picks a free one. A laddr with no address,
// or for "tcp" with an unspecified one, listens on all addresses of both families, the loopback's among them.
// Errors are [*net.OpError]; errors.Is holds for EADDRINUSE, EADDRNOTAVAIL (not an address of the stack) and
// [net.ErrClosed].
func (s *Stack) ListenTCP(network string, laddr netip.AddrPort) (*TCPListener, error) {
	l, err := s.listenTCP(network, normalize(laddr))
	if err != nil {
		return nil, opError("listen", network, nil, tcpAddr(laddr), err)
	}
	return l, nil
}

func (s *Stack) listenTCP(network string, laddr netip.AddrPort) (*TCPListener, error) {
	wq := new(waiter.Queue)
	ep, laddr, err := s.bind("tcp", network, tcp.ProtocolNumber, laddr, wq)
	if err != nil {
		return nil, err
	}
	if err := ep.Listen(backlog); err != nil {
		ep.Close()
		return nil, s.failed("listen", err)
	}
	l := &TCPListener{}
	l.init(s, ep, wq)
	l.addr = withWildcard(l.localAddrPort(), laddr.Addr())
	return l, nil
}

// bind makes an endpoint that is bound to laddr. It returns laddr with the wildcard that was bound.
func (s *Stack) bind(proto, network string, transport tcpip.TransportProtocolNumber, laddr netip.AddrPort, wq *waiter.Queue) (tcpip.Endpoint, netip.AddrPort, error) {
	if isClosed(s.done) {
		return nil, laddr, net.ErrClosed
	}
	addr := laddr.Addr()
	if !addr.IsValid() || (network == proto && addr.IsUnspecified()) {
		// "tcp" and "udp" listen for both families, and say so: [::].
		addr = netip.IPv6Unspecified()
		if network == proto+"4" {
			addr = netip.IPv4Unspecified()
		}
		laddr = netip.AddrPortFrom(addr, laddr.Port())
	}
	if err := checkNetwork(proto, network, addr); err != nil {
		return nil, laddr, err
	}
	netProto := ipv6.ProtocolNumber
	if addr.Is4() {
		netProto = ipv4.ProtocolNumber
	}
	ep, err := s.stack.NewEndpoint(transport, netProto, wq)
	if err != nil {
		return nil, laddr, s.failed("socket", err)
	}
	ep.SocketOptions().SetV6Only(netProto == ipv6.ProtocolNumber && (network == proto+"6" || !addr.IsUnspecified()))
	if transport == tcp.ProtocolNumber {
		// A listener may take a port whose old connections are in TIME_WAIT, as the net package has it.
		ep.SocketOptions().SetReuseAddress(true)
	}
	if err := ep.Bind(fullAddress(laddr)); err != nil {
		ep.Close()
		return nil, laddr, s.failed("bind", err)
	}
	return ep, laddr, nil
}

// withWildcard puts the wildcard address back that gVisor leaves out.
func withWildcard(bound netip.AddrPort, wildcard netip.Addr) netip.AddrPort {
	if !bound.Addr().IsValid() {
		return netip.AddrPortFrom(wildcard, bound.Port())
	}
	return bound
}

// Accept implements [net.Listener]. The connection is a [*TCPConn].
func (l *TCPListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err // not a nil *TCPConn in a non-nil net.Conn
	}
	return c, nil
}

// AcceptTCP waits for the next connection. It returns [net.ErrClosed] once the listener or the stack is closed.
func (l *TCPListener) AcceptTCP() (*TCPConn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return c, nil
}

func (l *TCPListener) accept() (*TCPConn, error) {
	l.read.mu.Lock()
	defer l.read.mu.Unlock()
	if err := l.check(&l.read); err != nil {
		return nil, err
	}
	for {
		var remote tcpip.FullAddress
		ep, wq, err := l.ep.Accept(&remote)
		switch err.(type) {
		case nil:
			c, err := newTCPConn(l.stack, ep, wq, addrPort(remote))
			if err != nil {
				ep.Close()
				return nil, l.failed("setsockopt", err)
			}
			return c, nil
		case *tcpip.ErrWouldBlock:
			if err := l.await(&l.read, nil); err != nil {
				return nil, err
			}
		default:
			return nil, l.failed("accept", err)
		}
	}
}

// Close implements [net.Listener]: connections that wait to be accepted are reset, accepted ones live on. A second
// Close returns [net.ErrClosed].
func (l *TCPListener) Close() error {
	if !l.close(l.ep.Close) {
		return l.opError("close", net.ErrClosed)
	}
	return nil
}

// Addr implements [net.Listener]: a [*net.TCPAddr].
func (l *TCPListener) Addr() net.Addr { return tcpAddr(l.addr) }

// SetDeadline sets the time at which Accept gives up with [os.ErrDeadlineExceeded]; the zero time means never.
func (l *TCPListener) SetDeadline(t time.Time) error {
	return l.opError("set", l.setDeadline(t, &l.read))
}

func (l *TCPListener) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return opError(op, "tcp", nil, tcpAddr(l.addr), err)
}
