// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// resolveEndpoints resolves the host names in endpoints, in the outer network, until all are found or ctx is done.
func (n *Net) resolveEndpoints(ctx context.Context) {
	left := n.peers.named()
	for pause := minResolvePause; len(left) > 0; pause = min(2*pause, maxResolvePause) {
		left = n.resolveRound(ctx, left)
		if len(left) == 0 {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
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
				p.endpoint.Store(&endpointState{err: err})
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
		at := netip.AddrPortFrom(addr, uint16(port))
		p.endpoint.Store(&endpointState{addr: at})
		n.tellAt(EndpointResolved, p, at, fmt.Sprintf("the endpoint of peer %s, %s, is %s", p.label(), p.Endpoint, at))
		if p.heard.Load() {
			return nil // the peer was faster, and the device knows where it is
		}
		// A handshake that failed for want of an address must not make the next one wait (Rekey-Timeout).
		p.expire()
		return n.tunnel.dev.IpcSet(uapiEndpoint(p))
	}
	return fmt.Errorf("%s has no usable address", host)
}

// resolveOuter calls the user's hook in a goroutine of its own, which ends when the hook does: a hook that calls Close
// must not wait for itself.
func (n *Net) resolveOuter(ctx context.Context, host string) ([]netip.Addr, error) {
	resolve := n.config.ResolveEndpoint
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
