// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"example.com/wgnet/internal/relay"
)

// errNotAllowed is what dial fails with if the address that a socket is about to be connected to is not allowed.
var errNotAllowed = errors.New("the rules do not allow the address")

// serveTCP connects to the target, accepts the peer's connection if that worked, and carries it. It returns why the flow
// ended.
func (g *Gateway) serveTCP(f *flow) error {
	outside, err := g.dial(f, networkTCP, f.dst)
	if err != nil {
		return g.turnAway(f, err)
	}
	f.setIdle(g.cfg.TCPTransitoryTimeout) // for the handshake with the peer
	inside, err := g.accept(f)
	if err != nil {
		relay.Reset(outside)
		return err
	}
	g.table.settle(f)
	f.setIdle(g.cfg.TCPIdleTimeout)
	return relay.Join(f.ctx, inside, outside, relay.Hooks{
		Moved:  f.moved,
		Halved: func() { f.setIdle(g.cfg.TCPTransitoryTimeout) },
	})
}

// dial connects a socket of the host to a port of the flow's target.
func (g *Gateway) dial(f *flow, network string, target netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{
		Timeout: g.cfg.DialTimeout,
		ControlContext: func(_ context.Context, network, address string, c syscall.RawConn) error {
			// What counts is the address that the socket is about to be connected to, as the system spells it.
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %w", errNotAllowed, err)
			}
			if to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port()); to != target {
				return fmt.Errorf("%w: %v is not %v", errNotAllowed, to, target)
			}
			if err := g.allows(f); err != nil {
				return err
			}
			if network == "udp4" || network == "udp6" {
				if err := reportErrors(c); err != nil {
					return err
				}
			}
			if g.cfg.Control != nil {
				return g.cfg.Control(network, address, c)
			}
			return nil
		},
	}
	conn, err := d.DialContext(f.ctx, network, target.String())
	if err != nil {
		return nil, err
	}
	// The address may have become the host's own meanwhile. Where the host cannot be asked for its routes, a socket whose
	// both ends have one address has reached the host itself in any case.
	err = g.allows(f)
	if local, remote := addrOf(conn.LocalAddr()), addrOf(conn.RemoteAddr()); local == remote && err == nil {
		err = g.allowsKind(f, special{what: "the host's own address"})
	}
	if err != nil {
		relay.Reset(conn)
		return nil, err
	}
	return conn, nil
}

// allows applies the policy to a flow's address as the host sees it at this moment.
func (g *Gateway) allows(f *flow) error { return g.allowsKind(f, g.own.freshKind(f.dst.Addr())) }

func (g *Gateway) allowsKind(f *flow, kind special) error {
	if v := g.policy.Load().decide(f.from, f.Network(), f.dst, kind); !v.allowed {
		return fmt.Errorf("%w: %s", errNotAllowed, v.why())
	}
	return nil
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.IPAddr:
		addr, _ := netip.AddrFromSlice(a.IP)
		return addr.Unmap()
	}
	return netip.Addr{}
}

// accept answers the peer, unless the flow ends before.
func (g *Gateway) accept(f *flow) (net.Conn, error) {
	stop := context.AfterFunc(f.ctx, f.Drop)
	conn, err := f.Accept()
	stop() // too late means that the connection is dead, which whoever uses it is told
	if err != nil {
		f.count(func(c *counters) { c.failed.Add(1) })
		return nil, err
	}
	f.count(func(c *counters) { c.accepted.Add(1) })
	return conn, nil
}

// turnAway answers the peer as the target answered, and returns why.
func (g *Gateway) turnAway(f *flow, err error) error {
	answer := refusal(err)
	switch {
	case f.ctx.Err() != nil:
		err = context.Cause(f.ctx)
		f.count(func(c *counters) { c.failed.Add(1) })
		f.Drop()
	case errors.Is(err, errNotAllowed):
		g.deny(&f.request, err.Error)
	case answer != nil:
		f.count(func(c *counters) { c.refused.Add(1) })
		f.Refuse(answer)
	default:
		f.count(func(c *counters) { c.failed.Add(1) })
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			g.failed.log(g.log, slog.LevelWarn, "flow failed on this host", &f.request, slog.Any("error", err))
		}
		f.Drop() // as the target, or as a host that is too busy
	}
	return err
}

// refusal is what to tell the peer of an error of a socket: what the target, or a router before it, has said. nil means
// nothing.
func refusal(err error) error {
	for _, answer := range answers {
		for _, errno := range answer.errnos {
			if errors.Is(err, errno) {
				return answer.reason
			}
		}
	}
	return nil
}

type answer struct {
	reason error
	errnos []error
}
