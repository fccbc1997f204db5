// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/internal/outer"
	"example.com/wgnet/internal/resolver"
	"example.com/wgnet/netstack"
)

// maxInFlight bounds the packets between the stack and the socket. The device's queues hold tens of thousands, of 64 KiB
// each: with them full everything is slower, caches and other peers' packets above all.
const maxInFlight = 128

// Net is a host on a WireGuard network, inside this process: a tunnel and a TCP/IP stack of its own. It shares nothing
// with the machine's network but one UDP socket. Make one with [New]; all its methods are safe for concurrent use.
type Net struct {
	config   *Config // our own copy; never changed
	log      *slog.Logger
	stack    *netstack.Stack
	sockets  *outer.Sockets
	tunnel   *tunnel
	peers    *peerTable
	resolver resolver.Client // set once
	pings    atomic.Uint32   // echo requests sent, for their sequence numbers
	started  time.Time
	events   eventHub
	observer *observer
	lines    *logQueue // what n.log goes through; nil if nobody listens
	logging  sync.WaitGroup
	rejected rejectedCount

	background sync.WaitGroup // the goroutines that cancel ends
	ctx        context.Context
	cancel     context.CancelFunc

	closeOnce sync.Once
	done      chan struct{}
}

// New brings a host up and returns without waiting for the network: handshakes with all peers that have an endpoint
// begin at once, and host names in endpoints are resolved, in the background. It takes a copy of cfg. An error says
// which part of cfg cannot be used, or that the UDP port is taken (errors.Is finds [syscall.EADDRINUSE]); nothing is
// left behind then.
//
// The Net has to be closed with [Net.Close].
func New(cfg *Config) (*Net, error) {
	if cfg == nil {
		return nil, errors.New("wgnet: New: the config is nil")
	}
	cfg = cfg.Clone()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Net{config: cfg, peers: newPeerTable(cfg.Peers), started: time.Now(), done: make(chan struct{})}
	n.observer = newObserver(n)
	n.log = slog.New(slog.DiscardHandler)
	if cfg.Logger != nil {
		n.lines = newLogQueue(cfg.Logger.Handler())
		n.log = slog.New(n.lines)
		n.logging.Go(n.lines.run) // shutDown ends it
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.start(); err != nil {
		n.shutDown()
		return nil, fmt.Errorf("wgnet: New: %w", err)
	}
	return n, nil
}

// start builds the parts from the outside in, and begins with what can fail.
func (n *Net) start() (err error) {
	n.sockets, err = outer.Open(outer.Config{
		Port: n.config.ListenPort, Control: n.config.Control, ListenPacket: n.config.ListenPacket, Logger: n.log,
		Sent:        func(packets int) { n.stack.Sent(packets) },
		Destination: n.observer.noticeMove,
	})
	if err != nil {
		return err
	}
	n.stack, err = netstack.New(netstack.Config{
		Addresses: n.config.Addresses,
		MTU:       n.config.MTU,
		Silent:    func(id netstack.PeerID) { n.tunnel.silent(n.peers.all[id]) },
		// Packets wait in the stack, a few of them, and not in the device, which would take hundreds.
		NeedSession: func(id netstack.PeerID) { n.tunnel.initiate(n.peers.all[id]) },
		MaxInFlight: maxInFlight,
		Read: func(id netstack.PeerID, packets int) {
			n.peers.all[id].observed.packetsSent.Add(uint64(packets))
		},
	})
	if err != nil {
		return err
	}
	n.stack.SetRoutes(n.peers.routes())
	n.tunnel = newTunnel(n.stack, n.sockets, n.peers, n.log, n.observer, n.ctx.Done())
	if err := n.tunnel.configure(n.config); err != nil {
		return err
	}
	n.resolver = resolver.Client{Dial: n.dialServer, Search: n.config.SearchDomains}
	for _, server := range n.config.DNS {
		n.resolver.Servers = append(n.resolver.Servers, netip.AddrPortFrom(server, 53))
	}
	n.log.Info("listening", "port", n.ListenPort(), "peers", len(n.peers.all))
	n.background.Go(func() { n.observer.run(n.ctx) })                    // cancel ends it
	n.background.Go(func() { n.tunnel.watch(n.ctx) })                    // cancel ends it
	n.background.Go(func() { n.tunnel.greet(n.ctx, n.peers.literal()) }) // cancel ends it
	n.background.Go(func() { n.resolveEndpoints(n.ctx) })                // cancel ends it
	return nil
}

// Close takes the host down: connections are aborted, listeners closed, what waits returns [net.ErrClosed], and so does
// every later call. Data that was written and has not been acknowledged may be lost. The other sides of TCP connections
// see a reset, unless that packet is lost on its way. Close returns when every goroutine of the Net has ended and its port is free.
//
// It may be called at any moment, from any goroutine and more than once; every call waits and returns nil. The one place
// that it must not be waited for in is a handler of [Config.Logger], which the Net's own goroutines wait for.
func (n *Net) Close() error {
	n.closeOnce.Do(func() {
		n.log.Info("closing")
		n.shutDown()
		close(n.done)
	})
	return nil
}

// shutDown also takes down what a failed start has left. The stack goes first, and has a moment to tell the other sides
// of it; then the sockets, since the device cannot be closed while one of its sends is blocked.
func (n *Net) shutDown() {
	n.cancel()
	if n.stack != nil {
		_ = n.stack.Close() // never fails
	}
	if n.sockets != nil {
		if err := n.sockets.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			n.log.Warn("closing the UDP socket failed", "err", err)
		}
	}
	if n.tunnel != nil {
		n.tunnel.close()
	}
	n.background.Wait()
	n.events.close()
	if n.lines != nil {
		n.lines.close()
		n.logging.Wait()
	}
}

// Done returns a channel that is closed when [Net.Close] has taken the host down.
func (n *Net) Done() <-chan struct{} { return n.done }

// PublicKey returns the key by which peers know this host.
func (n *Net) PublicKey() PublicKey { return n.config.PrivateKey.Public() }

// Addresses returns the host's addresses inside the tunnel, in the order of the config.
func (n *Net) Addresses() []netip.Prefix { return slices.Clone(n.config.Addresses) }

// ListenPort returns the UDP port that is in use, also when the config left it to the system.
func (n *Net) ListenPort() uint16 { return n.sockets.Port() }

// MTU returns the size of the largest packet inside the tunnel, in bytes.
func (n *Net) MTU() int {
	if n.config.MTU == 0 {
		return DefaultMTU
	}
	return n.config.MTU
}

// WaitPeer waits until there is a session with a peer, and returns at once when there is one: a handshake with it has
// completed within the last three minutes. It keeps asking for handshakes while it waits, if the peer's endpoint is
// known. Its error is the context's, explained as a dial's is, and for a deadline [os.ErrDeadlineExceeded] too;
// [net.ErrClosed]; or that no peer has that key.
func (n *Net) WaitPeer(ctx context.Context, key PublicKey) error {
	p := n.peers.byKey[key]
	switch {
	case n.ctx.Err() != nil:
		return fmt.Errorf("wgnet: WaitPeer: %w", net.ErrClosed)
	case p == nil:
		return fmt.Errorf("wgnet: WaitPeer: no peer has the public key %s", key)
	}
	if err := n.tunnel.waitPeer(ctx, p); err != nil {
		return fmt.Errorf("wgnet: WaitPeer: %w", n.explain(err, p, netip.Addr{}))
	}
	return nil
}
