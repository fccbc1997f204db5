// SPDX-License-Identifier: MIT

package wgnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// inviteKeepalive keeps the NAT in front of a guest open for this host's packets: most forget a UDP flow after 30 s or
// more (RFC 4787, section 4.3, asks for two minutes).
const inviteKeepalive = 25 * time.Second

// InviteOptions say who is invited. Only Endpoint is required; the zero value of the rest means what is said there.
type InviteOptions struct {
	// Name is the peer's name on this host: see [PeerConfig.Name]. "" means none.
	Name string

	// PublicKey is the key of somebody who has one. Zero makes a new pair, whose private half is in the Config that
	// Invite returns, and nowhere else.
	PublicKey PublicKey

	// Endpoint is where the other side reaches this host in the outer network: a host name or an address, with a port,
	// or without one if that is [Net.ListenPort]. No host can know by itself how it is seen from elsewhere.
	Endpoint string

	// HostName is the name by which the other side knows this host. "" means none.
	HostName string

	// AllowedIPs are what the other side sends to this host. nil means this host's own addresses, of the families that
	// the guest has. For more than these it
	// has to be a gateway.
	AllowedIPs []netip.Prefix

	// DNS are the name servers of the other side. nil means those of this host that are within AllowedIPs; empty means
	// none. This host's search domains come along with them.
	DNS []netip.Addr

	// PersistentKeepalive is how often the other side keeps its NAT open: see [PeerConfig.PersistentKeepalive]. 0 means
	// 25 seconds, a negative value never.
	PersistentKeepalive time.Duration
}

// Invite adds a peer, as [Net.AddPeer] does, and returns the complete Config for it: keys, a preshared key, addresses,
// MTU, name servers, and this host as its only peer. Handed over as a file or a token ([Config.MarshalText],
// [Config.Token]), it is all that the other side needs. It is as secret as any Config.
//
// The peer gets one address in each of this host's own subnets, the lowest that is neither ours nor a peer's: with
// 10.0.0.1/24 and fd00::1/64 these are 10.0.0.2 and fd00::2. No two Invites get the same one; [Net.RemovePeer] takes the
// invitation back, and its addresses are free then. Nothing else keeps them from being given to another peer: whoever
// saves this host's config has to save it after Invite.
//
// If [InviteOptions.PublicKey] was given, the Config has no PrivateKey, and is not valid before the other side has set it:
// see [Config.Token].
//
// Errors are those of AddPeer; that the endpoint is missing; that no own address has a subnet, or that one is full.
// Nothing has changed then.
func (n *Net) Invite(opts InviteOptions) (*Config, error) {
	var guest *Config
	err := n.changePeers("Invite", func(peers []PeerConfig) ([]PeerConfig, error) {
		var p PeerConfig
		var err error
		if guest, p, err = n.invitation(opts); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(peers, func(q PeerConfig) bool { return q.PublicKey == p.PublicKey }) {
			return nil, fmt.Errorf("there is a peer with the public key %s already: RemovePeer takes its invitation back", p.PublicKey)
		}
		return append(peers, p), nil
	})
	if err != nil {
		return nil, err
	}
	return guest, nil
}

// invitation makes both sides' configs. The caller holds n.mu.
func (n *Net) invitation(opts InviteOptions) (*Config, PeerConfig, error) {
	fail := func(err error) (*Config, PeerConfig, error) { return nil, PeerConfig{}, err }
	own := n.config()
	endpoint, err := n.inviteEndpoint(opts.Endpoint)
	if err != nil {
		return fail(err)
	}
	addresses, err := freeAddresses(own)
	if err != nil {
		return fail(err)
	}
	guest := &Config{Addresses: addresses, MTU: own.mtu(), DNS: slices.Clone(opts.DNS)}
	key := opts.PublicKey
	if key.IsZero() {
		guest.PrivateKey = NewPrivateKey()
		key = guest.PrivateKey.Public()
	}
	host := PeerConfig{
		Name: opts.HostName, PublicKey: own.PrivateKey.Public(), PresharedKey: NewPresharedKey(), Endpoint: endpoint,
		AllowedIPs: slices.Clone(opts.AllowedIPs), PersistentKeepalive: opts.PersistentKeepalive,
	}
	switch {
	case opts.PersistentKeepalive == 0:
		host.PersistentKeepalive = inviteKeepalive
	case opts.PersistentKeepalive < 0:
		host.PersistentKeepalive = 0
	}
	if opts.AllowedIPs == nil {
		host.AllowedIPs = hostPrefixes(own.Addresses, guest.Addresses)
	}
	if opts.DNS == nil {
		guest.DNS = slices.DeleteFunc(slices.Clone(own.DNS), func(server netip.Addr) bool {
			return !slices.ContainsFunc(host.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(server) })
		})
	}
	if len(guest.DNS) > 0 {
		guest.SearchDomains = slices.Clone(own.SearchDomains)
	}
	guest.Peers = []PeerConfig{host}
	if err := guest.validateButKey(); err != nil {
		return fail(fmt.Errorf("the other side could not use its config: %w", err))
	}
	return guest, PeerConfig{
		Name: opts.Name, PublicKey: key, PresharedKey: host.PresharedKey, AllowedIPs: hostPrefixes(addresses, addresses),
	}, nil
}

// inviteEndpoint adds the port, if there is none.
func (n *Net) inviteEndpoint(s string) (string, error) {
	port := strconv.Itoa(int(n.ListenPort()))
	if s == "" {
		return "", errors.New("the Endpoint is missing: it is where the other side reaches this host in the outer network, " +
			"a host name or an address of this machine or of the NAT in front of it, such as vpn.example.com:" + port)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(s, ":") {
		s = net.JoinHostPort(host, port)
	}
	if _, err := parseEndpoint(s); err != nil {
		return "", fmt.Errorf("the Endpoint %w", err)
	}
	return s, nil
}

// hostPrefixes are the addresses alone, those of the families that there are in with.
func hostPrefixes(addresses, with []netip.Prefix) (prefixes []netip.Prefix) {
	for _, a := range addresses {
		if slices.ContainsFunc(with, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Addr().Is4() }) {
			prefixes = append(prefixes, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
	}
	return prefixes
}

// freeAddresses returns an address for another host in each subnet of c's own, with the length of that.
func freeAddresses(c *Config) ([]netip.Prefix, error) {
	var taken, free []netip.Prefix
	taken = append(taken, hostPrefixes(c.Addresses, c.Addresses)...)
	for i := range c.Peers {
		taken = append(taken, c.Peers[i].AllowedIPs...)
	}
	var done []netip.Prefix
	for _, own := range c.Addresses {
		subnet := own.Masked()
		if own.IsSingleIP() || slices.Contains(done, subnet) {
			continue
		}
		done = append(done, subnet)
		addr, ok := freeAddress(subnet, taken)
		if !ok {
			return nil, fmt.Errorf("the subnet %s is full: each of its addresses is this host's or a peer's", subnet)
		}
		free = append(free, netip.PrefixFrom(addr, own.Bits()))
		taken = append(taken, netip.PrefixFrom(addr, addr.BitLen()))
	}
	if len(free) == 0 {
		return nil, fmt.Errorf("this host's addresses (%s) have no subnet with room for another: give one of them the length "+
			"of the network that it is in, such as %s/24", joinPrefixes(c.Addresses), c.Addresses[0].Addr())
	}
	return free, nil
}

// freeAddress returns the lowest address of a subnet that no prefix within it has. A prefix that is wider than the subnet
// is the way to other networks, and takes none of its addresses.
func freeAddress(subnet netip.Prefix, taken []netip.Prefix) (netip.Addr, bool) {
	within := slices.DeleteFunc(slices.Clone(taken), func(p netip.Prefix) bool {
		return p.Bits() < subnet.Bits() || !subnet.Contains(p.Addr())
	})
	slices.SortFunc(within, func(p, q netip.Prefix) int { return p.Addr().Compare(q.Addr()) })
	addr, end := subnet.Addr(), lastAddr(subnet)
	if subnet.Bits() < subnet.Addr().BitLen()-1 {
		// The first address is the subnet's own, or all of its routers' (RFC 4291, section 2.6.1); the last one of IPv4
		// is its broadcast address. Subnets of two addresses have neither (RFC 3021, RFC 6164).
		addr = addr.Next()
		if addr.Is4() {
			within = append(within, netip.PrefixFrom(end, 32))
		}
	}
	for _, p := range within {
		if addr.Less(p.Addr()) {
			break
		}
		if last := lastAddr(p); !last.Less(addr) {
			addr = last.Next() // not valid after the last address of all
		}
	}
	return addr, subnet.Contains(addr)
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b) // which has a length that addresses have
	return addr
}
