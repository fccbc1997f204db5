// SPDX-License-Identifier: MIT

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// The defaults of [Config].
const (
	defaultMaxFlows      = 8192
	defaultMaxPeerFlows  = 2048
	defaultDialTimeout   = time.Minute
	defaultTCPIdle       = 2*time.Hour + 4*time.Minute // RFC 5382, REQ-5
	defaultTCPTransitory = 4 * time.Minute             // RFC 5382, REQ-5
	defaultUDPIdle       = 5 * time.Minute             // RFC 4787, REQ-5
	defaultPingIdle      = time.Minute                 // RFC 5508, REQ-2
)

// Config says what a gateway lets through. The zero value lets nothing through.
type Config struct {
	// Rules are the policy: the first that matches a flow decides, and what none matches is denied.
	Rules []Rule

	// MaxFlows bounds the flows that are open at a time, in all. Each but ping takes a socket: stay below the limit
	// of open files. When it is reached, a new flow takes the place of the one that has been idle for longest among
	// those of the peer that has most. Established TCP connections go last. 0 means 8,192.
	MaxFlows int

	// MaxPeerFlows bounds the flows of one peer, whose flows are evicted by its own in the same way. A flow in which
	// something has moved in the last half second keeps its place from those of its own peer: then the new one is
	// dropped. 0 means 2,048.
	MaxPeerFlows int

	// DialTimeout is how long a target may take to answer a TCP connection. 0 means a minute.
	DialTimeout time.Duration

	// TCPIdleTimeout ends an established connection on which nothing has moved. 0 means 2 hours and 4 minutes, the
	// least that RFC 5382 allows.
	TCPIdleTimeout time.Duration

	// TCPTransitoryTimeout ends a connection on which nothing has moved and that one side has closed already. 0
	// means 4 minutes, the least that RFC 5382 allows.
	TCPTransitoryTimeout time.Duration

	// UDPIdleTimeout ends a UDP flow in which nothing has moved. 0 means 5 minutes, what RFC 4787 recommends; it
	// allows no less than 2.
	UDPIdleTimeout time.Duration

	// Control is called for each socket to the outside before it is bound or connected, as the field of the same name
	// in [net.Dialer]: to bind it to an interface, say. An error keeps it from being used. nil does nothing.
	Control func(network, address string, c syscall.RawConn) error

	// Logger gets what is denied at level Info and what fails on this host at level Warn, a line a second at most of
	// each kind, and each flow's end at level Debug. nil discards.
	Logger *slog.Logger
}

// A Gateway carries flows from the tunnel to the networks of the host, or to other peers. Its methods are safe for
// concurrent use.
type Gateway struct {
	cfg    Config
	log    *slog.Logger
	policy atomic.Pointer[policy]
	own    ownAddrs
	table  table

	denied, capped, failed limitedLog
}

// New checks the rules and returns a gateway that serves flows until Close.
func New(cfg Config) (*Gateway, error) {
	p, err := newPolicy(cfg.Rules)
	if err != nil {
		return nil, err
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"MaxFlows", int64(cfg.MaxFlows)},
		{"MaxPeerFlows", int64(cfg.MaxPeerFlows)},
		{"DialTimeout", int64(cfg.DialTimeout)},
		{"TCPIdleTimeout", int64(cfg.TCPIdleTimeout)},
		{"TCPTransitoryTimeout", int64(cfg.TCPTransitoryTimeout)},
		{"UDPIdleTimeout", int64(cfg.UDPIdleTimeout)},
	} {
		if n.value < 0 {
			return nil, fmt.Errorf("gateway: %s is negative: want 0 for the default, or more", n.name)
		}
	}
	cfg.Rules = nil
	cfg.MaxFlows = cmp.Or(cfg.MaxFlows, defaultMaxFlows)
	cfg.MaxPeerFlows = cmp.Or(cfg.MaxPeerFlows, defaultMaxPeerFlows)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, defaultDialTimeout)
	cfg.TCPIdleTimeout = cmp.Or(cfg.TCPIdleTimeout, defaultTCPIdle)
	cfg.TCPTransitoryTimeout = cmp.Or(cfg.TCPTransitoryTimeout, defaultTCPTransitory)
	cfg.UDPIdleTimeout = cmp.Or(cfg.UDPIdleTimeout, defaultUDPIdle)
	g := &Gateway{cfg: cfg, log: cfg.Logger, own: ownAddrs{interfaces: net.InterfaceAddrs}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.policy.Store(p)
	g.table = table{
		most: cfg.MaxFlows, mostOfPeer: cfg.MaxPeerFlows, start: time.Now(), peers: map[string]*peer{},
	}
	return g, nil
}

// SetRules replaces the rules. Flows that the new ones do not allow are ended. On an error nothing has changed.
func (g *Gateway) SetRules(rules []Rule) error {
	p, err := newPolicy(rules)
	if err != nil {
		return err
	}
	g.policy.Store(p)
	// Serve looks at the policy again after its flow has got a place, so each flow is seen here or there.
	for _, f := range g.table.flows() {
		if !g.allows(f) {
			f.end(errDenied)
		}
	}
	return nil
}

// Serve decides on a flow and carries it. It returns when the flow has ended.
func (g *Gateway) Serve(f Flow) {
	from := source{name: f.PeerName(), id: f.PeerID()}
	p := g.table.enter(from)
	if p == nil {
		f.Drop()
		return
	}
	defer g.table.leave(p)

	dst := f.Destination()
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	toPeer := f.ToPeer()
	kind := staticKind(dst.Addr()) // to a peer, no socket of the host has a part in it
	if !toPeer {
		kind = g.own.kind(dst.Addr())
	}
	if v := g.policy.Load().decide(from, f.Network(), dst, kind); !v.allowed {
		g.deny(p, f, dst, v.why)
		return
	}
	if toPeer {
		g.forward(p, f, dst)
		return
	}
	idle := g.cfg.DialTimeout
	fl := g.table.add(p, f, dst, idle)
	if fl == nil {
		g.count(p, func(c *counters) { c.capped.Add(1) })
		g.capped.log(g.log, slog.LevelInfo, "flow dropped: too many are open", flowAttrs(p, f, dst)...)
		f.Drop()
		return
	}
	defer g.table.remove(fl)
	if !g.allows(fl) { // the rules may have changed
		g.deny(p, f, dst, errDenied.Error())
		return
	}
	var err error
	switch f.Network() {
	case networkTCP:
		err = g.serveTCP(fl)
	default:
		err = fmt.Errorf("network %q: want tcp, udp or ping", f.Network())
		f.Drop()
	}
	g.log.LogAttrs(context.Background(), slog.LevelDebug, "flow ended", append(flowAttrs(p, f, dst),
		slog.Duration("after", g.table.now()-fl.began), slog.Any("cause", err))...)
}

// Shutdown turns new flows away and waits until those that are open have ended, or until ctx is done: then it ends them,
// and returns the cause of ctx.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.table.close()
	done := make(chan struct{})
	go func() { // ends when Serve has returned everywhere, which Close sees to
		g.table.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
		return g.Close()
	case <-ctx.Done():
		err := g.Close()
		<-done
		return errors.Join(context.Cause(ctx), err)
	}
}

// Close ends all flows, TCP connections with a reset, and returns when nothing of them is left. Flows that come later are
// dropped. A second Close does nothing.
func (g *Gateway) Close() error {
	g.table.close()
	for _, f := range g.table.flows() {
		f.end(errClosed)
	}
	g.table.serving.Wait()
	return nil
}

// allows applies the policy of this moment to a flow.
func (g *Gateway) allows(f *flow) bool {
	v := g.policy.Load().decide(f.peer.source, f.Network(), f.dst, g.own.kind(f.dst.Addr()))
	return v.allowed
}

func (g *Gateway) deny(p *peer, f Flow, dst netip.AddrPort, why string) {
	g.count(p, func(c *counters) { c.denied.Add(1) })
	g.denied.log(g.log, slog.LevelInfo, "flow denied", append(flowAttrs(p, f, dst), slog.String("reason", why))...)
	f.Refuse(syscall.EACCES)
}

// forward leaves a flow between two peers to the tunnel.
func (g *Gateway) forward(p *peer, f Flow, dst netip.AddrPort) {
	if err := f.Forward(); err != nil {
		g.count(p, func(c *counters) { c.failed.Add(1) })
		g.failed.log(g.log, slog.LevelWarn, "flow not forwarded", append(flowAttrs(p, f, dst), slog.Any("error", err))...)
		f.Drop()
		return
	}
	g.count(p, func(c *counters) { c.forwarded.Add(1) })
}

func flowAttrs(p *peer, f Flow, dst netip.AddrPort) []slog.Attr {
	return []slog.Attr{
		slog.String("peer", p.String()), slog.String("network", f.Network()),
		slog.Any("source", f.Source()), slog.Any("destination", dst),
	}
}
