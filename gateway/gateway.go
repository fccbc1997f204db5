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
	defaultMaxPeerDials  = 256
	defaultDialTimeout   = 30 * time.Second
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
	// those of the peer that has most. Established TCP connections go last. 0 means 8,192. A wgnet.Net has 16,384 flows
	// at most: more than that here changes nothing.
	MaxFlows int

	// MaxPeerFlows bounds the flows of one peer, whose flows are evicted by its own in the same way. A flow in which
	// something has moved in the last half second keeps its place from those of its own peer: then the new one is
	// dropped. 0 means 2,048. A wgnet.Net has 4,096 flows of a peer at most.
	MaxPeerFlows int

	// MaxPeerDials bounds those among the flows of one peer that are TCP connections without the target's answer. Past
	// it a new one takes the place of the oldest of them, in the same way. 0 means 256. A wgnet.Net has 512
	// undecided flows of a peer at most, and 4,096 in all.
	MaxPeerDials int

	// DialTimeout is how long a target may take to answer a TCP connection. 0 means 30 seconds. A wgnet.Net ends a
	// flow that has waited for its answer for 60 seconds: a longer time here changes nothing.
	DialTimeout time.Duration

	// TCPIdleTimeout ends an established connection on which nothing has moved. 0 means 2 hours and 4 minutes, the
	// least that RFC 5382 allows.
	TCPIdleTimeout time.Duration

	// TCPTransitoryTimeout ends a connection on which nothing has moved and that one side has closed already. 0
	// means 4 minutes, the least that RFC 5382 allows.
	TCPTransitoryTimeout time.Duration

	// PingIdleTimeout ends a series of pings without a request. 0 means a minute, the least that RFC 5508 allows.
	PingIdleTimeout time.Duration

	// UDPIdleTimeout ends a UDP flow in which nothing has moved. 0 means 5 minutes, what RFC 4787 recommends; it
	// allows no less than 2.
	UDPIdleTimeout time.Duration

	// RawPing lets pings go out by a raw socket, which takes root or CAP_NET_RAW on Linux and an administrator elsewhere,
	// where the host gives no other one for them. Without, they are refused there.
	RawPing bool

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
	// pingers are for IPv4 and IPv6.
	pingers [2]pinger

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
		{"MaxPeerDials", int64(cfg.MaxPeerDials)},
		{"DialTimeout", int64(cfg.DialTimeout)},
		{"TCPIdleTimeout", int64(cfg.TCPIdleTimeout)},
		{"TCPTransitoryTimeout", int64(cfg.TCPTransitoryTimeout)},
		{"UDPIdleTimeout", int64(cfg.UDPIdleTimeout)},
		{"PingIdleTimeout", int64(cfg.PingIdleTimeout)},
	} {
		if n.value < 0 {
			return nil, fmt.Errorf("gateway: %s is negative: want 0 for the default, or more", n.name)
		}
	}
	cfg.Rules = nil
	cfg.MaxFlows = cmp.Or(cfg.MaxFlows, defaultMaxFlows)
	cfg.MaxPeerFlows = cmp.Or(cfg.MaxPeerFlows, defaultMaxPeerFlows)
	cfg.MaxPeerDials = cmp.Or(cfg.MaxPeerDials, defaultMaxPeerDials)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, defaultDialTimeout)
	cfg.TCPIdleTimeout = cmp.Or(cfg.TCPIdleTimeout, defaultTCPIdle)
	cfg.TCPTransitoryTimeout = cmp.Or(cfg.TCPTransitoryTimeout, defaultTCPTransitory)
	cfg.UDPIdleTimeout = cmp.Or(cfg.UDPIdleTimeout, defaultUDPIdle)
	cfg.PingIdleTimeout = cmp.Or(cfg.PingIdleTimeout, defaultPingIdle)
	g := &Gateway{cfg: cfg, log: cfg.Logger, own: ownAddrs{interfaces: net.InterfaceAddrs, route: routeKind}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.policy.Store(p)
	g.table = table{
		most: cfg.MaxFlows, mostOfPeer: cfg.MaxPeerFlows, mostDials: cfg.MaxPeerDials,
		start: time.Now(), peers: map[string]*peer{},
	}
	g.pingers[0].init(g, false)
	g.pingers[1].init(g, true)
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
		if v := g.verdict(&f.request); !v.allowed {
			f.end(errDenied)
		}
	}
	return nil
}

// Serve decides on a flow and carries it. It returns when the flow has ended.
func (g *Gateway) Serve(f Flow) {
	r := request{Flow: f, from: source{name: f.PeerName(), id: f.PeerID()}}
	if r.peer = g.table.enter(r.from); r.peer == nil {
		f.Drop()
		return
	}
	defer g.table.leave(r.peer)
	r.dst = f.Destination()
	r.dst = netip.AddrPortFrom(r.dst.Addr().Unmap(), r.dst.Port())
	if v := g.verdict(&r); !v.allowed {
		g.deny(&r, v.why)
		return
	}
	var idle time.Duration
	var at stage
	var carry func(*flow) error
	switch network := f.Network(); {
	case f.ToPeer():
		carry, at = g.forward, hub
	case network == networkTCP:
		carry, at, idle = g.serveTCP, dialing, g.cfg.DialTimeout
	case network == networkUDP:
		carry, at, idle = g.serveUDP, brief, g.cfg.UDPIdleTimeout
	case network == networkPing:
		carry, at, idle = g.servePing, brief, g.cfg.PingIdleTimeout
	default:
		f.Drop()
		return
	}
	fl := g.table.add(r, at, idle)
	if fl == nil {
		r.count(func(c *counters) { c.capped.Add(1) })
		g.capped.log(g.log, slog.LevelInfo, "flow dropped: too many are open", &r)
		f.Drop()
		return
	}
	defer g.table.remove(fl)
	if v := g.verdict(&r); !v.allowed { // the rules may have changed before the flow had its place
		g.deny(&r, v.why)
		return
	}
	err := carry(fl)
	if g.log.Enabled(context.Background(), slog.LevelDebug) {
		g.log.LogAttrs(context.Background(), slog.LevelDebug, "flow ended",
			append(r.attrs(), slog.Duration("after", g.table.now()-fl.began), slog.Any("cause", err))...)
	}
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
// dropped. A second Close does nothing more. Control and the Logger's handler may not call it, since Serve calls them.
func (g *Gateway) Close() error {
	g.table.close()
	for _, f := range g.table.flows() {
		f.end(errClosed)
	}
	g.table.serving.Wait()
	for i := range g.pingers {
		g.pingers[i].close()
	}
	return nil
}

// verdict applies the policy of this moment.
func (g *Gateway) verdict(r *request) verdict {
	kind := staticKind(r.dst.Addr()) // to a peer, no socket of the host has a part in it
	if !r.ToPeer() {
		kind = g.own.kind(r.dst.Addr())
	}
	return g.policy.Load().decide(r.from, r.Network(), r.dst, kind)
}

func (g *Gateway) deny(r *request, why func() string) {
	r.count(func(c *counters) { c.denied.Add(1) })
	g.denied.log(g.log, slog.LevelInfo, "flow denied", r, slog.Any("reason", reason(why)))
	r.Refuse(syscall.EACCES)
}

// forward leaves a flow between two peers to the tunnel, and ends it there when the rules have changed. It returns why
// the flow ended.
func (g *Gateway) forward(f *flow) error {
	stop := context.AfterFunc(f.ctx, f.Drop) // which does nothing if the tunnel itself has ended it
	defer stop()
	if err := f.Forward(); err != nil {
		return g.turnAway(f, err)
	}
	f.count(func(c *counters) { c.forwarded.Add(1) })
	<-f.ctx.Done()
	f.Drop() // stop may come before the one that waits for the same event
	return context.Cause(f.ctx)
}
