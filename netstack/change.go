// SPDX-License-Identifier: MIT

package netstack

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// SetRoutes says which peer serves which addresses. Dials and datagrams to an address that no peer serves fail at
// once with ENETUNREACH. Dials that are under way, connections and connected UDP sockets end when the address of their
// other side is not the same peer's any more: the first with ENETUNREACH or ECONNRESET, the others with ECONNRESET.
// Before the first call, every address is peer 0's. Of two equal prefixes the last one counts.
func (s *Stack) SetRoutes(routes []Route) {
	_ = s.ChangeRoutes(routes, func() error { return nil })
}

// ChangeRoutes is SetRoutes together with a change of the device's peers, which take makes: no connection is taken for
// one with a peer while the two disagree. What is connected to an address that changes hands ends before take is called,
// so that nothing of it gets to the new peer; until the end no dial and no Accept returns. take must not dial,
// listen or change routes. If it fails, the routes stay as they were, and so does what is not about such an address.
func (s *Stack) ChangeRoutes(routes []Route, take func() error) error {
	table := newRouteTable(routes)
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	old := s.routes.Load()
	over := func(_, remote netip.Addr) bool { return !s.isLocal(remote) && moved(old, table, remote) }
	sweep := func(dialing bool) {
		if old != nil && len(old.peers) > 0 {
			s.reset(over, dialing)
		}
	}
	s.moving.Store(true)
	defer s.moving.Store(false)
	sweep(false) // while a reset still gets to the one who had the address
	s.transit.rerouted(old, table)
	if err := take(); err != nil {
		return err
	}
	s.mu.Lock()
	s.routes.Store(table)
	s.endDialsLocked(func(dst netip.Addr) bool { return moved(old, table, dst) })
	s.mu.Unlock()
	s.silence.retain(routes)
	s.link.retain(routes)
	s.transit.forget(table)
	sweep(true) // those who dial know by now why
	return nil
}

// moved says whether addr was one peer's and is that peer's no more.
func moved(old, table *routeTable, addr netip.Addr) bool {
	before, served := old.lookup(addr)
	after, serves := table.lookup(addr)
	return served && (!serves || before != after)
}

// SetAddresses replaces the stack's own addresses: see [Config.Addresses], whose rules hold. Those that stay are not
// touched. Connections and dials from one that goes are reset, and say so to the other side; listeners and packet conns
// on it hear nothing until it comes back. An error leaves everything as it was.
func (s *Stack) SetAddresses(prefixes []netip.Prefix) error {
	own, err := newOwnAddresses(prefixes)
	if err != nil {
		return err
	}
	if own.first6.IsValid() && s.link.mtu < MinMTU6 {
		return fmt.Errorf("netstack: MTU %d is too small for IPv6: want %d", s.link.mtu, MinMTU6)
	}
	s.addressMu.Lock()
	defer s.addressMu.Unlock()
	old := s.own.Load()
	var added []netip.Addr
	for addr := range own.set {
		if old.has(addr) {
			continue
		}
		if err := s.addAddress(tunnelNIC, netip.PrefixFrom(addr, addr.BitLen())); err != nil {
			s.removeAddresses(added)
			return err
		}
		added = append(added, addr)
	}
	var gone []netip.Addr
	for addr := range old.set {
		if !own.has(addr) {
			gone = append(gone, addr)
		}
	}
	s.own.Store(own)
	s.stack.SetRouteTable(own.routeTable())
	s.transit.readdressed(own)
	if len(gone) == 0 {
		return nil
	}
	s.mu.Lock()
	s.endDialsLocked(func(dst netip.Addr) bool { return !s.reachable(dst) })
	s.mu.Unlock()
	isGone := func(addr netip.Addr) bool { return old.has(addr) && !own.has(addr) }
	onGone := func(local, remote netip.Addr) bool { return isGone(local) || isGone(remote) }
	s.reset(onGone, true) // while a reset still has an address to be sent from
	s.removeAddresses(gone)
	s.reset(onGone, true) // what came in between
	return nil
}

func (s *Stack) removeAddresses(addrs []netip.Addr) {
	for _, addr := range addrs {
		// It fails for an address that is not there, and nobody else takes one away.
		_ = s.stack.RemoveAddress(tunnelNIC, gvisorAddr(addr))
	}
}

// endDialsLocked ends the pending dials to addresses that are lost. The caller holds s.mu.
func (s *Stack) endDialsLocked(lost func(dst netip.Addr) bool) {
	for d := range s.dials {
		if lost(d.dst) {
			d.lostOnce.Do(func() { close(d.lost) })
		}
	}
}

// reset aborts what has two ends and is said to be over, what waits to be accepted and what TCP is still delivering
// included, and if dialing is set, what is being dialed. It looks through all endpoints.
func (s *Stack) reset(over func(local, remote netip.Addr) bool, dialing bool) {
	resetEndpoints(s.endpoints(), over, dialing)
}

func resetEndpoints(endpoints []stack.TransportEndpoint, over func(local, remote netip.Addr) bool, dialing bool) {
	for _, transport := range endpoints {
		ep, ok := transport.(tcpip.Endpoint)
		if !ok {
			continue
		}
		info, ok := ep.Info().(*stack.TransportEndpointInfo)
		if !ok || info.TransProto != tcp.ProtocolNumber && info.TransProto != udp.ProtocolNumber {
			continue
		}
		remote, ok := netip.AddrFromSlice(info.ID.RemoteAddress.AsSlice())
		if !ok || remote.IsUnspecified() {
			continue // a listener, or a packet conn
		}
		if info.TransProto == tcp.ProtocolNumber && !dialing && tcp.EndpointState(ep.State()) == tcp.StateSynSent {
			continue
		}
		local, _ := netip.AddrFromSlice(info.ID.LocalAddress.AsSlice())
		if over(local.Unmap(), remote.Unmap()) {
			transport.Abort()
		}
	}
}
