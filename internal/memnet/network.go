// SPDX-License-Identifier: MIT

package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	defaultReceiveBuffer = 8 << 20
	defaultMaxInFlight   = 256 << 20
	maxLinks             = 1 << 20
)

// Options are the settings of a [Network]. The zero value is ready for use.
type Options struct {
	// Seed decides the fate of every datagram; see the package's text.
	Seed uint64
	// ReceiveBuffer is the memory of an endpoint's receive buffer in bytes, unless [Conn.SetReadBuffer] says
	// otherwise. 0 means 8 MiB.
	ReceiveBuffer int
	// MaxInFlight is the memory of all that is under way, in bytes. 0 means 256 MiB.
	MaxInFlight int
}

// A Network is a datagram network in memory. All methods are safe for concurrent use.
type Network struct {
	opts     Options
	maxLinks int // maxLinks, but in tests
	epoch    time.Time
	inFlight atomic.Int64   // memory of all that is under way
	timers   sync.WaitGroup // links' timers that are pending or firing

	mu       sync.RWMutex // guards the fields down to nextHost, and Host's and Conn's that say so
	closed   bool
	hosts    map[netip.Addr]*Host
	conns    map[netip.AddrPort]*Conn // under each of their addresses
	outside  map[netip.Addr]*NAT
	inside   map[netip.Addr]*NAT
	nextHost uint32

	linksMu sync.RWMutex // guards links and def
	links   map[pair]*link
	def     Link
}

// New makes a network without hosts, all of whose links are perfect.
func New(opts Options) *Network {
	setDefault(&opts.ReceiveBuffer, defaultReceiveBuffer)
	setDefault(&opts.MaxInFlight, defaultMaxInFlight)
	return &Network{
		opts:     opts,
		maxLinks: maxLinks,
		epoch:    time.Now().Add(-time.Nanosecond), // so that now is never 0
		hosts:    make(map[netip.Addr]*Host),
		conns:    make(map[netip.AddrPort]*Conn),
		outside:  make(map[netip.Addr]*NAT),
		inside:   make(map[netip.Addr]*NAT),
		links:    make(map[pair]*link),
	}
}

// ListenPacket opens an endpoint, a [*Conn], as [net.ListenConfig.ListenPacket] does. network is "udp", "udp4" or
// "udp6". address is an IP address and a port; an address that no host has gets a new host, which goes away with its
// last endpoint. Without an address (":0") the endpoint gets a new host with addresses that are picked as by
// [Network.NewHost]: its LocalAddr says which. Port 0 picks a free port. A port that is in use is
// [syscall.EADDRINUSE], a closed Network [net.ErrClosed].
func (n *Network) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	local, err := parseListen(ctx, network, address)
	if err != nil {
		return nil, listenError(network, local, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[local.Addr()]
	if h == nil {
		var addrs []netip.Addr
		if local.Addr().IsValid() {
			addrs = []netip.Addr{local.Addr()}
		}
		if h, err = n.newHost(addrs); err != nil {
			return nil, listenError(network, local, err)
		}
		h.temporary = true
	}
	c, err := h.listen(network, local)
	if err != nil {
		h.leave()
		return nil, listenError(network, local, err)
	}
	return c, nil
}

// SetLink sets the weather of what from sends to to, from now on; what is under way is not changed. It fails if a
// value is out of its range.
func (n *Network) SetLink(from, to netip.Addr, w Link) error {
	if err := w.validate(); err != nil {
		return fmt.Errorf("link from %s to %s: %w", from, to, err)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	l, err := n.namedLink(from, to)
	if err != nil {
		return err
	}
	l.set(w, true)
	return nil
}

// SetDefault sets the weather of all links, old and new, for which SetLink was never called.
func (n *Network) SetDefault(w Link) error {
	if err := w.validate(); err != nil {
		return fmt.Errorf("default link: %w", err)
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return fmt.Errorf("default link: %w", net.ErrClosed)
	}
	n.linksMu.Lock()
	defer n.linksMu.Unlock()
	n.def = w
	for _, l := range n.links {
		l.set(w, false)
	}
	return nil
}

// Cut drops whatever is sent between two addresses from now on, both ways, until [Network.Heal]. What is under way
// arrives.
func (n *Network) Cut(a, b netip.Addr) error { return n.setCut(a, b, true) }

// Heal ends a [Network.Cut].
func (n *Network) Heal(a, b netip.Addr) error { return n.setCut(a, b, false) }

func (n *Network) setCut(a, b netip.Addr, cut bool) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, p := range []pair{{a, b}, {b, a}} {
		l, err := n.namedLink(p.from, p.to)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.cut = cut
		l.mu.Unlock()
	}
	return nil
}

// Close closes all endpoints, drops what is under way, and returns when nothing runs any more. It may be called more
// than once and from anywhere. It returns nil.
func (n *Network) Close() error {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		for _, c := range n.conns {
			c.close()
		}
		n.linksMu.RLock()
		for _, l := range n.links {
			l.stop()
		}
		n.linksMu.RUnlock()
	}
	n.mu.Unlock()
	n.timers.Wait() // fire takes mu
	return nil
}

// now is the time since the Network was made, at least 1.
func (n *Network) now() time.Duration { return time.Since(n.epoch) }

// namedLink is link for addresses from outside of the package.
func (n *Network) namedLink(from, to netip.Addr) (*link, error) {
	if !from.IsValid() || !to.IsValid() {
		return nil, fmt.Errorf("link from %s to %s: %w", from, to, errAddress)
	}
	l, err := n.link(from.Unmap(), to.Unmap())
	if err != nil {
		return nil, fmt.Errorf("link from %s to %s: %w", from, to, err)
	}
	return l, nil
}

// link finds or makes a link. The caller holds mu.
func (n *Network) link(from, to netip.Addr) (*link, error) {
	p := pair{from, to}
	n.linksMu.RLock()
	l := n.links[p]
	n.linksMu.RUnlock()
	if l != nil {
		return l, nil
	}
	if n.closed {
		return nil, net.ErrClosed
	}
	n.linksMu.Lock()
	defer n.linksMu.Unlock()
	if l = n.links[p]; l != nil {
		return l, nil
	}
	if len(n.links) >= n.maxLinks {
		return nil, fmt.Errorf("the network has its most links, %d: %w", n.maxLinks, syscall.ENOBUFS)
	}
	l = &link{net: n, key: linkKey(n.opts.Seed, from, to), weather: n.def.resolve()}
	n.links[p] = l
	return l, nil
}

// receiver finds the endpoint for what arrives, or says whether a NAT drops it. The caller holds mu.
func (n *Network) receiver(from, to netip.AddrPort) (c *Conn, filtered bool) {
	if nat := n.outside[to.Addr()]; nat != nil {
		inside, ok := nat.inbound(from, to.Port())
		if !ok {
			return nil, true
		}
		to = inside
	} else if nat := n.inside[to.Addr()]; nat != nil && n.inside[from.Addr()] != nat {
		return nil, true // an inside address means nothing outside
	}
	return n.conns[to], false
}

// charge counts memory under way, if there is room for it.
func (n *Network) charge(memory int) bool {
	if n.inFlight.Add(int64(memory)) > int64(n.opts.MaxInFlight) {
		n.refund(memory)
		return false
	}
	return true
}

func (n *Network) refund(memory int) { n.inFlight.Add(-int64(memory)) }

// parseListen reads the arguments of ListenPacket. Without an address, or with an unspecified one, the result has the
// zero Addr.
func parseListen(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if err := ctx.Err(); err != nil {
		return netip.AddrPort{}, err
	}
	if network != "udp" && network != "udp4" && network != "udp6" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		host = "::"
	}
	local, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "an IP address and a port number are expected", Addr: address}
	}
	addr := local.Addr().Unmap()
	switch {
	case addr.IsUnspecified():
		return netip.AddrPortFrom(netip.Addr{}, local.Port()), nil
	case !allows(network, addr):
		return netip.AddrPort{}, &net.AddrError{Err: "the address is not of the network " + network, Addr: address}
	}
	return netip.AddrPortFrom(addr, local.Port()), nil
}

// allows says whether an endpoint of a network may have an address.
func allows(network string, addr netip.Addr) bool {
	return network == "udp" || addr.Is4() == (network == "udp4")
}

func listenError(network string, local netip.AddrPort, err error) error {
	op := &net.OpError{Op: "listen", Net: network, Err: err}
	if local.Addr().IsValid() {
		op.Addr = net.UDPAddrFromAddrPort(local)
	}
	return op
}

// errInUse says that an address or a port is taken.
func errInUse(what any) error { return fmt.Errorf("%v: %w", what, syscall.EADDRINUSE) }

var errAddress = errors.New("a unicast IP address is expected")
