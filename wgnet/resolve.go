// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// maxResolving bounds the endpoint names that are looked up at the same time.
	maxResolving = 16
	// resolveTimeout bounds one look-up.
	resolveTimeout = 10 * time.Second
	// minResolvePause and maxResolvePause bound the back-off between tries.
	minResolvePause = time.Second
	maxResolvePause = time.Minute
)

// resolveEndpoints resolves the host names in the endpoints of peers, in the outer network, until all are found, are not
// asked for any more, or ctx is done.
func (n *Net) resolveEndpoints(ctx context.Context, left []*peer) {
	for pause := minResolvePause; len(left) > 0; pause = min(2*pause, maxResolvePause) {
		left = n.resolveRound(ctx, left)
		if !n.pauseResolving(ctx, left, pause) {
			return
		}
	}
}

// pauseResolving waits, and reports false when there is nothing left to wait for.
func (n *Net) pauseResolving(ctx context.Context, left []*peer, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		changed := n.tunnel.changes()
		if !slices.ContainsFunc(left, func(p *peer) bool { return n.currentPeer(p) != nil }) {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// currentPeer is the peer that has p's place now, or nil if it was removed or has another endpoint.
func (n *Net) currentPeer(p *peer) *peer {
	if now := n.peers().byID[p.id]; now != nil && now.Endpoint == p.Endpoint {
		return now
	}
	return nil
}

// resolveRound tries each of the peers once and returns those that are left.
func (n *Net) resolveRound(ctx context.Context, peers []*peer) (left []*peer) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards left
		slot = make(chan struct{}, maxResolving)
	)
	for _, p := range peers {
		slot <- struct{}{} // free again within resolveTimeout
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() { // ctx ends it
			err := n.resolveEndpoint(ctx, p)
			<-slot
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				if !n.setEndpoint(p, &endpointState{err: err}) {
					return
				}
				n.log.Warn("endpoint not resolved", "peer", p.label(), "endpoint", p.Endpoint, "err", err)
				mu.Lock()
				defer mu.Unlock()
				left = append(left, p)
				return
			}
			n.tunnel.greet(ctx, []*peer{p})
		})
	}
	wg.Wait()
	return left
}

func (n *Net) resolveEndpoint(ctx context.Context, p *peer) error {
	host, service, err := net.SplitHostPort(p.Endpoint)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := n.resolveOuter(ctx, host)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
			continue
		}
		n.setEndpoint(p, &endpointState{addr: netip.AddrPortFrom(addr, uint16(port))})
		return nil
	}
	return fmt.Errorf("%s has no usable address", host)
}

// setEndpoint notes what became of a look-up, and tells the device. It reports false if nobody asks for it any more.
func (n *Net) setEndpoint(p *peer, e *endpointState) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return false
	}
	if p = n.currentPeer(p); p == nil {
		return false
	}
	p.endpoint.Store(e)
	if e.addr.IsValid() {
		n.tellAt(EndpointResolved, p, e.addr, fmt.Sprintf("the endpoint of peer %s, %s, is %s", p.label(), p.Endpoint, e.addr))
	}
	// A peer that was faster, the device knows where to find, unless it is to be looked for elsewhere now.
	if !e.addr.IsValid() || p.heard.Load() && !p.redirected {
		return true
	}
	if !p.heard.Load() {
		p.expire() // a handshake that failed for want of an address must not make the next one wait (Rekey-Timeout)
	}
	if err := n.tunnel.engine.Load().dev.IpcSet(uapiEndpoint(p)); err != nil {
		n.log.Warn("the device does not take an endpoint", "peer", p.label(), "endpoint", e.addr, "err", err)
	}
	return true
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
	done := make(chan result, 1)
	go func() {
		addrs, err := resolve(ctx, host)
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
