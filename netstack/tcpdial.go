// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialTCP connects to raddr. network is "tcp", "tcp4" or "tcp6"; laddr may be the zero AddrPort, have just an
// address, or just a port. An unspecified raddr means the stack's loopback, as in the net package.
//
// It returns within moments when ctx is done, the stack is closed, or no peer serves raddr any more. Errors are
// [*net.OpError]; errors.Is holds for ENETUNREACH (no peer serves the address), ECONNREFUSED, EHOSTUNREACH,
// ETIMEDOUT, [net.ErrClosed], the context's error, and for a deadline [os.ErrDeadlineExceeded] too.
func (s *Stack) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*TCPConn, error) {
	conn, err := s.dialTCP(ctx, network, normalize(laddr), normalize(raddr))
	if err != nil {
		return nil, opError("dial", network, tcpAddr(laddr), tcpAddr(raddr), err)
	}
	return conn, nil
}

func (s *Stack) dialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*TCPConn, error) {
	raddr = netip.AddrPortFrom(localHost(raddr.Addr()), raddr.Port())
	if err := s.checkDial(ctx, "tcp", network, laddr, raddr); err != nil {
		return nil, err
	}

	// From here on a change of the routes is seen: either by reachable, or on the pending dial.
	dial := s.addDial(raddr.Addr())
	defer s.removeDial(dial)
	if !s.reachable(raddr.Addr()) {
		return nil, os.NewSyscallError("connect", syscall.ENETUNREACH)
	}
	peer := s.pin(raddr.Addr())

	wq := new(waiter.Queue)
	ep, err := s.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(raddr.Addr()), wq)
	if err != nil {
		return nil, s.failed("socket", err)
	}
	if laddr = s.bindAddress(laddr, raddr.Addr()); laddr.IsValid() {
		if err := ep.Bind(fullAddress(laddr)); err != nil {
			ep.Close()
			return nil, s.failed("bind", err)
		}
	}
	if err := s.connect(ctx, ep, wq, raddr, dial); err != nil {
		abort(ep)
		return nil, err
	}
	if err := s.keep(dial); err != nil {
		abort(ep)
		return nil, err
	}
	return newTCPConn(s, network, ep, wq, raddr, peer)
}

// keep says whether a dial that has succeeded is still good: a route that went meanwhile may have let another peer
// answer, and a change that is under way is waited for.
func (s *Stack) keep(dial *pendingDial) error {
	s.moveMu.RLock()
	defer s.moveMu.RUnlock()
	switch {
	case isClosed(dial.lost):
		return s.lostRoute("connect", dial.dst)
	case isClosed(s.draining):
		return net.ErrClosed
	}
	return nil
}

// lostRoute is the error of what waits for an address that was taken from the peer that served it.
func (s *Stack) lostRoute(call string, dst netip.Addr) error {
	if s.reachable(dst) {
		return os.NewSyscallError(call, syscall.ECONNRESET) // another peer's now, as what is connected learns too
	}
	return os.NewSyscallError(call, syscall.ENETUNREACH)
}

// bindAddress returns what a socket has to be bound to before it connects to dst, or the zero AddrPort for nothing: it
// is bound only when there is a need, since gVisor gives a bound socket a port of its own, whatever the destination.
// It is never bound to a wildcard: gVisor would forget to give the port back.
func (s *Stack) bindAddress(laddr netip.AddrPort, dst netip.Addr) netip.AddrPort {
	if laddr.Addr().IsValid() && !laddr.Addr().IsUnspecified() {
		return laddr
	}
	source, needed := s.source6(dst)
	switch {
	case needed:
	case laddr.Port() == 0:
		return netip.AddrPort{}
	case s.isLocal(dst):
		source = dst
	default:
		source = s.own.Load().source(dst)
	}
	return netip.AddrPortFrom(source, laddr.Port())
}

// abort ends an endpoint that nobody has got to see, in whatever state: a connection that came up meanwhile is reset.
func abort(ep tcpip.Endpoint) {
	ep.Abort()
	ep.Close()
}

// connect starts the handshake and waits for its end.
func (s *Stack) connect(ctx context.Context, ep tcpip.Endpoint, wq *waiter.Queue, raddr netip.AddrPort, dial *pendingDial) error {
	entry, ready := waiter.NewChannelEntry(writeEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	err := ep.Connect(fullAddress(raddr))
	if _, started := err.(*tcpip.ErrConnectStarted); !started && err != nil {
		return s.failed("connect", err)
	}
	for {
		switch state := tcp.EndpointState(ep.State()); state {
		case tcp.StateConnecting, tcp.StateSynSent, tcp.StateSynRecv:
		case tcp.StateError, tcp.StateClose:
			if isClosed(dial.lost) {
				return s.lostRoute("connect", raddr.Addr())
			}
			if err := ep.LastError(); err != nil {
				return s.failed("connect", err)
			}
			return s.failed("connect", &tcpip.ErrConnectionAborted{})
		default:
			return nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return &contextError{ctx.Err()}
		case <-dial.lost:
			return s.lostRoute("connect", raddr.Addr())
		case <-s.draining:
			return net.ErrClosed
		case <-s.done:
			return net.ErrClosed
		}
	}
}

// checkDial finds what is wrong with a dial before anything is done for it.
func (s *Stack) checkDial(ctx context.Context, proto, network string, laddr, raddr netip.AddrPort) error {
	if err := checkNetwork(proto, network, raddr.Addr()); err != nil {
		return err
	}
	switch {
	case s.ending():
		return net.ErrClosed
	case ctx.Err() != nil:
		return &contextError{ctx.Err()}
	case laddr.Addr().IsValid() && laddr.Addr().Is4() != raddr.Addr().Is4():
		return familyError(network, laddr)
	case proto == "tcp" && raddr.Port() == 0:
		return os.NewSyscallError("connect", syscall.ECONNREFUSED) // nothing listens there; Linux says the same
	case !s.reachable(raddr.Addr()):
		return os.NewSyscallError("connect", syscall.ENETUNREACH)
	}
	return nil
}

// checkNetwork says whether network is proto, proto4 or proto6, and addr of its family.
func checkNetwork(proto, network string, addr netip.Addr) error {
	switch {
	case network != proto && network != proto+"4" && network != proto+"6":
		return unknownNetwork(network, proto+", "+proto+"4 or "+proto+"6")
	case !addr.IsValid():
		return &net.AddrError{Err: "missing address"}
	case network == proto+"4" && !addr.Is4(), network == proto+"6" && !addr.Is6():
		return familyError(network, addr)
	}
	return nil
}

// failed is socket.failed for what has no socket yet.
func (s *Stack) failed(call string, err tcpip.Error) error {
	if isClosed(s.done) {
		return net.ErrClosed
	}
	return sysError(call, err)
}
