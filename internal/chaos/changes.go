// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

func changeKey(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	m.key = testpeer.GenerateKey()
	c.say("%s", m.name)
	if err := m.net().Apply(m.config()); err != nil {
		return err
	}
	for _, other := range c.world.others(m) {
		if _, knows := other.knows[m.index]; !knows || c.chance(0.5) {
			continue
		}
		other.learn(m)
		c.text += ", told to " + other.name
		if n := other.net(); n != nil {
			if err := n.Apply(other.config()); err != nil {
				return err
			}
		}
		if err := other.tellUpstream(); err != nil {
			return err
		}
	}
	return nil
}

func changePresharedKey(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	other := c.other(m)
	key := testpeer.Key{}
	if c.chance(0.7) {
		key = testpeer.GenerateKey() // also a preshared key: 32 bytes by chance
	}
	c.world.psk[pairOf(m, other)] = key
	c.world.run.keepSecret(key)
	told := []*member{m}
	if c.chance(0.6) {
		told = append(told, other)
	}
	c.say("%s and %s, told to %d of them", m.name, other.name, len(told))
	for i, m := range told {
		if err := m.tell([]*member{other, told[0]}[i]); err != nil {
			return err
		}
	}
	return nil
}

// tell tells a member of another anew, if it knows of it.
func (m *member) tell(other *member) error {
	if _, knows := m.knows[other.index]; !knows {
		return nil
	}
	if m.upstream() {
		return m.tellUpstream()
	}
	if n := m.net(); n != nil {
		return n.UpdatePeer(m.peerConfig(other))
	}
	return nil
}

func removePeer(c *call) error {
	m := c.member(alive)
	if m == nil {
		return errSkipped
	}
	other := c.other(m)
	key, knows := m.knows[other.index]
	if !knows {
		return errSkipped
	}
	c.say("%s from %s", other.name, m.name)
	delete(m.knows, other.index)
	if n := m.net(); n != nil {
		return n.RemovePeer(wgnet.PublicKey(key))
	}
	return m.peer.RemovePeer(key)
}

func addPeer(c *call) error {
	m := c.member(func(m *member) bool { return alive(m) && len(m.knows) < len(m.world.members)-1 })
	if m == nil {
		return errSkipped
	}
	for _, other := range c.world.others(m) {
		if _, knows := m.knows[other.index]; knows {
			continue
		}
		c.say("%s to %s", other.name, m.name)
		m.learn(other)
		if n := m.net(); n != nil {
			return n.AddPeer(m.peerConfig(other))
		}
		return m.peer.AddPeer(m.remote(other))
	}
	return errSkipped
}

func updatePeer(c *call) error {
	m := c.member(alive)
	if m == nil {
		return errSkipped
	}
	other := c.other(m)
	if _, knows := m.knows[other.index]; !knows {
		return errSkipped
	}
	c.say("%s of %s", m.name, other.name)
	n := m.net()
	if n == nil {
		return m.tell(other)
	}
	p := m.peerConfig(other)
	p.PersistentKeepalive = time.Duration(c.rng.IntN(3)) * 10 * time.Second
	if c.chance(0.3) {
		p.Endpoint = "" // it stays where it is
	}
	return n.UpdatePeer(p)
}

func apply(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	if c.chance(0.5) {
		m.learn(c.world.others(m)...)
	}
	return m.net().Apply(m.config())
}

func changePort(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	m.port = uint16(1024 + c.rng.IntN(40_000))
	c.say("%s to %d", m.name, m.port)
	return m.net().Apply(m.config())
}

func changeAddress(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	m.hasExtra = !m.hasExtra
	c.say("%s, with a further one: %v", m.name, m.hasExtra)
	return m.net().Apply(m.config())
}

// stranger is a peer that nobody is, somewhere.
func (c *call) stranger(i int) wgnet.PeerConfig {
	p := wgnet.PeerConfig{
		PublicKey:  wgnet.NewPrivateKey().Public(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), 32)},
	}
	if c.chance(0.5) {
		p.Endpoint = "198.19.0.1:51820" // where nobody listens
	}
	return p
}

func strangers(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	n, count := m.net(), 1+c.rng.IntN(20)
	c.say("%d at %s", count, m.name)
	var keys []wgnet.PublicKey
	for i := range count {
		p := c.stranger(i)
		if err := n.AddPeer(p); err != nil {
			return err
		}
		keys = append(keys, p.PublicKey)
		// Something waits for it.
		conn, err := n.Dial("udp", netip.AddrPortFrom(p.AllowedIPs[0].Addr(), port).String())
		if err != nil {
			continue // it has no endpoint
		}
		_, err = conn.Write([]byte("hello"))
		if err := errors.Join(err, conn.Close()); err != nil && !ordinary(err) {
			return err
		}
	}
	for _, key := range keys {
		if err := n.RemovePeer(key); err != nil {
			return err
		}
	}
	return nil
}

// quarrel has several goroutines change a Net at once. Each may find that another one was there first, and says of which
// peer; or that the Net is closed.
func quarrel(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	n, cfg, closing := m.net(), m.config(), c.chance(0.3)
	c.say("about %s, closed: %v", m.name, closing)
	p, q := c.stranger(1), c.stranger(2)
	others := cfg.Clone()
	others.Peers = append(others.Peers, q)
	changes := []func() error{
		func() error { return n.AddPeer(p) },
		func() error { return n.RemovePeer(p.PublicKey) },
		func() error { return n.UpdatePeer(p) },
		func() error { return n.Apply(others) },
		func() error { return n.Apply(cfg) },
		func() error { _ = n.Status(); return nil },
	}
	var wg sync.WaitGroup
	errs := make([]error, len(changes))
	for i, change := range changes {
		wg.Go(func() { // ends after a few changes
			for range 4 {
				err := change()
				if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), p.PublicKey.String()) {
					errs[i] = fmt.Errorf("%w: %w", errWrong, err)
				}
			}
		})
	}
	var ended error
	if closing {
		ended = m.end(c.chance(0.5))
	}
	wg.Wait()
	if closing {
		if err := n.Apply(cfg); !errors.Is(err, net.ErrClosed) {
			ended = errors.Join(ended, fmt.Errorf("%w: Apply to a closed Net: %w", errWrong, err))
		}
		return errors.Join(append(errs, ended)...)
	}
	return errors.Join(append(errs, n.Apply(cfg))...)
}

// badChange is a change of much, with one thing in it that cannot be.
func badChange(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	n, cfg := m.net(), m.config()
	cfg.PrivateKey = wgnet.NewPrivateKey()
	want := error(nil) // any
	switch what := c.rng.IntN(4); what {
	case 0:
		c.say("%s: a port that is taken", m.name)
		taken, err := m.host.ListenPacket(c.ctx, "udp", ":1000")
		if err != nil {
			return err
		}
		defer taken.Close()
		cfg.ListenPort, want = 1000, syscall.EADDRINUSE
	case 1:
		c.say("%s: no address", m.name)
		cfg.Addresses = nil
	case 2:
		c.say("%s: a peer without a key", m.name)
		cfg.Peers = append(cfg.Peers, wgnet.PeerConfig{})
	case 3:
		c.say("%s: a prefix twice", m.name)
		p := c.stranger(1)
		cfg.Peers = append(cfg.Peers, p, p)
		cfg.Peers[len(cfg.Peers)-1].PublicKey = wgnet.NewPrivateKey().Public()
	}
	before := n.Status()
	err := n.Apply(cfg)
	after := n.Status()
	if err == nil || want != nil && !errors.Is(err, want) {
		return fmt.Errorf("%w: the error is %w", errWrong, err)
	}
	if before.PublicKey != after.PublicKey || before.ListenPort != after.ListenPort || len(before.Peers) != len(after.Peers) {
		return fmt.Errorf("%w: a change that fails has changed something; its error is: %w", errWrong, err)
	}
	return nil
}
