// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// A member is a host of the network, a Net or upstream's implementation, alive or not.
type member struct {
	world        *world
	index        int
	name         string
	addr4, addr6 netip.Addr // inside of the tunnel
	extra        netip.Addr // one that comes and goes
	host         *memnet.Host
	peer         *testpeer.Peer // nil for a Net

	current atomic.Pointer[life] // nil while it is closed

	// The rest is what the one who makes faults knows, and nobody else's.
	key      testpeer.Key
	outer    netip.Addr
	moves    int
	port     uint16
	nat      *memnet.NAT
	natAddr  netip.Addr
	hasExtra bool
	knows    map[int]testpeer.Key // the other members that are its peers, by index, with the key it has of them
	stale    []testpeer.Key       // upstream's: keys that it may have and should not
	begun    bool                 // upstream's: it has had a life

	last  atomic.Pointer[transport]  // the last one that it has opened
	shown atomic.Pointer[netip.Addr] // outer, for those who resolve its name
}

// upstream says whether the member is upstream's implementation.
func (m *member) upstream() bool { return m.peer != nil }

// net is the member's Net, if it has one and it runs.
func (m *member) net() *wgnet.Net {
	if l := m.current.Load(); l != nil {
		return l.net
	}
	return nil
}

// listen is the member's ListenPacket.
func (m *member) listen(ctx context.Context, network, address string) (net.PacketConn, error) {
	pc, err := m.host.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t := &transport{Conn: pc.(*memnet.Conn)}
	m.last.Store(t)
	return t, nil
}

// A transport is a member's socket in the outer network.
type transport struct {
	*memnet.Conn
	dead atomic.Bool // what is sent is lost
}

// WriteBatch is what a Net sends with.
func (t *transport) WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error) {
	if t.dead.Load() {
		return len(bufs), nil
	}
	return t.Conn.WriteBatch(bufs, to)
}

// config is what the member's Net is to be.
func (m *member) config() *wgnet.Config {
	private, err := wgnet.ParsePrivateKey(m.key.String())
	if err != nil {
		panic(err) // it is 32 bytes in base64
	}
	cfg := &wgnet.Config{
		PrivateKey: private, ListenPort: m.port, ListenPacket: m.listen, ResolveEndpoint: m.world.resolve,
		Addresses: []netip.Prefix{netip.PrefixFrom(m.addr4, 24), netip.PrefixFrom(m.addr6, 64)},
	}
	if m.hasExtra {
		cfg.Addresses = append(cfg.Addresses, netip.PrefixFrom(m.extra, 24))
	}
	for _, other := range m.world.members {
		if _, ok := m.knows[other.index]; ok {
			cfg.Peers = append(cfg.Peers, m.peerConfig(other))
		}
	}
	return cfg
}

// peerConfig is another member as a Net is told of it, with the key that it has of it.
func (m *member) peerConfig(other *member) wgnet.PeerConfig {
	p := wgnet.PeerConfig{
		Name: other.name, PublicKey: wgnet.PublicKey(m.knows[other.index]), Endpoint: other.endpoint(m), AllowedIPs: other.prefixes(),
	}
	if psk := m.world.presharedKey(m, other); !psk.IsZero() {
		var err error
		if p.PresharedKey, err = wgnet.ParsePresharedKey(psk.String()); err != nil {
			panic(err) // it is 32 bytes in base64
		}
	}
	return p
}

// remote is another member as upstream's implementation is told of it.
func (m *member) remote(other *member) testpeer.Remote {
	r := testpeer.Remote{
		PublicKey: m.knows[other.index], PresharedKey: m.world.presharedKey(m, other), Endpoint: other.endpoint(m),
	}
	for _, p := range other.prefixes() {
		r.AllowedIPs = append(r.AllowedIPs, p.String())
	}
	return r
}

// endpoint is where another member finds this one, if it can: by an address, or by a name, which has a new number whenever
// the member has moved, so that it is resolved anew.
func (m *member) endpoint(from *member) string {
	switch {
	case m.nat != nil && m.nat != from.nat:
		return ""
	case !from.upstream() && (m.index+from.index)%2 == 0:
		return fmt.Sprintf("%s.%d.example:%d", m.name, m.moves, m.port)
	}
	return netip.AddrPortFrom(m.outer, m.port).String()
}

// resolve is the ResolveEndpoint of all Nets.
func (w *world) resolve(_ context.Context, host string) ([]netip.Addr, error) {
	name, _, _ := strings.Cut(host, ".")
	for _, m := range w.members {
		if m.name == name {
			return []netip.Addr{*m.shown.Load()}, nil
		}
	}
	return nil, fmt.Errorf("nobody has the name %s", host)
}

func (m *member) prefixes() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(m.addr4, 32), netip.PrefixFrom(m.addr6, 128), netip.PrefixFrom(m.extra, 32)}
}

// start begins a life.
func (m *member) start() error {
	l := &life{member: m, conns: map[net.Conn]struct{}{}}
	var err error
	switch {
	case !m.upstream():
		l.net, err = wgnet.New(m.config())
	case m.begun:
		l.up, err = m.peer, m.peer.Restart() // with the remotes that it had
	default:
		l.up, m.begun = m.peer, true
	}
	if err != nil {
		return fmt.Errorf("%w: %s does not start: %w", errWrong, m.name, err)
	}
	if err := l.serve(); err != nil {
		return err
	}
	m.current.Store(l)
	return m.tellUpstream()
}

// end ends the member's life, if it has one. A member that is killed says no farewell.
func (m *member) end(killed bool) error {
	l := m.current.Swap(nil)
	if l == nil {
		return nil
	}
	if killed {
		m.last.Load().dead.Store(true)
	}
	var err error
	if l.net != nil {
		err = l.net.Close()
	} else {
		err = l.up.Close()
	}
	l.stop()
	if err != nil {
		return fmt.Errorf("%w: %s does not close: %w", errWrong, m.name, err)
	}
	return nil
}

// A life is a member from its start to its end: its stack and its servers.
type life struct {
	member *member
	net    *wgnet.Net     // or
	up     *testpeer.Peer // upstream's

	listener net.Listener // of its present TCP server; of who makes faults
	packets  net.PacketConn
	running  sync.WaitGroup     // servers and readers of events
	cancel   context.CancelFunc // ends the readers of events

	mu    sync.Mutex            // guards what follows
	conns map[net.Conn]struct{} // those that the TCP server has; nil after the end
	seen  map[uint64]uint32     // the last number of each flow of datagrams that came to the UDP server
}

// port is where all members serve flows over TCP, and echo datagrams. Nobody serves closedPort.
const (
	port       = 7
	closedPort = 9
)

// serve starts the servers and the readers of events.
func (l *life) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if l.net != nil {
		for _, slow := range []bool{false, true} {
			events := l.net.Events(ctx)
			l.running.Go(func() { l.readEvents(ctx, events, slow) }) // cancel ends it
		}
	}
	if err := l.serveTCP(); err != nil {
		return err
	}
	var err error
	if l.net != nil {
		l.packets, err = l.net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	} else {
		l.packets, err = l.up.ListenUDP(fmt.Sprintf(":%d", port))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: listen for datagrams: %w", errWrong, l.member.name, err)
	}
	l.running.Go(l.echo) // stop ends it
	return nil
}

// serveTCP starts the TCP server.
func (l *life) serveTCP() error {
	var err error
	if l.net != nil {
		l.listener, err = l.net.Listen("tcp", fmt.Sprintf(":%d", port))
	} else {
		l.listener, err = l.up.Listen(fmt.Sprintf(":%d", port))
	}
	if err != nil {
		return fmt.Errorf("%w: %s: listen: %w", errWrong, l.member.name, err)
	}
	listener := l.listener
	l.running.Go(func() { // the listener's end ends it
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			if !l.keep(c) {
				_ = c.Close() // it came with the end
				return
			}
			l.running.Go(func() { // stop ends it, if its deadline does not
				defer l.drop(c)
				l.member.world.run.caught("tcp server", func() error { return serveFlow(c) })
			})
		}
	})
	return nil
}

func (l *life) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *life) drop(c net.Conn) {
	_ = c.Close() // it may be closed already
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// stop ends the servers and waits for them.
func (l *life) stop() {
	l.cancel()
	_ = l.listener.Close() // these may be closed with their stack
	_ = l.packets.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	for c := range conns {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

// dial connects to an address inside of the tunnel.
func (l *life) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if l.net != nil {
		return l.net.DialContext(ctx, network, address)
	}
	c, err := l.up.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUpstream, err)
	}
	return c, nil
}

// ping sends one echo request.
func (l *life) ping(ctx context.Context, to netip.Addr) error {
	if l.net != nil {
		_, err := l.net.Ping(ctx, to.String())
		return err
	}
	if _, err := l.up.Ping(ctx, to); err != nil {
		return fmt.Errorf("%w: %w", errUpstream, err)
	}
	return nil
}

// readEvents reads events, and looks at them. A slow reader gets few of them.
func (l *life) readEvents(ctx context.Context, events iter.Seq[wgnet.Event], slow bool) {
	r := l.member.world.run
	for e := range events {
		r.events.Add(1)
		if k := int(e.Kind); k >= 0 && k < len(r.eventKinds) {
			r.eventKinds[k].Add(1)
		}
		r.missedEvents.Add(uint64(e.Missed))
		if e.Kind == 0 || e.Time.IsZero() || e.Text == "" || e.Missed < 0 {
			r.wrong("events", fmt.Errorf("%w: %+v", errWrong, e))
		}
		if slow {
			pause(ctx, 100*time.Millisecond)
		}
	}
}

// pause waits, but not beyond the end of a context.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
