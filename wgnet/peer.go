// SPDX-License-Identifier: MIT

package wgnet

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/wgnet/netstack"
	"golang.zx2c4.com/wireguard/device"
)

// peer is a configured peer: its config, which never changes, and what is known of it. A new config for the same key
// makes another peer, which shares the link and takes the old one's place in the table.
type peer struct {
	PeerConfig
	*link

	// endpoint is where the device sends the first handshake to, or why that is not known: see endpointState.
	endpoint atomic.Pointer[endpointState]
	// redirected says that Endpoint takes the place of another, or of one that the device has learned.
	redirected bool
}

// link is what is known of the sessions with a peer, from when it is added until it is removed. The fields that the
// device's log moves are atomics: its callbacks come with the device's locks held.
type link struct {
	id      netstack.PeerID
	dev     atomic.Pointer[device.Peer] // nil before the device is configured and after its end
	removed atomic.Bool

	// Times are those of tunnel.now; 0 means never.
	initiated atomic.Int64 // the last handshake initiation of ours
	asked     atomic.Int64 // the last one of the peer's
	handshake atomic.Int64 // our last initiation or response, from which the device counts Rekey-Timeout
	session   atomic.Int64 // the last handshake that completed
	// rtt is how long that handshake took: a round trip, in nanoseconds.
	rtt atomic.Int64
	// attempts are our initiations since the last handshake that completed.
	attempts atomic.Uint32
	// heard is set once an initiation or an answer of the peer was authenticated. The device knows an endpoint then.
	heard atomic.Bool
	// confirming is there between the peer's initiation, which we answered, and its first packet under the new keys.
	confirming atomic.Pointer[confirmation]
	// renewed is set by a new session and taken back by tunnel.renew.
	renewed atomic.Bool

	// lost is set when the peer was silent in a session, or begins another one: what waits for its answers has to be
	// sent again in the next.
	lost atomic.Bool

	// unsent is why the last initiation of ours did not leave this host, or nil.
	unsent atomic.Pointer[error]
	mu     sync.Mutex // guards void, and orders what the stack is told of session
	void   int64      // handshakes that began until then are over, whatever the device has said of them

	observed observed
}

// endpointState is an endpoint as far as it has been resolved.
type endpointState struct {
	addr  netip.AddrPort // not valid until resolved
	err   error          // of the last look-up, or nil
	next  bool           // it is tried because the peer did not answer at another address of its name
	tried int            // how many were tried since the peer last answered
}

// resolved is where Endpoint leads, as far as that is known.
func (p *peer) resolved() netip.AddrPort {
	if e := p.endpoint.Load(); e != nil {
		return e.addr
	}
	return netip.AddrPort{}
}

// sent counts what has come from the peer in its sessions, but for packets that it may not send.
func (p *peer) sent() uint64 { return p.observed.packetsReceived.Load() + p.observed.keepalives.Load() }

// expire lifts the wait between two initiations (Rekey-Timeout). The device forgets the keys that it sends with, so
// packets wait for the next session.
func (p *peer) expire() {
	if dev := p.dev.Load(); dev != nil {
		dev.ExpireCurrentKeypairs()
	}
}

// reached notes that something has come from the peer: what kept us from sending to it is over.
func (p *peer) reached() {
	if p.unsent.Load() != nil {
		p.unsent.Store(nil)
	}
}

// sameAs says whether two configs of a peer are one and the same.
func (p *PeerConfig) sameAs(q *PeerConfig) bool {
	return p.Name == q.Name && p.PublicKey == q.PublicKey && p.PresharedKey == q.PresharedKey && p.Endpoint == q.Endpoint &&
		p.PersistentKeepalive == q.PersistentKeepalive && p.PinEndpoint == q.PinEndpoint && slices.Equal(p.AllowedIPs, q.AllowedIPs)
}

// reachable says whether the device knows an address to send a handshake to.
func (p *peer) reachable() bool {
	return p.heard.Load() && !p.PinEndpoint || p.resolved().IsValid()
}

// peerTable are the peers, found in each way that they are asked for. It is immutable.
type peerTable struct {
	all    []*peer // in the order of the config
	byID   map[netstack.PeerID]*peer
	byKey  map[PublicKey]*peer
	byName map[string]*peer // in lower case
	next   netstack.PeerID  // IDs are never used again: a packet that waits may still carry one
}

// newPeerTable makes the table that follows old, which is nil for the first one. Peers whose config is as it was are the
// same in both.
func newPeerTable(configs []PeerConfig, old *peerTable) *peerTable {
	if old == nil {
		old = &peerTable{}
	}
	t := &peerTable{
		all:   make([]*peer, 0, len(configs)),
		byID:  make(map[netstack.PeerID]*peer, len(configs)),
		byKey: make(map[PublicKey]*peer, len(configs)), byName: map[string]*peer{},
		next: old.next,
	}
	for i := range configs {
		config := &configs[i]
		p := old.byKey[config.PublicKey]
		if p == nil {
			p = newPeer(config, &link{id: t.next})
			t.next++
		} else if !p.sameAs(config) {
			p = p.follow(config)
		}
		t.all = append(t.all, p)
		t.byID[p.id] = p
		t.byKey[p.PublicKey] = p
		if p.Name != "" {
			t.byName[strings.ToLower(p.Name)] = p
		}
	}
	return t
}

func newPeer(config *PeerConfig, l *link) *peer {
	p := &peer{PeerConfig: *config, link: l}
	if addr, err := netip.ParseAddrPort(config.Endpoint); err == nil {
		p.endpoint.Store(&endpointState{addr: addr})
	}
	return p
}

// follow makes the peer that takes p's place.
func (p *peer) follow(config *PeerConfig) *peer {
	q := newPeer(config, p.link)
	q.redirected = q.Endpoint != "" && (p.redirected || q.Endpoint != p.Endpoint)
	if q.Endpoint == p.Endpoint {
		q.endpoint.Store(p.endpoint.Load())
	}
	return q
}

// routes are the peers' allowed IPs.
func (t *peerTable) routes() []netstack.Route {
	var routes []netstack.Route
	for _, p := range t.all {
		for _, prefix := range p.AllowedIPs {
			routes = append(routes, netstack.Route{Prefix: prefix, Peer: p.id})
		}
	}
	return routes
}

// literal are the peers whose endpoint is an address.
func literal(peers []*peer) []*peer {
	return slices.DeleteFunc(slices.Clone(peers), func(p *peer) bool { return p.endpoint.Load() == nil })
}

// lookup finds a peer by the name that a user wrote, whatever its letter case and with or without a final dot.
func (t *peerTable) lookup(name string) *peer {
	return t.byName[strings.ToLower(strings.TrimSuffix(name, "."))]
}

// hostAddrs are the addresses that are the peer's alone: its allowed IPs of full length.
func (p *peer) hostAddrs() []netip.Addr {
	var addrs []netip.Addr
	for _, prefix := range p.AllowedIPs {
		if prefix.IsSingleIP() {
			addrs = append(addrs, prefix.Addr())
		}
	}
	return addrs
}
