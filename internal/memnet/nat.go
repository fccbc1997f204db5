// SPDX-License-Identifier: MIT

package memnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// defaultNATTimeout is what RFC 4787 section 4.3 recommends as the least default (REQ-5).
	defaultNATTimeout = 5 * time.Minute
	firstNATPort      = 1024 // RFC 4787 section 4.2.1: not a well-known port for one that is not

	maxMappings = 4096 // of a NAT
	maxRemotes  = 1024 // of a mapping
)

// A NAT translates between inside addresses and one outside address of the same family, in the terms of RFC 4787 with
// endpoint-independent mapping (section 4.1), address and port-dependent filtering (section 5), refresh by outbound
// traffic only (section 4.3) and hairpinning with the external source address (section 6): a "port-restricted cone".
// Ports are not preserved: each new mapping gets the next port, so that the other side sees whenever a mapping is new.
//
// Between inside addresses of one NAT nothing is translated. From outside an inside address cannot be reached. All
// methods are safe for concurrent use.
type NAT struct {
	net     *Network
	outside netip.Addr
	timeout time.Duration

	mu       sync.Mutex // guards the rest
	byInside map[netip.AddrPort]*mapping
	byPort   map[uint16]*mapping
	next     uint16
}

// A mapping is an inside endpoint and the outside port that it shows.
type mapping struct {
	inside  netip.AddrPort
	port    uint16
	expires time.Duration                    // in the time of Network.now
	remotes map[netip.AddrPort]time.Duration // those that it has sent to, and until when they may answer
}

// AddNAT puts inside addresses, whether hosts have them yet or not, behind an outside address, which no host may have.
// A mapping that nothing is sent through for the timeout is forgotten; 0 means five minutes.
func (n *Network) AddNAT(outside netip.Addr, timeout time.Duration, inside ...netip.Addr) (*NAT, error) {
	setDefault(&timeout, defaultNATTimeout)
	outside = outside.Unmap()
	nat := &NAT{net: n, outside: outside, timeout: timeout}
	nat.Reset()
	nat.next = firstNATPort
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("NAT at %s: %w", outside, net.ErrClosed)
	}
	if err := n.available(outside); err != nil {
		return nil, fmt.Errorf("NAT at %s: %w", outside, err)
	}
	for _, a := range append(slices.Clone(inside), outside) {
		switch {
		case a.Unmap().Is4() != outside.Is4():
			return nil, fmt.Errorf("NAT at %s: the inside address %s is of the other family", outside, a)
		case n.inside[a.Unmap()] != nil:
			return nil, fmt.Errorf("NAT at %s: an inside address of another NAT: %w", outside, errInUse(a))
		}
	}
	for _, a := range inside {
		n.inside[a.Unmap()] = nat
	}
	n.outside[outside] = nat
	return nat, nil
}

// Reset forgets all mappings, as a NAT that restarts does. Inside endpoints get new outside ports.
func (t *NAT) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byInside = make(map[netip.AddrPort]*mapping)
	t.byPort = make(map[uint16]*mapping)
}

// Outside returns the outside address and port that an inside endpoint shows, if it has a mapping now.
func (t *NAT) Outside(inside netip.AddrPort) (netip.AddrPort, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.byInside[netip.AddrPortFrom(inside.Addr().Unmap(), inside.Port())]
	if m == nil || m.expires <= t.net.now() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(t.outside, m.port), true
}

// outbound translates the source of a datagram, and makes or refreshes the mapping. It says false if a table is full.
func (t *NAT) outbound(from, to netip.AddrPort) (netip.AddrPort, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.net.now()
	m := t.byInside[from]
	if m != nil && m.expires <= now {
		t.forget(m)
		m = nil
	}
	if m == nil {
		if m = t.mapNew(from, now); m == nil {
			return netip.AddrPortFrom(t.outside, 0), false
		}
	}
	source := netip.AddrPortFrom(t.outside, m.port)
	if _, known := m.remotes[to]; !known && len(m.remotes) >= maxRemotes {
		for remote, expires := range m.remotes {
			if expires <= now {
				delete(m.remotes, remote)
			}
		}
		if len(m.remotes) >= maxRemotes {
			return source, false
		}
	}
	m.expires = now + t.timeout
	m.remotes[to] = m.expires
	return source, true
}

// mapNew makes a mapping, or returns nil if there are too many.
func (t *NAT) mapNew(inside netip.AddrPort, now time.Duration) *mapping {
	if len(t.byInside) >= maxMappings {
		for _, m := range t.byInside {
			if m.expires <= now {
				t.forget(m)
			}
		}
		if len(t.byInside) >= maxMappings {
			return nil
		}
	}
	for t.byPort[t.next] != nil { // ends, as there are more ports than mappings
		t.advance()
	}
	m := &mapping{inside: inside, port: t.next, remotes: make(map[netip.AddrPort]time.Duration)}
	t.advance()
	t.byInside[inside], t.byPort[m.port] = m, m
	return m
}

func (t *NAT) advance() {
	if t.next++; t.next == 0 {
		t.next = firstNATPort
	}
}

func (t *NAT) forget(m *mapping) {
	delete(t.byInside, m.inside)
	delete(t.byPort, m.port)
}

// inbound finds the inside endpoint for a datagram to an outside port.
func (t *NAT) inbound(from netip.AddrPort, port uint16) (netip.AddrPort, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.byPort[port]
	if m == nil || m.remotes[from] <= t.net.now() {
		return netip.AddrPort{}, false
	}
	return m.inside, true
}
