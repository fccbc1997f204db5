// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"example.com/wgnet/wgnet"
)

// traffic is what members do with a network.
var traffic = []operation{
	{"tcp", 30, "a connection with data both ways, compared with what was sent", tcpFlow},
	{"udp", 15, "datagrams to an echo server and back, compared, and none twice", udpFlow},
	{"ping", 15, "an echo request", pingMember},
	{"abandon", 8, "a connection that is reset in the middle", abandon},
	{"cancel", 8, "a dial whose context ends at any moment", cancelledDial},
	{"refuse", 5, "a dial to a port that nobody serves", refusedDial},
	{"unreachable", 5, "a dial to an address that no peer has", unreachableDial},
	{"loopback", 5, "a connection of a host with itself", loopback},
	{"lookup", 5, "the name of a member", lookup},
	{"status", 5, "a status, in words and as JSON, without secrets", status},
	{"capture", 5, "a capture of what passes the tunnel, for a moment", capture},
	{"sockets", 2, "the list of what is open", sockets},
}

// ends picks two lives of different members, of which one is a Net at least. from is a Net if ours says so.
func (c *call) ends(ours bool) (from, to *life) {
	pairs := c.world.pairs()
	pair := pairs[c.rng.IntN(len(pairs))]
	if c.chance(0.5) {
		pair[0], pair[1] = pair[1], pair[0]
	}
	if ours && pair[0].upstream() {
		pair[0], pair[1] = pair[1], pair[0]
	}
	c.say("%s to %s", pair[0].name, pair[1].name)
	return pair[0].current.Load(), pair[1].current.Load()
}

// address picks one of the ways to name a member and a port.
func (c *call) address(from *life, to *member, port int) string {
	host := []string{to.addr4.String(), to.addr6.String(), to.name}[c.rng.IntN(3)]
	if from.net == nil && host == to.name {
		host = to.addr4.String() // upstream's knows no names
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// connect dials a member's TCP server, and checks whom it has got. In calm weather a second try is granted, and counted: a SYN may meet the TIME_WAIT
// of a stack that was there before, which ignores it for a minute.
func (c *call) connect(from *life, to *member) (net.Conn, error) {
	address := c.address(from, to, port)
	for again := 0; ; again++ {
		ctx, cancel := context.WithTimeout(c.ctx, dialLimit)
		conn, err := from.dial(ctx, "tcp", address)
		cancel()
		if err != nil && c.strict && again < 2 && errors.Is(err, context.DeadlineExceeded) {
			c.world.run.secondDials.Add(1)
			continue
		}
		if err != nil {
			return nil, err
		}
		if p, ok := wgnet.PeerOf(conn); from.net != nil && (!ok || p.Name != to.name) {
			conn.Close()
			return nil, fmt.Errorf("%w: the peer behind a connection to %s is %q, %v", errWrong, to.name, p.Name, ok)
		}
		deadline, _ := c.ctx.Deadline()
		return conn, conn.SetDeadline(deadline)
	}
}

func tcpFlow(c *call) error {
	from, to := c.ends(false)
	if from == nil || to == nil {
		return errSkipped
	}
	conn, err := c.connect(from, to.member)
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.tolerate(from, clientFlow(c, conn, c.size(), c.size()))
}

// tolerate marks errors of upstream's stack.
func (c *call) tolerate(from *life, err error) error {
	if err != nil && from.net == nil && !errors.Is(err, errCorrupt) {
		return fmt.Errorf("%w: %w", errUpstream, err)
	}
	return err
}

// size is how much to send: mostly little, sometimes a lot, never at times.
func (c *call) size() int {
	return []int{0, c.rng.IntN(100), c.rng.IntN(10_000), c.rng.IntN(200_000), c.rng.IntN(1_500_000)}[c.rng.IntN(5)]
}

func abandon(c *call) error {
	from, to := c.ends(true)
	if from == nil || to == nil {
		return errSkipped
	}
	conn, err := c.connect(from, to.member)
	if err != nil {
		return err
	}
	if _, err := conn.Write(flowHeader(c.rng.Uint64(), maxFlow, maxFlow)); err != nil {
		conn.Close()
		return err
	}
	if _, err := conn.Read(make([]byte, 1+c.rng.IntN(10_000))); err != nil {
		conn.Close()
		return err
	}
	return errors.Join(conn.(interface{ SetLinger(int) error }).SetLinger(0), conn.Close())
}

func cancelledDial(c *call) error {
	from, to := c.ends(true)
	if from == nil || to == nil {
		return errSkipped
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if d := time.Duration(c.rng.IntN(3000)) * time.Microsecond; d > 100*time.Microsecond {
		defer time.AfterFunc(d, cancel).Stop()
	} else {
		cancel()
	}
	conn, err := from.dial(ctx, "tcp", c.address(from, to.member, port))
	if err == nil {
		return conn.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func refusedDial(c *call) error {
	from, to := c.ends(true)
	if from == nil || to == nil {
		return errSkipped
	}
	host := to.member.addr4
	if c.chance(0.5) {
		host = to.member.addr6
	}
	conn, err := from.dial(c.ctx, "tcp", netip.AddrPortFrom(host, closedPort).String())
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w: a dial to a closed port succeeds", errWrong)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

func unreachableDial(c *call) error {
	from, _ := c.ends(true)
	if from == nil {
		return errSkipped
	}
	network := []string{"tcp", "udp"}[c.rng.IntN(2)]
	start := time.Now()
	conn, err := from.dial(c.ctx, network, "10.0.0.250:7")
	if err == nil {
		conn.Close()
		return fmt.Errorf("%w: %s dials an address that no peer has, with success", errWrong, network)
	}
	if took := time.Since(start); took > time.Second {
		return fmt.Errorf("%w: %s took %v to say that nobody has the address: %w", errWrong, network, took, err)
	}
	if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("%w: %s to an address that no peer has: %w", errWrong, network, err)
	}
	return nil
}

func loopback(c *call) error {
	from, _ := c.ends(true)
	if from == nil {
		return errSkipped
	}
	host := []string{"localhost", "127.0.0.1", "::1", from.member.addr4.String()}[c.rng.IntN(4)]
	conn, err := from.dial(c.ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := c.ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	return clientFlow(c, conn, c.size(), c.size())
}

func pingMember(c *call) error {
	from, to := c.ends(false)
	if from == nil || to == nil {
		return errSkipped
	}
	addr := to.member.addr4
	if c.chance(0.5) {
		addr = to.member.addr6
	}
	if !c.strict {
		return from.ping(c.ctx, addr)
	}
	for try := 0; ; try++ { // a ping is a datagram, and nobody repeats it: see udp
		ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
		err := from.ping(ctx, addr)
		cancel()
		if err == nil || try == 2 {
			return err
		}
		c.world.run.secondDatagrams.Add(1)
	}
}

func lookup(c *call) error {
	from, to := c.ends(true)
	if from == nil || to == nil {
		return errSkipped
	}
	m := to.member
	addrs, err := from.net.LookupNetIP(c.ctx, "ip", m.name)
	if err != nil {
		return err
	}
	if !slices.Contains(addrs, m.addr4) || !slices.Contains(addrs, m.addr6) ||
		slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !slices.Contains([]netip.Addr{m.addr4, m.addr6, m.extra}, a) }) {
		return fmt.Errorf("%w: %s is %v", errWrong, m.name, addrs)
	}
	return nil
}

func status(c *call) error {
	from, _ := c.ends(true)
	if from == nil {
		return errSkipped
	}
	s := from.net.Status()
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("%w: status: %w", errWrong, err)
	}
	shown := string(text) + s.String()
	for _, secret := range c.world.run.secrets() {
		if strings.Contains(shown, secret) {
			return fmt.Errorf("%w: a secret is in the status of %s", errWrong, from.member.name)
		}
	}
	if c.strict && len(s.Peers) < len(c.world.members)-1 {
		return fmt.Errorf("%w: the status of %s has %d peers", errWrong, from.member.name, len(s.Peers))
	}
	return nil
}

func capture(c *call) error {
	from, _ := c.ends(true)
	if from == nil {
		return errSkipped
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Duration(1+c.rng.IntN(200))*time.Millisecond)
	defer cancel()
	var file bytes.Buffer
	opts := wgnet.CaptureOptions{SnapLen: []int{0, 64}[c.rng.IntN(2)], Protocol: []string{"", "tcp", "udp", "icmp"}[c.rng.IntN(4)]}
	if err := from.net.Capture(ctx, &file, opts); err != nil {
		return err
	}
	// Blocks of pcapng begin and end with their lengths, in the byte order of the first one.
	for b := file.Bytes(); len(b) > 0; {
		if len(b) < 12 {
			return fmt.Errorf("%w: %d bytes at the end of a capture", errWrong, len(b))
		}
		length := binary.LittleEndian.Uint32(b[4:])
		if length < 12 || length > uint32(len(b)) || binary.LittleEndian.Uint32(b[length-4:]) != length {
			return fmt.Errorf("%w: a block of %d bytes in a capture of which %d are left", errWrong, length, len(b))
		}
		b = b[length:]
	}
	return nil
}

func sockets(c *call) error {
	from, _ := c.ends(true)
	if from == nil {
		return errSkipped
	}
	for _, s := range from.net.Sockets() {
		if s.Network != "tcp" && s.Network != "udp" || s.Local.Port() == 0 {
			return fmt.Errorf("%w: socket %+v", errWrong, s)
		}
	}
	return nil
}
