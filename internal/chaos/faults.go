// SPDX-License-Identifier: MIT

package main

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"example.com/wgnet/internal/memnet"
)

// faults are what happens to a network. They come one after the other, each told to nobody but those that it names.
var faults = []operation{
	{"weather", 20, "loss, reordering, duplication, corruption, latency, jitter, bandwidth, MTU; or none", weather},
	{"cut", 8, "nothing passes between two members any more", cut},
	{"heal", 8, "everything does again", heal},
	{"move", 10, "a member gets another outer address", move},
	{"nat", 4, "a Net is behind a NAT from now on", addNAT},
	{"nat reset", 4, "the NAT has forgotten everybody", resetNAT},
	{"socket", 5, "a Net's outer socket is gone", loseSocket},
	{"names", 4, "names of endpoints are not found any more, or are again", loseNames},
	{"restart", 10, "a member is killed and started again with its key", restart},
	{"close", 6, "a member ends", closeMember},
	{"open", 6, "a member that has ended begins anew", openMember},
	{"private key", 5, "a Net gets another private key, and some are told", changeKey},
	{"preshared key", 6, "two members get another preshared key, or one of them", changePresharedKey},
	{"remove peer", 6, "a member forgets another", removePeer},
	{"add peer", 6, "a member gets to know another again", addPeer},
	{"update peer", 6, "a member is told where another is", updatePeer},
	{"apply", 6, "a Net is told everything anew", apply},
	{"port", 5, "a Net gets another port", changePort},
	{"address", 4, "a Net gets a further inner address, or loses it", changeAddress},
	{"strangers", 3, "a Net gets and loses peers that nobody is", strangers},
	{"quarrel", 4, "changes of a Net of every kind at once, and its end at times", quarrel},
	{"bad change", 4, "a change that must fail and change nothing", badChange},
	{"listener", 5, "the listener of a Net's server is closed, and its port is listened on anew", relisten},
}

// member picks one that want accepts, or nil.
func (c *call) member(want func(*member) bool) *member {
	var list []*member
	for _, m := range c.world.members {
		if want(m) {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[c.rng.IntN(len(list))]
}

func alive(m *member) bool    { return m.current.Load() != nil }
func dead(m *member) bool     { return m.current.Load() == nil }
func aliveNet(m *member) bool { return m.net() != nil }

// other picks another member.
func (c *call) other(m *member) *member {
	others := c.world.others(m)
	return others[c.rng.IntN(len(others))]
}

func weather(c *call) error {
	w := []memnet.Link{
		{},
		{Loss: 0.02},
		{Loss: 0.3},
		{Loss: 0.1, Reorder: 0.25, Duplicate: 0.05},
		{Duplicate: 1, Copies: 3},
		{Reorder: 0.3, ReorderDepth: 50},
		{Corrupt: 0.05},
		{Latency: 20 * time.Millisecond, Jitter: 20 * time.Millisecond},
		{Latency: 300 * time.Millisecond},
		{Bandwidth: 5_000_000, Queue: 20_000},
		{MTU: 1300},
		{MTU: 1300, RefuseTooBig: true},
		{Loss: 0.05, Corrupt: 0.02, Reorder: 0.1, Duplicate: 0.1, Latency: 2 * time.Millisecond, Jitter: 2 * time.Millisecond},
	}[c.rng.IntN(13)]
	c.say("%+v", w)
	return c.world.outer.SetDefault(w)
}

func cut(c *call) error { return c.between(c.world.outer.Cut) }

func heal(c *call) error { return c.between(c.world.outer.Heal) }

func (c *call) between(do func(a, b netip.Addr) error) error {
	a := c.member(func(*member) bool { return true })
	b := c.other(a)
	c.say("%s and %s", a.name, b.name)
	return do(outside(a, b), outside(b, a))
}

func move(c *call) error {
	m := c.member(func(*member) bool { return true })
	to := c.world.newOuterAddr()
	c.say("%s from %s to %s", m.name, m.outer, to)
	if err := c.world.outer.Move(m.outer, to); err != nil {
		return err
	}
	m.outer, m.nat = to, nil
	m.moves++
	m.shown.Store(&to)
	return nil
}

// addNAT puts one behind a NAT at a time: two behind different ones cannot reach each other. It is a Net, which finds after
// half a second that the other side is another one now; upstream's implementation takes fifteen.
func addNAT(c *call) error {
	if c.member(func(m *member) bool { return m.nat != nil }) != nil {
		return errSkipped
	}
	m := c.member(func(m *member) bool { return !m.upstream() })
	m.natAddr = c.world.newOuterAddr()
	c.say("%s at %s behind %s", m.name, m.outer, m.natAddr)
	var err error
	m.nat, err = c.world.outer.AddNAT(m.natAddr, time.Duration(1+c.rng.IntN(100))*time.Second, m.outer)
	return err
}

func resetNAT(c *call) error {
	m := c.member(func(m *member) bool { return m.nat != nil })
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	m.nat.Reset()
	return nil
}

func loseSocket(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	if err := m.last.Load().Conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return errSkipped // the one before is not replaced yet
}

func loseNames(c *call) error {
	c.world.nameless.Store(!c.world.nameless.Load())
	c.say("found: %v", !c.world.nameless.Load())
	return nil
}

func restart(c *call) error {
	m := c.member(alive)
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	if err := m.end(true); err != nil {
		return err
	}
	return m.start()
}

func closeMember(c *call) error {
	m := c.member(alive)
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	return m.end(c.chance(0.3))
}

func openMember(c *call) error {
	m := c.member(dead)
	if m == nil {
		return errSkipped
	}
	c.say("%s", m.name)
	return m.start()
}

// relisten is for Nets: upstream's stack frees a listener's port at some time after its Close.
func relisten(c *call) error {
	m := c.member(aliveNet)
	if m == nil {
		return errSkipped
	}
	l := m.current.Load()
	c.say("%s", m.name)
	if err := l.listener.Close(); err != nil {
		return err
	}
	return l.serveTCP()
}
