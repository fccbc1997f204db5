// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.com/wgnet/internal/resolver"
)

// loopback are the addresses of localhost, IPv4 first as the net package has it.
var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// resolutionDelay is how long a dial that has IPv4 addresses waits for IPv6 ones (RFC 8305, section 8).
const resolutionDelay = 50 * time.Millisecond

// LookupNetIP returns a host's addresses: all of them for network "ip", those of one family for "ip4" and "ip6". Host is
// an IP address, localhost, the name of a peer, or a name that the Net's DNS servers know, which are asked through the
// tunnel and nowhere else: the machine's resolver, its files and its environment have no say. A peer's name means the
// addresses in its AllowedIPs that are its alone, /32 and /128.
//
// Every error is a [*net.DNSError].
func (n *Net) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return n.lookupNetIP(ctx, n.resolver(), network, host)
}

func (n *Net) lookupNetIP(ctx context.Context, r resolver.Client, network, host string) ([]netip.Addr, error) {
	addrs, known, err := n.lookupLocal(network, host)
	if known {
		return addrs, err
	}
	addrs, err = r.LookupNetIP(ctx, network, host)
	return addrs, n.lookupError(host, err)
}

// LookupHost returns a host's addresses as text; otherwise it is [Net.LookupNetIP] for network "ip".
func (n *Net) LookupHost(ctx context.Context, host string) ([]string, error) {
	addrs, err := n.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(addrs))
	for i, addr := range addrs {
		texts[i] = addr.String()
	}
	return texts, nil
}

// LookupTXT returns a name's TXT records, as [net.Resolver.LookupTXT] does, from the Net's DNS servers.
func (n *Net) LookupTXT(ctx context.Context, name string) ([]string, error) {
	r := n.resolver()
	texts, err := r.LookupTXT(ctx, name)
	return texts, n.lookupError(name, err)
}

// LookupSRV returns the SRV records of a service, as [net.Resolver.LookupSRV] does, from the Net's DNS servers.
func (n *Net) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	r := n.resolver()
	cname, records, err := r.LookupSRV(ctx, service, proto, name)
	return cname, records, n.lookupError(name, err)
}

// lookupError says why a look-up failed: that the Net is closed, or what the tunnel knows of a server that is silent.
func (n *Net) lookupError(name string, err error) error {
	if err == nil {
		return nil
	}
	if n.ending() {
		return &net.DNSError{Err: net.ErrClosed.Error(), UnwrapErr: net.ErrClosed, Name: name}
	}
	var failed *net.DNSError
	if !errors.As(err, &failed) || !failed.IsTimeout {
		return err
	}
	server, parseErr := netip.ParseAddrPort(failed.Server)
	if parseErr != nil {
		return err // no server was asked
	}
	p := n.peerFor(server.Addr())
	if p == nil {
		return err
	}
	explained := *failed
	// A dial to the server, over TCP, has been explained before.
	if because := n.noAnswer(p, server.Addr()); !strings.Contains(explained.Err, because) {
		explained.Err += ": " + because
	}
	return &explained
}

// lookupLocal answers for the names that no server is asked for. known says whether host is one.
func (n *Net) lookupLocal(network, host string) (addrs []netip.Addr, known bool, err error) {
	p := n.peers().lookup(host)
	switch {
	case n.ending():
		return nil, true, n.lookupError(host, net.ErrClosed)
	case network != "ip" && network != "ip4" && network != "ip6":
		return nil, false, nil // the resolver has the words for it
	case isLocalhost(host):
		addrs = loopback
	case p != nil:
		addrs = p.hostAddrs()
		if len(addrs) == 0 {
			return nil, true, &net.DNSError{
				Err: "peer " + p.Name + " has no address of its own: no /32 or /128 is in its AllowedIPs", Name: host, IsNotFound: true,
			}
		}
	default:
		return nil, false, nil
	}
	addrs = ofFamily(network, addrs)
	if len(addrs) == 0 {
		return nil, true, &net.DNSError{Err: host + " has no address for network " + network, Name: host, IsNotFound: true}
	}
	return addrs, true, nil
}

// dialAddrs returns the addresses to dial for a host, without those of a family that this host has no address in
// unless there are no others.
func (n *Net) dialAddrs(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == "" { // the local system, as in the net package
		return ofFamily(network, loopback[:])[:1], nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if network == "ip" && !isLocalhost(host) && n.peers().lookup(host) == nil {
		// A family that cannot be dialed need not be asked for.
		switch has4, has6 := n.hasFamily(true), n.hasFamily(false); {
		case !has6:
			network = "ip4"
		case !has4:
			network = "ip6"
		}
	}
	impatient := n.resolver()
	impatient.ResolutionDelay = resolutionDelay
	addrs, err := n.lookupNetIP(ctx, impatient, network, host)
	if err != nil {
		return nil, err
	}
	usable := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.IsLoopback() && !n.hasFamily(a.Is4()) })
	if len(usable) == 0 {
		return addrs, nil
	}
	return usable, nil
}

// hasFamily says whether this host has an address in a family.
func (n *Net) hasFamily(v4 bool) bool {
	return slices.ContainsFunc(n.config().Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == v4 })
}

func ofFamily(network string, addrs []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool {
		return network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6()
	})
}

// isLocalhost follows RFC 6761, section 6.3: localhost and all names below it.
func isLocalhost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
