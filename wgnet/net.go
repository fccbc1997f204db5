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
	"golang.zx2c4.com/wireguard/device"
)

// maxInFlight bounds the packets between the stack and the socket, for each peer. The device's queues hold tens of thousands, of 64 KiB
// each: with them full everything is slower, caches and other peers' packets above all.
const maxInFlight = 128

// What a packet becomes in a message: it is padded to a multiple, and gets a header and a tag (WireGuard paper, section
// 5.4.6).
const (
	messageOverhead = device.MessageTransportSize
	paddingMultiple = device.PaddingMultiple
)

// maxBacklog is the same for the way in, where strangers can send what looks like a packet.
const maxBacklog = 256

// Net is a host on a WireGuard network, inside this process: a tunnel and a TCP/IP stack of its own. It shares nothing
// with the machine's network but one UDP socket. Make one with [New]; all its methods are safe for concurrent use.
type Net struct {
	log      *slog.Logger
	stack    *netstack.Stack
	sockets  *outer.Sockets
	tunnel   *tunnel
	pings    atomic.Uint32 // echo requests sent, for their sequence numbers
	started  time.Time
	events   eventHub
	observer *observer
	keeper   *keeper
	lines    *logQueue // what n.log goes through; nil if nobody listens
	logging  sync.WaitGroup
	rejected rejectedCount

	// mu orders all changes: of state, of the tunnel's engine, of the stack's addresses and routes, and the start of
	// further goroutines in background. No code of the user's runs under it but the log handler's Enabled.
	mu    sync.Mutex
	state atomic.Pointer[state] // stored under mu

	resolving  atomic.Int32   // calls of Config.ResolveEndpoint that run
	background sync.WaitGroup // the goroutines that cancel ends
	ctx        context.Context
	cancel     context.CancelFunc

	closeOnce sync.Once
	done      chan struct{}
}

// state is what a Net is at one moment: the config that it follows, which is a copy of ours, and what is made of it. It
// is immutable.
type state struct {
	config   *Config
	peers    *peerTable
	resolver resolver.Client
}

// newState makes the state that follows old, which is nil for the first one.
func (n *Net) newState(cfg *Config, old *state) *state {
	s := &state{config: cfg, resolver: resolver.Client{Dial: n.dialServer, Search: cfg.SearchDomains}}
	if old != nil {
		s.peers = newPeerTable(cfg.Peers, old.peers)
	} else {
		s.peers = newPeerTable(cfg.Peers, nil)
	}
	for _, server := range cfg.DNS {
		s.resolver.Servers = append(s.resolver.Servers, netip.AddrPortFrom(server, 53))
	}
	return s
}

func (n *Net) config() *Config           { return n.state.Load().config }
func (n *Net) peers() *peerTable         { return n.state.Load().peers }
func (n *Net) resolver() resolver.Client { return n.state.Load().resolver }

// New brings a host up and returns without waiting for the network: handshakes with all peers that have an endpoint
// begin at once, and host names in endpoints are resolved, in the background. It takes a copy of cfg. An error says
// which part of cfg cannot be used, or that the UDP port is taken (errors.Is finds [syscall.EADDRINUSE]); nothing is
// left behind then.
//
// The Net has to be closed with [Net.Close].
func New(cfg *Config) (*Net, error) { return newNet(cfg, systemClock()) }

// newNet is New with a clock that tells the time of day and the time that has passed.
func newNet(cfg *Config, now func() (time.Time, time.Duration)) (*Net, error) {
	if cfg == nil {
		return nil, errors.New("wgnet: New: the config is nil")
	}
	cfg = cfg.Clone()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Net{started: time.Now(), done: make(chan struct{})}
	n.state.Store(n.newState(cfg, nil))
	n.observer, n.keeper = newObserver(n), newKeeper(n, now)
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
	cfg, peers := n.config(), n.peers()
	n.sockets, err = outer.Open(outer.Config{
		Port: cfg.ListenPort, Control: cfg.Control, ListenPacket: cfg.ListenPacket, Logger: n.log,
		Sending: func(message []byte) {
			if id, ok := n.stack.PeerOf(message); ok {
				n.stack.Sending(id)
			}
		},
		Sent: func(message []byte, packets int) {
			if id, ok := n.stack.PeerOf(message); ok {
				n.stack.Sent(id, packets)
			}
		},
		PathMTU: func(message []byte, size int) {
			if id, ok := n.stack.PeerOf(message); ok {
				n.stack.SetPathMTU(id, (size-messageOverhead)/paddingMultiple*paddingMultiple)
			}
		},
		MaxBacklog:  maxBacklog,
		Destination: n.observer.noticeMove,
		Lost:        n.socketLost,
		Reopened:    n.socketReopened,
		Response:    func(message []byte) { n.tunnel.confirmations.answer(message) },
		Keepalive:   func(message []byte) { n.tunnel.confirmations.arrived(message) },
	})
	if err != nil {
		return err
	}
	n.stack, err = netstack.New(netstack.Config{
		Addresses: cfg.Addresses,
		MTU:       cfg.MTU,
		Silent:    func(id netstack.PeerID) { n.withPeer(id, n.tunnel.silent) },
		// Packets wait in the stack, a few of them, and not in the device, which would take hundreds.
		NeedSession: func(id netstack.PeerID) { n.withPeer(id, n.tunnel.initiate) },
		MaxInFlight: maxInFlight,
		Read: func(id netstack.PeerID, packets int) {
			n.withPeer(id, func(p *peer) { p.observed.packetsSent.Add(uint64(packets)) })
		},
		Unhandled: n.logUnhandled,
	})
	if err != nil {
		return err
	}
	n.stack.SetRoutes(peers.routes())
	n.tunnel = newTunnel(n.stack, n.sockets, n.peers, n.log, n.observer, n.ctx.Done())
	if err := n.tunnel.configure(cfg.PrivateKey, peers.all); err != nil {
		return err
	}
	n.log.Info("listening", "port", n.ListenPort(), "peers", len(peers.all))
	n.keeper.renewed = n.tunnel.renewed
	n.background.Go(func() { n.observer.run(n.ctx) })                     // cancel ends it
	n.background.Go(func() { n.keeper.run(n.ctx) })                       // cancel ends it
	n.background.Go(func() { n.tunnel.greet(n.ctx, literal(peers.all)) }) // cancel ends it
	return nil
}

// withPeer calls f with a peer that the stack names, unless it was removed meanwhile.
func (n *Net) withPeer(id netstack.PeerID, f func(*peer)) {
	if p := n.peers().byID[id]; p != nil {
		f(p)
	}
}

// Close takes the host down: connections are aborted, listeners closed, what waits returns [net.ErrClosed], and so does
// every later call. Data that was written and has not been acknowledged may be lost. The other sides of TCP connections
// see a reset, unless that packet is lost on its way. Close returns when every goroutine of the Net has ended and its
// port is free.
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
	n.mu.Lock() // a change that is under way comes to its end, and no other begins
	if n.tunnel != nil {
		n.tunnel.close()
	}
	n.mu.Unlock()
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
func (n *Net) PublicKey() PublicKey { return n.config().PrivateKey.Public() }

// Addresses returns the host's addresses inside the tunnel, in the order of the config.
func (n *Net) Addresses() []netip.Prefix { return slices.Clone(n.config().Addresses) }

// ListenPort returns the UDP port that is in use, also when the config left it to the system.
func (n *Net) ListenPort() uint16 { return n.sockets.Port() }

// MTU returns the size of the largest packet inside the tunnel, in bytes.
func (n *Net) MTU() int { return n.config().mtu() }

// WaitPeer waits until there is a session with a peer, and returns at once when there is one: a handshake with it has
// completed within the last three minutes. It keeps asking for handshakes while it waits, if the peer's endpoint is
// known. Its error is the context's, explained as a dial's is, and for a deadline [os.ErrDeadlineExceeded] too;
// [net.ErrClosed]; or that no peer has that key, or has it no more.
func (n *Net) WaitPeer(ctx context.Context, key PublicKey) error {
	p := n.peers().byKey[key]
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
