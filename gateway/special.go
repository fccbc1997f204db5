// SPDX-License-Identifier: MIT

package gateway

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// special is what sets an address apart from those that rules speak of. The zero value is an ordinary address.
type special struct {
	what  string // "a loopback address", for a person; "" for an ordinary one
	never bool   // no rule can allow it
}

// specialPrefixes are those that mean something to the host itself or to the machines beside it, whatever network it is
// in: they are no part of what a peer is let into. The first that contains an address is the one that counts. Most are
// in IANA's registries of special-purpose addresses (RFC 6890).
var specialPrefixes = []struct {
	prefix netip.Prefix
	special
}{
	// Not the address of one host. Go, like Linux, takes the unspecified address for the loopback's.
	{netip.MustParsePrefix("0.0.0.0/32"), special{"the unspecified address", true}},
	{netip.MustParsePrefix("::/128"), special{"the unspecified address", true}},
	{netip.MustParsePrefix("224.0.0.0/4"), special{"a multicast address", true}},
	{netip.MustParsePrefix("ff00::/8"), special{"a multicast address", true}},
	{netip.MustParsePrefix("255.255.255.255/32"), special{"the broadcast address", true}},

	{netip.MustParsePrefix("127.0.0.0/8"), special{what: "a loopback address"}},
	{netip.MustParsePrefix("::1/128"), special{what: "a loopback address"}},
	{netip.MustParsePrefix("169.254.0.0/16"), special{what: "a link-local address, as metadata services have"}}, // RFC 3927
	{netip.MustParsePrefix("fe80::/10"), special{what: "a link-local address"}},                                 // RFC 4291
	{netip.MustParsePrefix("fec0::/10"), special{what: "a site-local address"}},                                 // RFC 3879
	{netip.MustParsePrefix("0.0.0.0/8"), special{what: "an address of \"this network\""}},                       // RFC 791
	{netip.MustParsePrefix("192.0.0.0/24"), special{what: "an address of IETF protocols"}},                      // RFC 6890
	{netip.MustParsePrefix("240.0.0.0/4"), special{what: "a reserved address"}},                                 // RFC 1112
	{netip.MustParsePrefix("100::/64"), special{what: "a discard-only address"}},                                // RFC 6666

	// What clouds let their virtual machines reach beside 169.254.0.0/16.
	{netip.MustParsePrefix("100.100.100.200/32"), special{what: "a cloud's metadata service"}}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), special{what: "a cloud's metadata service"}},   // Azure
	{netip.MustParsePrefix("fd00:ec2::/32"), special{what: "a cloud's metadata service"}},      // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), special{what: "a cloud's metadata service"}},   // Google
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), special{what: "a cloud's metadata service"}},
	{netip.MustParsePrefix("fd00:42::42/128"), special{what: "a cloud's metadata service"}},

	// Transition mechanisms: packets to these addresses may end at an IPv4 address that is not to be seen in them, or
	// that whoever made them chose.
	{netip.MustParsePrefix("::/96"), special{what: "an IPv4-compatible address"}},                // RFC 4291 section 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0:0/96"), special{what: "an IPv4-translated address"}},      // RFC 2765
	{netip.MustParsePrefix("64:ff9b:1::/48"), special{what: "an address of a local NAT64"}},      // RFC 8215
	{netip.MustParsePrefix("2002::/16"), special{what: "a 6to4 address"}},                        // RFC 3056
	{netip.MustParsePrefix("2001::/32"), special{what: "a Teredo address"}},                      // RFC 4380
	{netip.MustParsePrefix("192.88.99.0/24"), special{what: "an address of 6to4 relays"}},        // RFC 7526
	{netip.MustParsePrefix("5f00::/16"), special{what: "a segment routing identifier"}},          // RFC 9602
	{netip.MustParsePrefix("2001:10::/28"), special{what: "a cryptographic hash identifier"}},    // RFC 4843
	{netip.MustParsePrefix("2001:20::/28"), special{what: "a cryptographic hash identifier v2"}}, // RFC 7343
}

// nat64 is the well-known prefix of NAT64 (RFC 6052 section 2.1). Where the host's network has a NAT64, these are the
// addresses of all IPv4 hosts.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded4 returns the IPv4 address that a packet to addr ends at, if addr spells one.
func embedded4(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	// An ISATAP interface identifier is 0000:5efe or 0200:5efe before the IPv4 address, under any prefix (RFC 5214
	// section 6.1).
	isatap := b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
	if nat64.Contains(addr) || isatap {
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.Addr{}, false
}

// staticKind says what is special about an address, wherever the host is. addr is not 4-in-6.
func staticKind(addr netip.Addr) special {
	for _, s := range specialPrefixes {
		if s.prefix.Contains(addr) {
			return s.special
		}
	}
	return special{}
}

// ownMaxAge is for how long the host's addresses are taken for what they were.
const ownMaxAge = time.Second

// ownAddrs knows the host's own addresses. Its methods are safe for concurrent use.
type ownAddrs struct {
	interfaces func() ([]net.Addr, error)        // net.InterfaceAddrs, but in tests
	route      func(netip.Addr) (special, error) // routeKind, but in tests

	mu   sync.Mutex // guards what follows
	read time.Time
	all  map[netip.Addr]special
	err  error
}

// kind says what is special about an address on this host. 4-in-6 addresses are judged as the IPv4 address that a socket
// would connect to.
func (o *ownAddrs) kind(addr netip.Addr) special { return kind(addr, o.ownKind) }

// freshKind is kind as of this very moment, by the system's own routing where it can be asked for that. It costs some
// system calls: it is for addresses that a socket is about to be connected to.
func (o *ownAddrs) freshKind(addr netip.Addr) special {
	return kind(addr, func(addr netip.Addr) special {
		k, err := o.route(addr)
		if err != nil {
			o.forget()
		}
		return firstOf(k, o.ownKind(addr))
	})
}

// kind says what is special about an address, by who it is and by what own says of it.
func kind(addr netip.Addr, own func(netip.Addr) special) special {
	addr = addr.Unmap().WithZone("")
	kinds := []special{staticKind(addr), own(addr)}
	if inner, ok := embedded4(addr); ok {
		kinds = append(kinds, staticKind(inner), own(inner))
	}
	return firstOf(kinds...)
}

// firstOf is what counts of all that is special about an address.
func firstOf(kinds ...special) special {
	var found special
	for _, k := range kinds {
		if k.never {
			return k
		}
		if found.what == "" {
			found = k
		}
	}
	return found
}

// forget has the addresses read anew when they are next needed.
func (o *ownAddrs) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = nil
}

// ownKind says whether an address is one of the host's own. When they cannot be read, every address may be one.
func (o *ownAddrs) ownKind(addr netip.Addr) special {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); o.all == nil || now.Sub(o.read) >= ownMaxAge || now.Before(o.read) {
		o.read = now
		o.all, o.err = readOwn(o.interfaces)
	}
	if o.err != nil {
		return special{what: "perhaps the host's own (its addresses cannot be read: " + o.err.Error() + ")"}
	}
	return o.all[addr]
}

// readOwn lists the host's addresses, and those of its links that stand for more than one host.
func readOwn(interfaces func() ([]net.Addr, error)) (map[netip.Addr]special, error) {
	own := map[netip.Addr]special{}
	addrs, err := interfaces()
	if err != nil {
		return own, err
	}
	for _, a := range addrs {
		ipNet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ipNet.IP)
		if !ok {
			continue
		}
		addr = addr.Unmap()
		bits, _ := ipNet.Mask.Size()
		if len(ipNet.Mask) == net.IPv6len && addr.Is4() {
			bits -= 96
		}
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		first := prefix.Addr()
		switch {
		case addr.Is4() && bits < 31: // below, there is none (RFC 3021)
			last := first.As4()
			for i := bits; i < 32; i++ {
				last[i/8] |= 0x80 >> (i % 8)
			}
			own[first] = special{"the address of a whole network", true}
			own[netip.AddrFrom4(last)] = special{"a broadcast address", true}
		case addr.Is6() && bits < 127: // RFC 6164; the routers of the link, this host perhaps (RFC 4291 section 2.6.1)
			own[first] = special{what: "an anycast address of routers"}
		}
	}
	for _, a := range addrs { // last, so that an address of the host is that before all
		if ipNet, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ipNet.IP); ok {
				own[addr.Unmap()] = special{what: "the host's own address"}
			}
		}
	}
	return own, nil
}
