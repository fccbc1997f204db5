// SPDX-License-Identifier: MIT

package wgnettest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
)

const (
	// maxNodes is what fits into 10.0.0.0/16, without its first and last address.
	maxNodes = 1<<16 - 2
	// outerPort is where all members listen in the outer network.
	outerPort = 51820
	// parallel is how many Nets are worked on at a time.
	parallel = 8
	// handshakeTimeout bounds the wait for all handshakes.
	handshakeTimeout = 60 * time.Second
)

// A Topology says who is whose peer.
type Topology int

const (
	// FullMesh makes every node the peer of every other one.
	FullMesh Topology = iota
	// Star makes the first node, the hub, the peer of all others, the spokes, which are not each other's peers. The hub
	// does not pass packets on.
	Star
)

// Config says what a [Network] is to be. The zero value is two nodes.
type Config struct {
	// Nodes is how many Nets there are: at most 65,534. 0 means one for each of Names, or 2 without any.
	Nodes int
	// Names are the nodes' names, in order, as [wgnet.PeerConfig].Name takes them. Those that are missing are "node1",
	// "node2" and so on.
	Names []string
	// Topology is FullMesh if it is not set.
	Topology Topology
	// Links is the weather of all links from the beginning. The zero value is perfect.
	Links Link
	// IPv6 makes the outer network one of IPv6 addresses, instead of IPv4 ones. Inside of the tunnel both are there.
	IPv6 bool
	// NoWait returns as soon as all Nets run. Otherwise there is a session between all peers first.
	NoWait bool
	// Seed decides the fate of every datagram. 0 picks one by chance, which is logged if the test fails.
	Seed uint64
}

// A Network is a number of Nets that are each other's peers, over a network in memory.
type Network struct {
	// Nodes are the members, in the order of the Config; those of [Network.Join] follow. It is not to be changed.
	Nodes []*Node

	tb    testing.TB
	cfg   Config
	outer *memnet.Network
	label string

	mu      sync.Mutex // guards what follows, and the fields of Node that say so
	started bool
	hosts   uint32            // outer addresses that were given out
	links   map[[2]*Node]Link // those that SetLink has set
	cuts    map[[2]*Node]bool // those that were ever cut, and whether they are, with the lower index first
}

// Pair makes two Nets that are each other's peers, with a session between them: a at 10.0.0.1 and fd00::1, and b at
// 10.0.0.2 and fd00::2. Each knows the other one as "a" or "b". They are closed when the test ends.
func Pair(tb testing.TB) (a, b *wgnet.Net) {
	tb.Helper()
	n := NewNetwork(tb, Config{Names: []string{"a", "b"}})
	return n.Nodes[0].Net, n.Nodes[1].Net
}

// NewNetwork makes a network and starts it. It fails the test if that does not work. When the test ends the network is
// closed, and the test fails if something is left behind: see the package's text.
func NewNetwork(tb testing.TB, cfg Config) *Network {
	tb.Helper()
	n := NewUnstartedNetwork(tb, cfg)
	n.Start()
	return n
}

// NewUnstartedNetwork makes a network whose Nets do not run before [Network.Start]. Until then each [Node.Config] may be
// changed, and members that are not Nets may [Network.Join].
func NewUnstartedNetwork(tb testing.TB, cfg Config) *Network {
	tb.Helper()
	if cfg.Nodes == 0 {
		cfg.Nodes = len(cfg.Names)
	}
	if cfg.Nodes == 0 {
		cfg.Nodes = 2
	}
	if cfg.Nodes < 1 || cfg.Nodes > maxNodes || len(cfg.Names) > cfg.Nodes {
		tb.Fatalf("wgnettest: %d nodes with %d names: want 1 to %d nodes, and not more names", cfg.Nodes, len(cfg.Names), maxNodes)
	}
	for cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	n := &Network{
		tb: tb, cfg: cfg, outer: memnet.New(memnet.Options{Seed: cfg.Seed}), label: newLabel(),
		links: map[[2]*Node]Link{}, cuts: map[[2]*Node]bool{},
	}
	tb.Cleanup(n.cleanUp)
	n.SetLinks(cfg.Links)
	for i := range cfg.Nodes {
		name := fmt.Sprintf("node%d", i+1)
		if i < len(cfg.Names) {
			name = cfg.Names[i]
		}
		key := wgnet.NewPrivateKey()
		node, err := n.addNode(name, key.Public())
		if err != nil {
			tb.Fatalf("wgnettest: node %s: %v", name, err)
		}
		node.Config = &wgnet.Config{
			PrivateKey: key, ListenPort: outerPort, ListenPacket: node.listen,
			Addresses: []netip.Prefix{netip.PrefixFrom(node.addr4, 16), netip.PrefixFrom(node.addr6, 64)},
		}
	}
	for i, a := range n.Nodes {
		for _, b := range n.Nodes[:i] {
			n.befriend(a, b)
		}
	}
	return n
}

// Join takes in a member that is not a Net: a WireGuard implementation of another kind, or whatever else sends
// datagrams. Its socket is [Node.ListenPacket]. With a public key, it becomes a peer of all Nets (in a star, of the hub)
// with the next inner addresses, which is possible before [Network.Start] only. With the zero key nobody knows it.
func (n *Network) Join(name string, key wgnet.PublicKey) *Node {
	n.tb.Helper()
	n.mu.Lock()
	started := n.started
	n.mu.Unlock()
	if started && !key.IsZero() {
		n.tb.Fatalf("wgnettest: Join of %s: the Nets have started without it; "+
			"make the network with NewUnstartedNetwork and call Start afterwards", name)
	}
	node, err := n.addNode(name, key)
	if err != nil {
		n.tb.Fatalf("wgnettest: Join of %s: %v", name, err)
	}
	if !key.IsZero() {
		for _, other := range n.Nodes[:len(n.Nodes)-1] {
			n.befriend(node, other)
		}
	}
	return node
}

// addNode makes a member with the next addresses.
func (n *Network) addNode(name string, key wgnet.PublicKey) (*Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.Nodes) + 1
	if i > maxNodes {
		return nil, fmt.Errorf("there are %d members, no more fit into 10.0.0.0/16", maxNodes)
	}
	node := &Node{
		Name: name, network: n, index: i - 1, key: key, outer: n.newOuterAddr(),
		addr4: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
		addr6: netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}),
	}
	var err error
	if node.host, err = n.outer.NewHost(node.outer); err != nil {
		return nil, err
	}
	n.Nodes = append(n.Nodes, node)
	return node, nil
}

// newOuterAddr is an address of the ranges for tests of networks (RFC 2544, RFC 5180). The caller holds mu.
func (n *Network) newOuterAddr() netip.Addr {
	n.hosts++
	b := [4]byte{byte(n.hosts >> 24), byte(n.hosts >> 16), byte(n.hosts >> 8), byte(n.hosts)}
	if n.cfg.IPv6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 3: 0x02, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
	}
	return netip.AddrFrom4([4]byte{198, 18 | b[1]&1, b[2], b[3]})
}

// befriend makes two members peers, as far as the topology wants it.
func (n *Network) befriend(a, b *Node) {
	if n.cfg.Topology == Star && a.index != 0 && b.index != 0 {
		return
	}
	for _, p := range [][2]*Node{{a, b}, {b, a}} {
		if cfg := p[0].Config; cfg != nil && !p[1].key.IsZero() {
			cfg.Peers = append(cfg.Peers, wgnet.PeerConfig{
				Name: p[1].Name, PublicKey: p[1].key, Endpoint: p[1].Endpoint().String(), AllowedIPs: p[1].AllowedIPs(),
			})
		}
	}
}

// Start starts the Nets, and waits for the handshakes between them unless the Config says otherwise. It fails the test
// if that does not work.
func (n *Network) Start() {
	n.tb.Helper()
	n.mu.Lock()
	again := n.started
	n.started = true
	n.mu.Unlock()
	if again {
		n.tb.Fatal("wgnettest: Start: the network has started before")
	}
	for _, node := range n.Nodes {
		if node.Config == nil {
			continue
		}
		// All sockets are open before the first handshake begins: what comes early waits.
		t, err := node.open(context.Background(), "udp", fmt.Sprintf(":%d", outerPort))
		if err != nil {
			n.tb.Fatalf("wgnettest: node %s: %v", node.Name, err)
		}
		node.socket.Store(t)
		node.fresh.Store(true)
	}
	if err := n.startNets(); err != nil {
		n.tb.Fatalf("wgnettest: %v", err)
	}
}

// startNets starts the Nets one after the other, and lets the later one of each two begin their handshake: the earlier one
// has no endpoint for it in its first config, and learns it. Two initiations that cross each other would make each side
// forget its own, and that costs five seconds.
func (n *Network) startNets() error {
	if n.cfg.NoWait {
		return n.each(nil, func(node *Node) error { return node.start(node.Config) })
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	byKey := make(map[wgnet.PublicKey]*Node, len(n.Nodes))
	for _, node := range n.Nodes {
		if node.Config != nil { // nobody waits for members of other kinds, which may not run yet
			byKey[node.key] = node
		}
	}
	start := func(node *Node) error {
		cfg := node.Config.Clone()
		for i, p := range cfg.Peers {
			if peer := byKey[p.PublicKey]; peer != nil && peer.initiates(node) {
				cfg.Peers[i].Endpoint = ""
			}
		}
		return node.start(cfg)
	}
	wait := func(node *Node, initiator bool) error {
		for _, p := range node.Config.Peers {
			if peer := byKey[p.PublicKey]; peer != nil && node.initiates(peer) == initiator {
				if err := n.waitPeer(ctx, node, peer); err != nil {
					return fmt.Errorf("node %s: %w", node.Name, err)
				}
			}
		}
		return nil
	}
	if err := n.each(start, func(node *Node) error { return wait(node, true) }); err != nil {
		return err
	}
	return n.each(nil, func(node *Node) error { return wait(node, false) })
}

// waitPeer waits until a node has a session with a peer. On a machine that is too busy to answer in time, handshakes begin
// again while their answers are on their way, and a device can make one session out of two. A ping shows it that
// nobody answers there.
func (n *Network) waitPeer(ctx context.Context, node, peer *Node) error {
	patience := 250*time.Millisecond + 4*(n.cfg.Links.Latency+n.cfg.Links.Jitter)
	for {
		try, cancel := context.WithTimeout(ctx, patience)
		err := node.Net.WaitPeer(try, peer.key)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		from, to := node, peer
		if peer.initiates(node) {
			from, to = peer, node
		}
		try, cancel = context.WithTimeout(ctx, 4*patience)
		_, _ = from.Net.Ping(try, to.addr4.String()) // its answer is a session; the next WaitPeer says why there is none
		cancel()
	}
}

// each calls first for each Net's node, one after the other and those behind a NAT last, and lets then follow, several at
// a time. first may be nil.
func (n *Network) each(first, then func(*Node) error) error {
	nodes := slices.DeleteFunc(slices.Clone(n.Nodes), func(v *Node) bool { return v.Config == nil })
	slices.SortFunc(nodes, func(a, b *Node) int {
		if b.initiates(a) {
			return -1
		}
		return 1
	})
	var wg sync.WaitGroup
	slots, errs := make(chan struct{}, parallel), make([]error, len(nodes))
	for i, node := range nodes {
		slots <- struct{}{}
		if first != nil {
			if errs[i] = first(node); errs[i] != nil {
				break
			}
		}
		wg.Go(func() { // ends with then
			errs[i] = then(node)
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Seed returns what decides the fate of the datagrams.
func (n *Network) Seed() uint64 { return n.cfg.Seed }

// cleanUp closes everything, and says what the test has left behind.
func (n *Network) cleanUp() {
	n.tb.Helper()
	n.fairWeather()
	if left := await(n.openSockets); len(left) > 0 {
		n.tb.Errorf("wgnettest: the test has left open:\n\t%s\nclose it before the test ends", join(left))
	}
	err := n.each(nil, func(node *Node) error { return node.close() })
	err = errors.Join(err, n.outer.Close())
	if err != nil && !errors.Is(err, net.ErrClosed) {
		n.tb.Errorf("wgnettest: close: %v", err)
	}
	if left := await(func() []string { return goroutines(n.label) }); len(left) > 0 {
		n.tb.Errorf("wgnettest: goroutines of Nets go on after Close:\n%s", join(left))
	}
	if n.tb.Failed() {
		n.tb.Logf("wgnettest: the network's seed was %d: with Config.Seed the same datagrams meet the same fate again", n.cfg.Seed)
	}
}
