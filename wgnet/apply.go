// SPDX-License-Identifier: MIT

package wgnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"example.com/wgnet/internal/outer"
	"golang.zx2c4.com/wireguard/device"
)

// AddPeer adds a peer, as if it had been in the config all along: a handshake with it begins at once if it has an
// endpoint. It takes a copy of p. The error is that of [Config.Validate] for the config with the new peer, which says
// what is wrong with it and to whom a name or a prefix belongs already; or [net.ErrClosed]. Nothing has changed then.
//
// All peers are looked at in each call, which takes milliseconds with 10,000 of them: many at once are for [Net.Apply].
// AddPeer, UpdatePeer, RemovePeer and Apply may be called at any moment and from any goroutine but a handler of
// [Config.Logger]; they take effect one after the other.
func (n *Net) AddPeer(p PeerConfig) error {
	return n.changePeers("AddPeer", func(peers []PeerConfig) ([]PeerConfig, error) {
		if slices.ContainsFunc(peers, func(q PeerConfig) bool { return q.PublicKey == p.PublicKey }) {
			return nil, fmt.Errorf("there is a peer with the public key %s already: UpdatePeer changes it", p.PublicKey)
		}
		return append(peers, p.clone()), nil
	})
}

// UpdatePeer replaces all that is configured of the peer with p's public key. Sessions and connections live on, unless
// the change is about them: connections to addresses that are not the peer's any more are reset; another preshared key
// ends the sessions at once, in both directions, and a new handshake begins. With another Endpoint the peer is looked
// for there; with the same one, or none, it stays where it was last heard. Errors are those of AddPeer, or that no peer
// has that key.
func (n *Net) UpdatePeer(p PeerConfig) error {
	return n.changePeers("UpdatePeer", func(peers []PeerConfig) ([]PeerConfig, error) {
		i, err := indexOfPeer(peers, p.PublicKey)
		if err != nil {
			return nil, err
		}
		peers[i] = p.clone()
		return peers, nil
	})
}

// RemovePeer removes a peer: its sessions end at once, connections to it are reset, what waits for it fails. The error is
// that no peer has that key, or [net.ErrClosed].
func (n *Net) RemovePeer(key PublicKey) error {
	return n.changePeers("RemovePeer", func(peers []PeerConfig) ([]PeerConfig, error) {
		i, err := indexOfPeer(peers, key)
		if err != nil {
			return nil, err
		}
		return slices.Delete(peers, i, i+1), nil
	})
}

func indexOfPeer(peers []PeerConfig, key PublicKey) (int, error) {
	i := slices.IndexFunc(peers, func(p PeerConfig) bool { return p.PublicKey == key })
	if i < 0 {
		return 0, fmt.Errorf("no peer has the public key %s", key)
	}
	return i, nil
}

// changePeers changes the list of peers, of which f gets a copy.
func (n *Net) changePeers(method string, f func([]PeerConfig) ([]PeerConfig, error)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return fmt.Errorf("wgnet: %s: %w", method, net.ErrClosed)
	}
	next := *n.config()
	var err error
	if next.Peers, err = f(slices.Clone(next.Peers)); err != nil {
		return fmt.Errorf("wgnet: %s: %w", method, err)
	}
	if err := next.Validate(); err != nil {
		return err
	}
	if err := n.change(&next, nil); err != nil {
		return fmt.Errorf("wgnet: %s: %w", method, err)
	}
	return nil
}

// Apply turns the Net into what cfg says, by the smallest change: peers that are as they were keep their sessions and
// their connections, those that differ change as by [Net.UpdatePeer], and so on. It takes a copy of cfg.
//
//   - Another private key ends all sessions; connections live on in the sessions that follow, once the peers know the new
//     public key.
//   - An address that goes resets the connections on it, and tells the other sides. Listeners on all addresses serve one
//     that comes.
//   - Another ListenPort changes the port; peers with a session are told by a keepalive. 0 keeps the one in use.
//   - MTU must be the one that the Net has: a new one needs a new Net.
//   - Logger, Control, ListenPacket, ResolveEndpoint and ResolveInterval stay those that New was given; cfg's are not
//     looked at.
//
// It is all or nothing: with an error everything is as it was. Errors are those of [Config.Validate]; that the port is
// taken (errors.Is finds [syscall.EADDRINUSE]), in which case the old one still works; and [net.ErrClosed].
func (n *Net) Apply(cfg *Config) error {
	if cfg == nil {
		return errors.New("wgnet: Apply: the config is nil")
	}
	next := cfg.Clone()
	if err := next.Validate(); err != nil {
		return err
	}
	now := n.config()
	next.Logger, next.Control, next.ListenPacket, next.ResolveEndpoint = now.Logger, now.Control, now.ListenPacket, now.ResolveEndpoint
	next.ResolveInterval = now.ResolveInterval
	if next.mtu() != now.mtu() {
		return &ParseError{Section: sectionInterface, Key: "MTU", Err: fmt.Errorf(
			"a running Net keeps its MTU, which is %d and not %d: close it and make a new one", now.mtu(), next.mtu())}
	}
	for {
		again, err := n.apply(next)
		if err != nil {
			return fmt.Errorf("wgnet: Apply: %w", err)
		}
		if !again {
			return nil
		}
	}
}

// apply opens another port, if that is asked for, before it takes the lock: the hooks that this calls may call the Net.
// It reports true if another Apply has changed the port meanwhile.
func (n *Net) apply(next *Config) (again bool, err error) {
	if n.ctx.Err() != nil {
		return false, net.ErrClosed
	}
	before := n.sockets.Port()
	var spare *outer.Spare
	if next.ListenPort != 0 && next.ListenPort != before && next.ListenPort != n.config().ListenPort {
		if spare, err = n.sockets.Prepare(next.ListenPort); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, spare.Close()) }() // does nothing if it is in use
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return false, net.ErrClosed
	}
	if n.sockets.Port() != before {
		return true, nil
	}
	if err := n.change(next, spare); err != nil {
		return false, err
	}
	if next.ListenPort != 0 && next.ListenPort == before {
		n.sockets.Keep()
	}
	return false, nil
}

// change makes next, which is valid, the Net's config, and spare, unless it is nil, its socket. The caller holds n.mu.
func (n *Net) change(next *Config, spare *outer.Spare) error {
	err := n.tryChange(next, spare)
	if err != nil && n.ctx.Err() != nil {
		return net.ErrClosed // the device ends itself as soon as the stack is closed
	}
	return err
}

// tryChange does what can fail first, and undoes it if it does.
func (n *Net) tryChange(next *Config, spare *outer.Spare) error {
	old := n.state.Load()
	now := n.newState(next, old)
	c := comparePeers(old.peers, now.peers)
	for _, u := range c.updated {
		if u.from.PinEndpoint != u.to.PinEndpoint {
			return &ParseError{Section: sectionPeer, Key: "PinEndpoint", Err: fmt.Errorf(
				"peer %s: it cannot be changed while the peer is one: remove the peer and add it again", u.to.label())}
		}
	}
	rekey := next.PrivateKey != old.config.PrivateKey

	var engine *engine // the next one, if there is to be one
	var devs map[*peer]*device.Peer
	var err error
	if rekey {
		engine, devs, err = n.tunnel.prepare(next.PrivateKey, now.peers.all)
	} else {
		devs, err = n.tunnel.engine.Load().add(c.added)
	}
	if err != nil {
		return err
	}
	moved := !slices.Equal(next.Addresses, old.config.Addresses)
	if moved {
		err = n.stack.SetAddresses(next.Addresses)
	}
	if err == nil {
		take := func() error {
			err := n.tunnel.take(c, engine, devs)
			if err == nil {
				n.state.Store(now) // before a connection is pinned to a peer that is new in it
			}
			return err
		}
		if c.reroutes() {
			err = n.stack.ChangeRoutes(now.peers.routes(), take)
		} else {
			err = take()
		}
		if err != nil && moved {
			err = errors.Join(err, n.stack.SetAddresses(old.config.Addresses))
		}
	}
	if err != nil {
		if rekey {
			engine.close()
		} else {
			n.tunnel.engine.Load().remove(devs)
			for p := range devs {
				n.tunnel.forget(p)
			}
		}
		return err
	}
	if spare != nil {
		if err := spare.Use(); err != nil {
			return err // the Net is being closed
		}
		// They learn of the port by a packet from it.
		n.tunnel.engine.Load().dev.SendKeepalivesToPeersWithCurrentKeypair()
	}
	if c.reroutes() {
		// The stack hears of no session with a peer that has no route yet.
		for _, p := range c.added {
			n.tunnel.tell(p.link)
		}
		for _, u := range c.updated {
			n.tunnel.tell(u.to.link)
		}
	}
	n.follow(c, rekey)
	return nil
}

// take makes the device do what c says, or puts another one, if there is one, in its place.
func (t *tunnel) take(c *peerChange, other *engine, devs map[*peer]*device.Peer) error {
	if other != nil {
		return t.swap(other, devs)
	}
	return t.alter(c, devs)
}

// follow begins what a change of peers calls for. The caller holds n.mu, so background is not waited for yet.
func (n *Net) follow(c *peerChange, rekey bool) {
	for _, p := range c.removed {
		n.tunnel.forget(p)
	}
	greet := literal(c.added)
	for _, u := range c.updated {
		if dev := u.to.dev.Load(); dev != nil {
			n.tunnel.byDevice.Store(dev, u.to)
		}
		if u.from.PresharedKey != u.to.PresharedKey || u.from.Endpoint != u.to.Endpoint && u.to.endpoint.Load() != nil {
			greet = append(greet, u.to)
		}
	}
	if rekey {
		greet = n.peers().all
	}
	if len(greet) > 0 {
		n.background.Go(func() { n.tunnel.greet(n.ctx, greet) }) // cancel ends it
	}
	n.keeper.finder.notice()
	n.tunnel.observer.notice()
	n.tunnel.wake()
}

// peerChange is what differs between two tables.
type peerChange struct {
	added, removed []*peer
	updated        []peerUpdate
}

// peerUpdate is a peer before and after a change of its config.
type peerUpdate struct{ from, to *peer }

func comparePeers(old, now *peerTable) *peerChange {
	c := &peerChange{}
	for _, p := range now.all {
		switch before := old.byID[p.id]; before {
		case p:
		case nil:
			c.added = append(c.added, p)
		default:
			c.updated = append(c.updated, peerUpdate{before, p})
		}
	}
	for _, p := range old.all {
		if now.byID[p.id] == nil {
			c.removed = append(c.removed, p)
		}
	}
	return c
}

func (c *peerChange) empty() bool { return len(c.added)+len(c.removed)+len(c.updated) == 0 }

// reroutes says whether the peers' allowed IPs, all together, differ.
func (c *peerChange) reroutes() bool {
	return len(c.added)+len(c.removed) > 0 || slices.ContainsFunc(c.updated, func(u peerUpdate) bool {
		return !slices.Equal(u.from.AllowedIPs, u.to.AllowedIPs)
	})
}

// inverse is the change that takes c back. Nothing is brought back that was removed: see alter.
func (c *peerChange) inverse() *peerChange {
	back := &peerChange{removed: c.added}
	for _, u := range c.updated {
		back.updated = append(back.updated, peerUpdate{u.to, u.from})
	}
	return back
}

// alter changes the peers of the device that runs. devs are those that were added, and have no config yet.
func (t *tunnel) alter(c *peerChange, devs map[*peer]*device.Peer) error {
	if c.empty() {
		return nil
	}
	t.adopt(devs) // their first handshake may come before IpcSet returns
	if err := t.engine.Load().dev.IpcSet(uapiChange(c)); err != nil {
		// After Validate there is nothing that the device could refuse. Should it do so, the line is before the first
		// one that removes a peer, which nothing could bring back with its session.
		return errors.Join(fmt.Errorf("set the peers: %w", err), t.engine.Load().dev.IpcSet(uapiChange(c.inverse())))
	}
	for _, u := range c.updated {
		if u.from.PresharedKey == u.to.PresharedKey {
			continue
		}
		// The device would keep its sessions for up to 180 s. The first call ends sending in them and the handshake that
		// is under way, the second one receiving.
		if dev := u.to.dev.Load(); dev != nil {
			dev.ExpireCurrentKeypairs()
			dev.ZeroAndFlushAll()
		}
		t.reset(u.to.link)
	}
	return nil
}

// prepare makes an engine with a private key and the peers, where the one that runs has found them, and leaves it down.
func (t *tunnel) prepare(key PrivateKey, peers []*peer) (*engine, map[*peer]*device.Peer, error) {
	learned := map[PublicKey]netip.AddrPort{}
	t.measure(func(p *peer, m measurement) {
		if m.endpoint.IsValid() {
			learned[p.PublicKey] = m.endpoint
		}
	})
	e := newEngine(t, t.sockets)
	devs, err := e.load(key, peers)
	if err == nil {
		if err = e.dev.IpcSet(uapiPeers(peers) + uapiLearned(peers, learned)); err != nil {
			err = fmt.Errorf("set the peers: %w", err)
		}
	}
	if err != nil {
		e.close()
		return nil, nil, err
	}
	return e, devs, nil
}

// swap puts an engine in the place of the one that runs. If it does not come up, the old one runs on, without sessions.
func (t *tunnel) swap(e *engine, devs map[*peer]*device.Peer) error {
	old := t.engine.Load()
	t.resetAll(devs) // packets wait in the stack from now on
	err := old.down()
	if err == nil { // only one can have the sockets
		before := make(map[*peer]*device.Peer, len(devs))
		for p, dev := range devs {
			if was := p.dev.Load(); was != nil {
				before[p] = was
			}
			t.byDevice.Store(dev, p) // its first handshake may come before up returns
		}
		t.disown(before)
		t.resetAll(devs) // what the old one has said meanwhile
		if err = e.up(); err != nil {
			t.disown(devs)
			for p, dev := range before {
				t.byDevice.Store(dev, p)
			}
		}
	}
	if err != nil {
		old.closing.Store(false)
		return errors.Join(err, old.dev.Up())
	}
	t.adopt(devs)
	for p := range devs {
		if p.Endpoint != "" {
			p.heard.Store(false) // whether it knows our new key is not known
		}
	}
	e.before = old.measurements(t.peers())
	t.engine.Store(e)
	old.close()
	return nil
}

// resetAll notes that there is no session with any of the peers.
func (t *tunnel) resetAll(devs map[*peer]*device.Peer) {
	for p := range devs {
		t.reset(p.link)
	}
}

// disown does not hear what a device has to say of its peers any more.
func (t *tunnel) disown(devs map[*peer]*device.Peer) {
	for _, dev := range devs {
		t.byDevice.Delete(dev)
	}
}
