// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

const (
	// roundPause is the least time from one round of the observer to the next.
	roundPause = 5 * time.Millisecond
	// roundShare bounds the observer's share of one CPU, however much there is to see: one part of so many.
	roundShare = 20
)

// observed is what is known of a peer for its status and its events.
type observed struct {
	// Packets inside the tunnel, keepalives not counted.
	packetsReceived, packetsSent atomic.Uint64
	keepalives                   atomic.Uint64 // received
	// disallowed are the peer's packets that came from an address that is not in its AllowedIPs.
	disallowed atomic.Uint64
	// completed is when the last handshake did, in the tunnel's time; 0 means never. Unlike session it is never taken back.
	completed atomic.Int64
	// began is set by a new session and taken back by the observer.
	began atomic.Bool
	// abandoned is set when the device has given a handshake up, and told when the observer has said so.
	abandoned, told atomic.Bool
	// unreadable counts the answers from the peer's endpoint that we could not read, since the last handshake that completed.
	unreadable atomic.Uint32

	// endpoint is where the device sends to, when it was last asked. The observer alone stores it.
	endpoint atomic.Pointer[netip.AddrPort]
	// up says that the last event was PeerUp. It is the observer's own.
	up bool
}

// inUse is where the device sends to. It reports false when that is not known yet.
func (p *peer) inUse() (netip.AddrPort, bool) {
	if e := p.observed.endpoint.Load(); e != nil {
		return *e, true
	}
	return netip.AddrPort{}, false
}

// observer makes events of what the device's callbacks have noted, in a goroutine of its own. It looks at all peers in a
// round, and rounds are rare: what strangers can cause to be looked at costs a bounded share of the machine.
type observer struct {
	net  *Net
	news chan struct{} // holds one token when a callback has noted something
	// moved holds one token when datagrams have begun to go to some endpoint.
	moved chan struct{}
	// unread holds the source of a handshake response that the device could not read.
	unread chan string
	peers  *peerTable // of the last round
}

func newObserver(n *Net) *observer {
	return &observer{net: n, news: make(chan struct{}, 1), moved: make(chan struct{}, 1), unread: make(chan string, 1)}
}

func (o *observer) notice() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

func (o *observer) noticeMove() {
	select {
	case o.moved <- struct{}{}:
	default:
	}
}

func (o *observer) noticeUnread(from string) {
	select {
	case o.unread <- from:
	default: // the device tells of it again with the next handshake
	}
}

// run ends when ctx is done.
func (o *observer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var unread string
		select {
		case <-ctx.Done():
			return
		case <-o.news:
		case <-o.moved:
			o.noticeMove() // for the round
		case unread = <-o.unread:
		case <-timer.C:
		}
		begin := time.Now()
		next := o.round(unread)
		pause := time.NewTimer(max(roundPause, roundShare*time.Since(begin)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		timer.Reset(next)
	}
}

// round looks at all peers and returns when to look again if nothing is noticed before.
func (o *observer) round(unread string) (next time.Duration) {
	peers := o.net.peers()
	if old := o.peers; old != nil && old != peers {
		for _, p := range old.all {
			if p.observed.up && peers.byID[p.id] == nil {
				p.observed.up = false
				o.net.tell(PeerDown, p, fmt.Sprintf("peer %s was removed", p.label()))
			}
		}
	}
	o.peers = peers
	select {
	case <-o.moved:
		o.findMoves()
	default:
	}
	from, err := netip.ParseAddrPort(unread)
	next = time.Hour
	for _, p := range peers.all {
		if err == nil && p.attempts.Load() > 0 {
			if at, ok := p.inUse(); ok && at == from {
				p.observed.unreadable.Add(1)
			}
		}
		next = min(next, o.look(p))
	}
	return next
}

// look tells of a peer's ups and downs, and returns when the next may come by the clock alone.
func (o *observer) look(p *peer) (next time.Duration) {
	const never = time.Hour
	n, seen := o.net, &p.observed
	if seen.began.Swap(false) && !seen.up {
		seen.up = true
		n.tell(PeerUp, p, fmt.Sprintf("peer %s is up%s", p.label(), p.where()))
	}
	if seen.abandoned.Load() && !seen.told.Swap(true) {
		n.tell(HandshakeFailed, p, n.noAnswer(p, netip.Addr{}))
	}
	if !seen.up || p.removed.Load() { // the round with the table that it is not in tells of a removal
		return never
	}
	if age, ok := n.tunnel.sessionAge(p); ok {
		return device.RejectAfterTime - age
	}
	if n.tunnel.state(p) == SessionConnecting && p.attempts.Load() <= 1 {
		return time.Second // the session is being replaced
	}
	seen.up = false
	n.tell(PeerDown, p, n.noAnswer(p, netip.Addr{}))
	return never
}

// findMoves asks the device where it sends to.
func (o *observer) findMoves() {
	n := o.net
	moved := false
	n.tunnel.measure(func(p *peer, m measurement) {
		if !m.endpoint.IsValid() {
			return
		}
		old, known := p.inUse()
		if old == m.endpoint {
			return
		}
		p.observed.endpoint.Store(&m.endpoint)
		moved = true
		switch {
		case known && m.endpoint == p.resolved():
			n.tell(EndpointChanged, p, fmt.Sprintf("peer %s is looked for at %s, and was at %s", p.label(), m.endpoint, old))
		case known:
			n.tell(EndpointChanged, p, fmt.Sprintf("peer %s has moved from %s to %s", p.label(), old, m.endpoint))
		case p.observed.up:
			n.tell(EndpointChanged, p, fmt.Sprintf("peer %s is at %s", p.label(), m.endpoint))
		}
	})
	if moved {
		n.sockets.AnnounceAgain() // what is left by one may be what the next one moves to
	}
}

// tell publishes an event of the observer's, and logs it.
func (n *Net) tell(kind EventKind, p *peer, text string) {
	endpoint, _ := p.inUse()
	n.tellAt(kind, p, endpoint, text)
}

func (n *Net) tellAt(kind EventKind, p *peer, endpoint netip.AddrPort, text string) {
	n.events.publish(Event{
		Time: time.Now(), Kind: kind, Peer: p.Name, PublicKey: p.PublicKey, Endpoint: endpoint, Text: text,
	})
	attrs := p.logAttrs()
	if endpoint.IsValid() {
		attrs = append(attrs, slog.String("endpoint", endpoint.String()))
	}
	level := slog.LevelInfo
	if kind == EndpointUnresolved {
		level = slog.LevelWarn
	}
	n.log.LogAttrs(context.Background(), level, kind.String(), append(attrs, slog.String("text", text))...)
}
