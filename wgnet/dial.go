// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"example.com/wgnet/internal/happyeyeballs"
)

// Dial is [Net.DialContext] without a context: it may take two minutes to give up, as [net.Dial] does.
func (n *Net) Dial(network, address string) (net.Conn, error) {
	return n.DialContext(context.Background(), network, address)
}

// DialContext connects to an address inside the tunnel. Networks are "tcp", "tcp4", "tcp6", "udp", "udp4" and "udp6".
// The address is "host:port" with a number for the port; the host is an IP address, the name of a peer, localhost (the
// Net's own loopback), or a name that the Net's DNS servers know. With several addresses the first one that answers is
// taken (RFC 8305). ctx bounds the dial, not the connection.
//
// The connection has the methods of [net.TCPConn] or [net.UDPConn]: CloseWrite, SetKeepAlive, ReadFromUDPAddrPort and
// so on. Errors are [*net.OpError]. errors.Is holds for ECONNREFUSED, ECONNRESET, ENETUNREACH (no peer's AllowedIPs have
// the address: at once), EHOSTUNREACH (the peer has no endpoint and has not been heard from: at once, see
// [Net.WaitPeer]), [net.ErrClosed], context.Canceled; and for a deadline, both context.DeadlineExceeded and
// [os.ErrDeadlineExceeded]. Such a time-out says what the tunnel knows of its cause.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&Dialer{Net: n}).DialContext(ctx, network, address)
}

// Dialer has options for dialing, as [net.Dialer] does. Net is required; the zero value of the rest means what
// [Net.DialContext] does. A Dialer must not be changed while it is in use; its methods are safe for concurrent use.
type Dialer struct {
	// Net is the host to dial from.
	Net *Net
	// LocalAddr is the address to dial from: one of the Net's own, a port, or both. Zero means that they are chosen.
	LocalAddr netip.AddrPort
	// Timeout bounds a dial, besides the context's deadline. 0 means no bound.
	Timeout time.Duration
}

// Dial is DialContext without a context.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects as [Net.DialContext] does.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.Timeout)
		defer cancel()
	}
	n := d.Net
	if n == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the Dialer's Net is nil")}
	}
	family, err := familyOf(network)
	if err == nil && n.ending() {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	addrs, err := n.dialAddrs(ctx, family, host)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	targets := make([]netip.AddrPort, len(addrs))
	for i, addr := range addrs {
		targets[i] = netip.AddrPortFrom(addr, port)
	}
	return happyeyeballs.Dial(ctx, targets, func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		return n.dialAddrPort(ctx, network, d.LocalAddr, addr)
	})
}

// dialServer connects the resolver to one of its servers.
func (n *Net) dialServer(ctx context.Context, network, address string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return n.dialAddrPort(ctx, network, netip.AddrPort{}, addr)
}

// dialAddrPort connects to one address, and says what the tunnel knows when that fails.
func (n *Net) dialAddrPort(ctx context.Context, network string, laddr, raddr netip.AddrPort) (net.Conn, error) {
	udp := network[:3] == "udp"
	p := n.peerFor(raddr.Addr())
	if err := n.mute(ctx, p); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addrOf(udp, raddr), Err: err}
	}
	var c net.Conn
	var err error
	if udp {
		c, err = n.pinUDP(n.stack.DialUDP(ctx, network, laddr, raddr))
	} else {
		c, err = n.pinTCP(n.stack.DialTCP(ctx, network, laddr, raddr))
	}
	if err != nil {
		return nil, n.explain(err, p, raddr.Addr())
	}
	return c, nil
}

func addrOf(udp bool, addr netip.AddrPort) net.Addr {
	if udp {
		return net.UDPAddrFromAddrPort(addr)
	}
	return net.TCPAddrFromAddrPort(addr)
}

// peerFor returns the peer that serves addr, or nil.
func (n *Net) peerFor(addr netip.Addr) *peer {
	id, ok := n.stack.PeerFor(addr)
	if !ok {
		return nil
	}
	return n.peers().byID[id]
}

// mute is the error for a peer that nothing can be sent to, and nothing but the peer's own first word will change that.
// p may be nil. What the stack would fail for in any case, it is left to say.
func (n *Net) mute(ctx context.Context, p *peer) error {
	if p == nil || p.Endpoint != "" || p.reachable() || ctx.Err() != nil || n.ctx.Err() != nil {
		return nil
	}
	return &noEndpointError{p.label()}
}

// familyOf returns the network to look names up in: "ip", "ip4" or "ip6".
func familyOf(network string) (string, error) {
	switch network {
	case "tcp", "udp":
		return "ip", nil
	case "tcp4", "udp4":
		return "ip4", nil
	case "tcp6", "udp6":
		return "ip6", nil
	}
	return "", net.UnknownNetworkError(network)
}

// splitHostPort takes a number for the port only: names of services are in a file of the host's, which is not ours.
func splitHostPort(address string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, &net.AddrError{Err: "port is not a number from 0 to 65535", Addr: address}
	}
	return host, uint16(n), nil
}

// noEndpointError is a dial to a peer of which nothing is known but its key.
type noEndpointError struct{ peer string }

func (e *noEndpointError) Error() string {
	return neverHeard(e.peer) + ": give it an Endpoint, or wait for it with WaitPeer"
}

func neverHeard(peer string) string {
	return "peer " + peer + " has no endpoint and has not been heard from"
}

func (e *noEndpointError) Is(target error) bool { return target == syscall.EHOSTUNREACH }
