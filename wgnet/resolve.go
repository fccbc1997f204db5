// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// newNetFinder makes the finder of a Net.
func newNetFinder(n *Net) *finder {
	f := newFinder()
	f.peers, f.interval = n.peers, func() time.Duration { return n.config().resolveInterval() }
	f.lookUp = n.resolveOuter
	f.quiet = func(p *peer) time.Duration { return time.Duration(n.tunnel.now() - p.initiated.Load()) }
	f.point = n.pointPeer
	f.note = n.noteEndpoint
	f.again = func(p *peer) { n.tunnel.initiateNow(p) }
	return f
}

// resolveInterval is the interval that the field means; 0 is never.
func (c *Config) resolveInterval() time.Duration {
	if c.ResolveInterval == 0 {
		return DefaultResolveInterval
	}
	return max(c.ResolveInterval, 0)
}

// currentPeer is the peer that has p's place now, or nil if it was removed or has another endpoint.
func (n *Net) currentPeer(p *peer) *peer {
	if now := n.peers().byID[p.id]; now != nil && now.Endpoint == p.Endpoint {
		return now
	}
	return nil
}

// pointPeer has the device send a peer's datagrams to an address of its name.
func (n *Net) pointPeer(p *peer, to endpointState, how pointing) {
	p = n.setEndpoint(p, to, func(p *peer) {
		if how == pointFirst && !p.heard.Load() {
			p.expire() // a handshake that failed for want of an address must not make the next one wait (Rekey-Timeout)
		}
		if err := n.tunnel.engine.Load().dev.IpcSet(uapiEndpoint(p)); err != nil {
			n.log.Warn("the device does not take an endpoint", "peer", p.label(), "endpoint", to.addr, "err", err)
		}
	})
	switch {
	case p == nil:
	case how == pointFirst:
		n.background.Go(func() { n.tunnel.greet(n.ctx, []*peer{p}) }) // cancel ends it
	case how == pointNow:
		n.tunnel.initiateNow(p)
	}
}

// noteEndpoint keeps what became of a look-up, where the device goes on sending to where it does.
func (n *Net) noteEndpoint(p *peer, e endpointState) { n.setEndpoint(p, e, func(*peer) {}) }

// setEndpoint keeps what became of a look-up, says it if it is news, and calls tell, with the peer that has p's place
// now. It returns nil if there is none any more that asks for this endpoint.
func (n *Net) setEndpoint(p *peer, e endpointState, tell func(*peer)) *peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return nil
	}
	if p = n.currentPeer(p); p == nil {
		return nil
	}
	var old endpointState
	if before := p.endpoint.Load(); before != nil {
		old = *before
	}
	p.endpoint.Store(&e)
	switch {
	case e.err != nil && old.err == nil:
		n.tellAt(EndpointUnresolved, p, e.addr, fmt.Sprintf("the endpoint of peer %s, %s, cannot be resolved, trying on: %v",
			p.label(), p.Endpoint, e.err))
	case e.err == nil && !e.next && (e.addr != old.addr || old.err != nil):
		n.tellAt(EndpointResolved, p, e.addr, fmt.Sprintf("the endpoint of peer %s, %s, is %s", p.label(), p.Endpoint, e.addr))
	}
	tell(p)
	return p
}

// resolveOuter calls the user's hook in a goroutine of its own, which ends when the hook does: a hook that calls Close
// must not wait for itself.
func (n *Net) resolveOuter(ctx context.Context, host string) ([]netip.Addr, error) {
	resolve := n.config().ResolveEndpoint
	if resolve == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	type result struct {
		addrs []netip.Addr
		err   error
	}
	// One that does not heed its context runs on, and the next try is another call.
	if n.resolving.Add(1) > maxResolving {
		n.resolving.Add(-1)
		return nil, fmt.Errorf("%d calls of Config.ResolveEndpoint have not returned: it has to, once its context is done", maxResolving)
	}
	done := make(chan result, 1)
	go func() {
		addrs, err := resolve(ctx, host)
		n.resolving.Add(-1)
		done <- result{addrs, err}
	}()
	select {
	case r := <-done:
		if r.err == nil && len(r.addrs) == 0 {
			r.err = errors.New("no address")
		}
		return r.addrs, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
