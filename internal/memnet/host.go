// SPDX-License-Identifier: MIT

package memnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

const (
	// firstEphemeral is where port 0 begins to look (RFC 6335 section 6).
	firstEphemeral = 49152
	// pickable is the number of addresses in the ranges that newHost picks from.
	pickable = 1 << 17
)

// A Host is a machine on the network: it has addresses, and endpoints share its ports. All methods are safe for
// concurrent use.
type Host struct {
	net *Network

	// The rest is guarded by net.mu.
	addrs     []netip.Addr
	conns     map[*Conn]struct{}
	nextPort  uint16
	temporary bool // goes away with its last endpoint
}

// NewHost makes a host with these addresses, which no other host may have. Without any it picks an IPv4 and an IPv6
// address in the ranges for tests of networks, 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180): addresses that
// users' configurations hardly ever name.
func (n *Network) NewHost(addrs ...netip.Addr) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, err := n.newHost(addrs)
	if err != nil {
		return nil, fmt.Errorf("new host: %w", err)
	}
	return h, nil
}

// newHost is NewHost under mu.
func (n *Network) newHost(addrs []netip.Addr) (*Host, error) {
	if n.closed {
		return nil, net.ErrClosed
	}
	if len(addrs) == 0 {
		var err error
		if addrs, err = n.pickAddrs(); err != nil {
			return nil, err
		}
	}
	h := &Host{net: n, conns: make(map[*Conn]struct{}), nextPort: firstEphemeral}
	for _, a := range addrs {
		a = a.Unmap()
		if err := n.available(a); err != nil {
			return nil, err
		}
		if !slices.Contains(h.addrs, a) {
			h.addrs = append(h.addrs, a)
		}
	}
	for _, a := range h.addrs {
		n.hosts[a] = h
	}
	return h, nil
}

// available says why a host or a NAT cannot have an address.
func (n *Network) available(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("%s: %w", a, errAddress)
	}
	if n.hosts[a] != nil || n.outside[a] != nil {
		return errInUse(a)
	}
	return nil
}

func (n *Network) pickAddrs() ([]netip.Addr, error) {
	for range pickable {
		n.nextHost = n.nextHost%(pickable-2) + 1
		v4 := [4]byte{198, 18}
		binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(v4[:])+n.nextHost)
		v6 := [16]byte{0x20, 0x01, 0x00, 0x02}
		binary.BigEndian.PutUint32(v6[12:], n.nextHost)
		addrs := []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
		if n.available(addrs[0]) == nil && n.available(addrs[1]) == nil {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("all addresses to pick from are taken: %w", syscall.EADDRNOTAVAIL)
}

// Addrs returns the host's addresses.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.RLock()
	defer h.net.mu.RUnlock()
	return slices.Clone(h.addrs)
}

// ListenPacket opens an endpoint, a [*Conn], as [net.ListenConfig.ListenPacket] does on a machine with the host's
// addresses. network is "udp", "udp4" or "udp6". Without an address (":51820") the endpoint receives at all the host's
// addresses of the network's families. An address that the host does not have is [syscall.EADDRNOTAVAIL]; the rest is
// as in [Network.ListenPacket].
func (h *Host) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	local, err := parseListen(ctx, network, address)
	if err != nil {
		return nil, listenError(network, local, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	c, err := h.listen(network, local)
	if err != nil {
		return nil, listenError(network, local, err)
	}
	return c, nil
}

// listen opens an endpoint under net.mu.
func (h *Host) listen(network string, local netip.AddrPort) (*Conn, error) {
	if h.net.closed {
		return nil, net.ErrClosed
	}
	c := newConn(h, network, local.Addr(), local.Port())
	if len(c.addrs()) == 0 {
		return nil, syscall.EADDRNOTAVAIL
	}
	if c.port != 0 {
		if !h.free(c) {
			return nil, syscall.EADDRINUSE
		}
	} else if !h.pickPort(c) {
		return nil, fmt.Errorf("no free port: %w", syscall.EADDRINUSE)
	}
	h.conns[c] = struct{}{}
	c.register()
	return c, nil
}

// free says whether the port of an endpoint is free at all its addresses.
func (h *Host) free(c *Conn) bool {
	return !slices.ContainsFunc(c.addrs(), func(a netip.Addr) bool {
		return h.net.conns[netip.AddrPortFrom(a, c.port)] != nil
	})
}

// pickPort gives an endpoint a port that is free, always the same one after the same calls.
func (h *Host) pickPort(c *Conn) bool {
	for range 1<<16 - firstEphemeral {
		c.port = h.nextPort
		if h.nextPort++; h.nextPort == 0 {
			h.nextPort = firstEphemeral
		}
		if h.free(c) {
			return true
		}
	}
	return false
}

// Close closes the host's endpoints and gives up its addresses. It returns nil.
func (h *Host) Close() error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.temporary = true
	for _, c := range slices.Collect(maps.Keys(h.conns)) {
		c.leave()
	}
	h.leave()
	return nil
}

// leave gives up the addresses of a temporary host that has no endpoints. The caller holds net.mu.
func (h *Host) leave() {
	if !h.temporary || len(h.conns) > 0 {
		return
	}
	for _, a := range h.addrs {
		delete(h.net.hosts, a)
	}
	h.addrs = nil
}

// Move changes an address of a host, as when a machine roams: its endpoints stay open, receive at the new address and
// send from it. What is under way to the old one finds nobody. The new address must be of the same family and free. A
// move into or out of a NAT is one between an inside address and another.
func (n *Network) Move(from, to netip.Addr) error {
	from, to = from.Unmap(), to.Unmap()
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[from]
	if h == nil {
		return fmt.Errorf("move %s to %s: no host has the first", from, to)
	}
	if from.Is4() != to.Is4() {
		return fmt.Errorf("move %s to %s: the families differ", from, to)
	}
	if err := n.available(to); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	for c := range h.conns {
		c.unregister()
	}
	delete(n.hosts, from)
	n.hosts[to] = h
	h.addrs[slices.Index(h.addrs, from)] = to
	for c := range h.conns {
		if c.bound == from {
			c.bound = to
		}
		c.register()
	}
	return nil
}
