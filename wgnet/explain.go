// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

// explainedError is an error of the stack with what the tunnel knows of its cause. The protocol is silent by design: it
// lists suspects and accuses none.
type explainedError struct {
	err     error
	because string
}

func (e *explainedError) Error() string { return e.err.Error() + ": " + e.because }
func (e *explainedError) Unwrap() error { return e.err }

// Is makes a deadline of a context a deadline of the net package's too, for what does not come from the stack.
func (e *explainedError) Is(target error) bool {
	return target == os.ErrDeadlineExceeded && errors.Is(e.err, context.DeadlineExceeded)
}

// Timeout is what the cause says, so that the error stays a net.Error's.
func (e *explainedError) Timeout() bool {
	t, ok := e.err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// explain adds to an error of a dial or a ping why it came. p is the peer that serves addr, or nil.
func (n *Net) explain(err error, p *peer, addr netip.Addr) error {
	because := n.because(err, p, addr)
	if because == "" {
		return err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		explained := *op
		explained.Err = &explainedError{op.Err, because}
		return &explained
	}
	return &explainedError{err, because}
}

func (n *Net) because(err error, p *peer, addr netip.Addr) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ENETUNREACH):
		return n.noRoute(p, addr)
	case p != nil && errors.As(err, &timeout) && timeout.Timeout():
		return n.noAnswer(p, addr)
	}
	return ""
}

func (n *Net) noRoute(p *peer, addr netip.Addr) string {
	switch {
	case addr.Is4() && !n.hasFamily(true):
		return "this host has no IPv4 address"
	case addr.Is6() && !n.hasFamily(false):
		return "this host has no IPv6 address"
	case p == nil:
		return fmt.Sprintf("no peer's AllowedIPs contain %s", addr)
	}
	return ""
}

// noAnswer says in words what is known of a peer, to someone who waits for addr, or for nobody if that is not valid.
func (n *Net) noAnswer(p *peer, addr netip.Addr) string {
	if age, ok := n.tunnel.sessionAge(p); ok {
		silent := ""
		if addr.IsValid() {
			silent = fmt.Sprintf(", %s does not answer", addr)
		}
		// One may be under way just now.
		if attempts := p.attempts.Load(); attempts > 1 {
			silent = fmt.Sprintf(", no answer to %d handshakes since", attempts) + silent
		}
		if err := p.unsent.Load(); err != nil {
			silent = fmt.Sprintf(", and now nothing can be sent to it: %v", *err)
		}
		return fmt.Sprintf("the tunnel to peer %s is up (last handshake %s ago)%s", p.label(), age.Round(time.Second), silent)
	}
	if p.confirming.Load() != nil {
		return fmt.Sprintf("peer %s began a handshake and did not take our answer: check the preshared keys, and what keeps "+
			"our packets from it", p.label())
	}
	at := p.where()
	switch e := p.endpoint.Load(); {
	case at != "":
	case p.heard.Load(): // from an address that the device knows
	case p.Endpoint == "":
		return neverHeard(p.label())
	case e == nil:
		return fmt.Sprintf("the endpoint of peer %s, %s, is not resolved yet", p.label(), p.Endpoint)
	default:
		return fmt.Sprintf("the endpoint of peer %s, %s, is not resolved: %v", p.label(), p.Endpoint, e.err)
	}
	handshakes := "1 handshake"
	switch attempts := p.attempts.Load(); attempts {
	case 0:
		if completed := p.observed.completed.Load(); completed != 0 {
			return fmt.Sprintf("no session with peer %s%s any more: the last handshake was %s ago", p.label(), at,
				time.Duration(n.tunnel.now()-completed).Round(time.Second))
		}
		return fmt.Sprintf("no session with peer %s%s yet", p.label(), at)
	case 1:
	default:
		handshakes = fmt.Sprintf("%d handshakes", attempts)
	}
	// On a long path, greetings have been repeated before the answers come, and only the last answer can be read.
	if p.observed.unreadable.Load() > uint32(len(greetings)) {
		return fmt.Sprintf("peer %s%s answered our handshake, or somebody in its place, and not with what we can read: "+
			"check that both sides have the same preshared key, or none", p.label(), at)
	}
	if err := p.unsent.Load(); err != nil {
		return fmt.Sprintf("our handshakes to peer %s%s cannot be sent: %v", p.label(), at, *err)
	}
	if problem := n.keeper.clock.problem(); problem != "" {
		return fmt.Sprintf("no answer from peer %s%s to %s: %s", p.label(), at, handshakes, problem)
	}
	unresolved := ""
	if e := p.endpoint.Load(); e != nil && e.err != nil {
		unresolved = fmt.Sprintf("; looking its name up again has failed: %v", e.err)
	}
	return fmt.Sprintf("no answer from peer %s%s to %s: check its address and port, both sides' keys, firewalls and clocks%s",
		p.label(), at, handshakes, unresolved)
}

// where is the peer's endpoint, for a text: " at " and its address, after the name that it was found by, or nothing.
func (p *peer) where() string {
	addr, ok := p.inUse()
	e := p.endpoint.Load()
	if !ok && e != nil {
		addr = e.addr
	}
	if !addr.IsValid() {
		return ""
	}
	if _, err := netip.ParseAddrPort(p.Endpoint); err != nil && p.Endpoint != "" {
		tried := ""
		if e != nil && e.tried > 1 && p.attempts.Load() > 0 {
			tried = fmt.Sprintf(", the last of %d addresses tried", e.tried)
		}
		return fmt.Sprintf(" at %s (%s%s)", p.Endpoint, addr, tried)
	}
	if slices.Contains(p.AllowedIPs, netip.PrefixFrom(addr.Addr(), addr.Addr().BitLen())) {
		// It may be right, where the outer network has the same addresses. More often the two were mixed up.
		return fmt.Sprintf(" at %s, an address inside of the tunnel,", addr)
	}
	return " at " + addr.String()
}
