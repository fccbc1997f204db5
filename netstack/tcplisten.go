// SPDX-License-Identifier: MIT

package netstack

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog bounds the connections that wait to be accepted, as Linux's somaxconn does: past that many half-open ones
// SYN cookies are sent, so that a flood of SYNs costs no further memory; past that many complete ones SYNs are dropped.
const backlog = 4096

// TCPListener accepts TCP connections. It behaves as [net.TCPListener] does. Its methods are safe for concurrent use.
type TCPListener struct {
	socket
	network string // as given
	addr    netip.AddrPort
	claim   *claim
}

// claim is what a listener listens on. gVisor would let two listeners have one port, since both set SO_REUSEADDR; as
// on Linux that option is to help against old connections alone.
type claim struct {
	addr   netip.Addr // may be unspecified
	port   uint16
	v4, v6 bool

	listener *TCPListener // nil before it listens
}

func (c *claim) overlaps(d *claim) bool {
	return c.port == d.port && (c.v4 && d.v4 || c.v6 && d.v6) &&
		(c.addr.IsUnspecified() || d.addr.IsUnspecified() || c.addr == d.addr)
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
	laddr, err := s.checkListen("tcp", network, laddr)
	if err != nil {
		return nil, err
	}
	claim := &claim{
		addr: laddr.Addr(), port: laddr.Port(),
		v4: laddr.Addr().Is4() || network == "tcp" && laddr.Addr().IsUnspecified(),
		v6: laddr.Addr().Is6(),
	}
	if !s.addClaim(claim) {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	l, err := s.listenClaimed(network, laddr, claim)
	if err != nil {
		s.removeClaim(claim)
		return nil, err
	}
	return l, nil
}

func (s *Stack) listenClaimed(network string, laddr netip.AddrPort, claim *claim) (*TCPListener, error) {
	wq := new(waiter.Queue)
	ep, err := s.bind("tcp", network, tcp.ProtocolNumber, laddr, wq)
	if err != nil {
		return nil, err
	}
	if err := ep.Listen(backlog); err != nil {
		ep.Close()
		return nil, s.failed("listen", err)
	}
	if isClosed(s.done) {
		ep.Close() // see newTCPConn
		return nil, net.ErrClosed
	}
	l := &TCPListener{network: network, claim: claim}
	l.init(s, ep, wq)
	l.addr = withWildcard(l.localAddrPort(), laddr.Addr())
	s.mu.Lock()
	claim.port = l.addr.Port() // nobody else can have a port that gVisor has just picked
	claim.listener = l
	s.mu.Unlock()
	if isClosed(s.draining) {
		_ = l.Close() // Drain may have done so
		return nil, net.ErrClosed
	}
	return l, nil
}

// addClaim reports false if a listener has what is claimed. Port 0 claims nothing yet.
func (s *Stack) addClaim(c *claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.port != 0 {
		for other := range s.claims {
			if c.overlaps(other) {
				return false
			}
		}
	}
	s.claims[c] = struct{}{}
	return true
}

func (s *Stack) removeClaim(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, c)
}

// checkListen finds what is wrong with a listener's or a packet conn's address. It returns laddr with the wildcard
// to bind where it has none.
func (s *Stack) checkListen(proto, network string, laddr netip.AddrPort) (netip.AddrPort, error) {
	if s.ending() {
		return laddr, net.ErrClosed
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
	return laddr, checkNetwork(proto, network, addr)
}

// bind makes an endpoint that is bound to what checkListen returned.
func (s *Stack) bind(proto, network string, transport tcpip.TransportProtocolNumber, laddr netip.AddrPort, wq *waiter.Queue) (tcpip.Endpoint, error) {
	ep, err := s.stack.NewEndpoint(transport, protocolOf(laddr.Addr()), wq)
	if err != nil {
		return nil, s.failed("socket", err)
	}
	ep.SocketOptions().SetV6Only(laddr.Addr().Is6() && (network == proto+"6" || !laddr.Addr().IsUnspecified()))
	if transport == tcp.ProtocolNumber && laddr.Port() != 0 {
		// A listener may take a port whose old connections are in TIME_WAIT, as the net package has it.
		ep.SocketOptions().SetReuseAddress(true)
	}
	if err := ep.Bind(fullAddress(laddr)); err != nil {
		ep.Close()
		return nil, s.failed("bind", err)
	}
	return ep, nil
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
			return newTCPConn(l.stack, l.network, ep, wq, addrPort(remote), l.stack.pinAccepted(ep, addrPort(remote).Addr()))
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
	if !l.close(func() {
		l.ep.Close()
		l.stack.removeClaim(l.claim)
	}) {
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
	return opError(op, l.network, nil, tcpAddr(l.addr), err)
}
