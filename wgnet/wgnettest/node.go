// SPDX-License-Identifier: MIT

package wgnettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/pprof"
	"sync/atomic"

	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
)

// A Node is a member of a [Network].
type Node struct {
	// Name is how the others know it.
	Name string
	// Net is the node's host. It is nil before [Network.Start] and for members of [Network.Join].
	// [Network.Restart] replaces it.
	Net *wgnet.Net
	// Config is what Net is made from. It may be changed before [Network.Start] and before a [Network.Restart], but for
	// ListenPort and ListenPacket. It is nil for members of [Network.Join].
	Config *wgnet.Config

	network      *Network
	index        int
	key          wgnet.PublicKey
	host         *memnet.Host
	addr4, addr6 netip.Addr
	socket       atomic.Pointer[transport] // the last one that the Net has got, or is to get
	fresh        atomic.Bool               // socket waits for the Net to take it

	outer  netip.Addr              // guarded by network.mu
	nat    *NAT                    // guarded by network.mu
	opened map[*transport]struct{} // by ListenPacket, and not closed yet; guarded by network.mu
}

// Addr returns the node's IPv4 address inside the tunnel.
func (v *Node) Addr() netip.Addr { return v.addr4 }

// Addr6 returns the node's IPv6 address inside the tunnel.
func (v *Node) Addr6() netip.Addr { return v.addr6 }

// AllowedIPs returns what the others' configs say of the node: its two addresses.
func (v *Node) AllowedIPs() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(v.addr4, 32), netip.PrefixFrom(v.addr6, 128)}
}

// PublicKey returns the node's key, which is zero for a member that joined without one.
func (v *Node) PublicKey() wgnet.PublicKey { return v.key }

// Endpoint returns the node's address and port in the outer network, as the node itself sees it.
func (v *Node) Endpoint() netip.AddrPort {
	v.network.mu.Lock()
	defer v.network.mu.Unlock()
	return netip.AddrPortFrom(v.outer, outerPort)
}

// ListenPacket opens a socket of the node in the outer network, as [net.ListenConfig.ListenPacket] does: network is
// "udp", address is a port after a colon. The others expect the node at the port of [Node.Endpoint]. It has the methods
// that [wgnet.Config.ListenPacket] names. The sockets of Nets are opened for them.
func (v *Node) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	t, err := v.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	v.network.mu.Lock()
	defer v.network.mu.Unlock()
	if v.opened == nil {
		v.opened = map[*transport]struct{}{}
	}
	v.opened[t] = struct{}{}
	return t, nil
}

// listen is the Net's Config.ListenPacket. Network.Start has opened the first socket already.
func (v *Node) listen(ctx context.Context, network, address string) (net.PacketConn, error) {
	if v.fresh.Swap(false) {
		return v.socket.Load(), nil
	}
	t, err := v.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	v.socket.Store(t)
	return t, nil
}

func (v *Node) open(ctx context.Context, network, address string) (*transport, error) {
	pc, err := v.host.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &transport{Conn: pc.(*memnet.Conn), node: v}, nil
}

// start makes the Net. Its goroutines carry the network's label, as those do that they start.
func (v *Node) start(cfg *wgnet.Config) error {
	var err error
	done := make(chan struct{})
	go func() { // New does not wait for anything
		defer close(done)
		pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(labelKey, v.network.label)))
		v.Net, err = wgnet.New(cfg)
	}()
	<-done
	if err != nil {
		return fmt.Errorf("node %s: %w", v.Name, err)
	}
	return nil
}

// close closes the Net, or the socket if there never was one.
func (v *Node) close() error {
	if v.Net != nil {
		return v.Net.Close()
	}
	if t := v.socket.Load(); t != nil {
		return t.Close()
	}
	return nil
}

// initiates says which side of a link begins the handshake when the network starts.
func (v *Node) initiates(to *Node) bool {
	v.network.mu.Lock()
	defer v.network.mu.Unlock()
	if behind, other := v.nat != nil, to.nat != nil; behind != other {
		return behind // from outside nothing gets in
	}
	return v.index > to.index
}

// A transport is a node's socket in the outer network.
type transport struct {
	*memnet.Conn
	node *Node
	dead atomic.Bool // what is sent is lost
}

// WriteBatch is that of a [memnet.Conn], which is also where a Net's datagrams come from.
func (t *transport) WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error) {
	if t.dead.Load() {
		return len(bufs), nil
	}
	return t.Conn.WriteBatch(bufs, to)
}

func (t *transport) Close() error {
	t.node.network.mu.Lock()
	delete(t.node.opened, t)
	t.node.network.mu.Unlock()
	return t.Conn.Close()
}

// Restart is a node's process killed and started again, with what is in [Node.Config] now: it has the same key and
// address, and nobody is told. It returns at once; handshakes follow as after a real start.
func (n *Network) Restart(node *Node) {
	n.tb.Helper()
	if node.Net == nil {
		n.tb.Errorf("wgnettest: Restart: %s has no Net", node.Name)
		return
	}
	node.socket.Load().dead.Store(true) // a process that is killed says no farewell
	if err := errors.Join(node.Net.Close(), node.start(node.Config)); err != nil {
		n.tb.Errorf("wgnettest: Restart: %v", err)
	}
}
