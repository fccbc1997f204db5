// SPDX-License-Identifier: MIT

package wgnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Validate reports the first thing that keeps the Config from being used, as a [*ParseError], or nil. It is the gate
// through which every value passes on its way to the device: what it accepts has no line break, and no control
// character, in any string. ParseConfig and New call it.
func (c *Config) Validate() error { return c.validate(func(int, string, int) int { return 0 }) }

// ownSection stands for [Interface] where the number of a peer is asked for.
const ownSection = -1

// locate returns the line of the i-th value of a key, in the section of a peer or in ownSection; 0 if there is none.
type locate func(peer int, key string, i int) int

func (c *Config) validate(line locate) error {
	if c == nil {
		return &ParseError{Err: errors.New("there is no config: it is nil")}
	}
	if err := c.validateInterface(line); err != nil {
		return err
	}
	return c.validatePeers(line)
}

func (c *Config) validateInterface(line locate) error {
	fail := func(key string, i int, err error) error {
		return &ParseError{Line: line(ownSection, key, i), Section: sectionInterface, Key: key, Err: err}
	}
	if c.PrivateKey.IsZero() {
		return fail("PrivateKey", 0, errors.New("missing; `wg genkey` or NewPrivateKey makes one"))
	}
	if len(c.Addresses) == 0 {
		return fail("Address", 0, errors.New("missing; it is this host's own address inside the tunnel, such as 10.0.0.2/32"))
	}
	seen := make(map[netip.Addr]bool, len(c.Addresses))
	have6 := false
	for i, p := range c.Addresses {
		if err := checkAddress(p); err != nil {
			return fail("Address", i, err)
		}
		if seen[p.Addr()] {
			return fail("Address", i, fmt.Errorf("%v is there twice", p.Addr()))
		}
		seen[p.Addr()] = true
		have6 = have6 || p.Addr().Is6()
	}
	for _, a := range c.DNS {
		if err := checkServer(a); err != nil {
			return fail("DNS", 0, err)
		}
	}
	for _, d := range c.SearchDomains {
		if err := checkDomain(d); err != nil {
			return fail("DNS", 0, fmt.Errorf("search domain %s %w", show(d), err))
		}
	}
	switch {
	case c.MTU == 0:
	case c.MTU < minMTU || c.MTU > maxMTU:
		return fail("MTU", 0, fmt.Errorf("%d is not from %d to %d; leave it out for %d", c.MTU, minMTU, maxMTU, DefaultMTU))
	case have6 && c.MTU < minMTU6:
		return fail("MTU", 0, fmt.Errorf("%d is too small for the IPv6 address: it needs at least %d", c.MTU, minMTU6))
	}
	if 0 < c.ResolveInterval && c.ResolveInterval < minResolvePause {
		return fail("ResolveInterval", 0, fmt.Errorf("%v is less than %v", c.ResolveInterval, minResolvePause))
	}
	return nil
}

func (c *Config) validatePeers(line locate) error {
	if len(c.Peers) > maxPeers {
		return &ParseError{Section: sectionPeer, Err: fmt.Errorf("%d peers, at most %d fit", len(c.Peers), maxPeers)}
	}
	var (
		own    = c.PrivateKey.Public()
		secret = c.PrivateKey.hex()
		keys   = make(map[PublicKey]int, len(c.Peers))
		names  = make(map[string]int)
		owners = make(map[netip.Prefix]int, len(c.Peers))
		total  = 0
	)
	for n := range c.Peers {
		p := &c.Peers[n]
		fail := func(key string, i int, err error) error {
			err = fmt.Errorf("peer %s: %w", p.label(), err)
			return &ParseError{Line: line(n, key, i), Section: sectionPeer, Key: key, Err: err}
		}
		other := func(m int, key string, i int) string {
			s := fmt.Sprintf("peer %s (number %d", c.Peers[m].label(), m+1)
			if l := line(m, key, i); l > 0 {
				s += fmt.Sprintf(", line %d", l)
			}
			return s + ")"
		}

		if p.PublicKey.hex() == secret {
			// Not with fail, since the peer's label may be the beginning of the key.
			return &ParseError{Line: line(n, "PublicKey", 0), Section: sectionPeer, Key: "PublicKey", Err: fmt.Errorf(
				"peer number %d: it is our own private key, which must not leave this host; "+
					"want the public key of the other one", n+1)}
		}
		if err := p.PublicKey.check(); err != nil {
			return fail("PublicKey", 0, err)
		}
		if p.PublicKey == own {
			return fail("PublicKey", 0, errors.New("it is our own key; a peer has the public key of the other host"))
		}
		if m, ok := keys[p.PublicKey]; ok {
			return fail("PublicKey", 0, fmt.Errorf("it is also the key of %s; make one peer of the two", other(m, "PublicKey", 0)))
		}
		keys[p.PublicKey] = n

		if p.Name != "" {
			if err := checkName(p.Name); err != nil {
				return fail("Name", 0, err)
			}
			folded := strings.ToLower(p.Name)
			if m, ok := names[folded]; ok {
				return fail("Name", 0, fmt.Errorf("it is also the name of %s", other(m, "Name", 0)))
			}
			names[folded] = n
		}

		if p.Endpoint != "" {
			if _, err := parseEndpoint(p.Endpoint); err != nil {
				return fail("Endpoint", 0, err)
			}
		} else if p.PinEndpoint {
			return fail("PinEndpoint", 0, errors.New("there is no Endpoint to keep the peer at"))
		}

		if total += len(p.AllowedIPs); total > maxAllowedIPs {
			return fail("AllowedIPs", 0, fmt.Errorf("more than %d in all", maxAllowedIPs))
		}
		for i, prefix := range p.AllowedIPs {
			if err := checkAllowedIP(prefix); err != nil {
				return fail("AllowedIPs", i, err)
			}
			// Twice with the same peer does no harm; with two peers the device would move it without a word.
			if m, ok := owners[prefix]; ok && m != n {
				return fail("AllowedIPs", i, fmt.Errorf("%v also belongs to %s; a prefix leads to one peer only",
					prefix, other(m, "AllowedIPs", indexOf(c.Peers[m].AllowedIPs, prefix))))
			}
			owners[prefix] = n
		}

		if k := p.PersistentKeepalive; k < 0 || k > maxKeepalive || k%time.Second != 0 {
			return fail("PersistentKeepalive", 0, fmt.Errorf("%v is not a whole number of seconds from 1 to 65535, nor 0 for off", k))
		}
	}
	return nil
}

func indexOf(prefixes []netip.Prefix, p netip.Prefix) int {
	for i, q := range prefixes {
		if p == q {
			return i
		}
	}
	return 0
}

// checkAddress reports why an interface cannot have the address.
func checkAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return errors.New("the prefix is not valid; want one such as 10.0.0.2/32 or fd00::2/64")
	case a.Is4In6():
		return fmt.Errorf("%v is an IPv4 address in IPv6 clothes; write %v", a, a.Unmap())
	case a.IsUnspecified():
		return fmt.Errorf("%v is no host's address", a)
	case a.IsLoopback():
		return fmt.Errorf("%v is a loopback address, which every host has of its own", a)
	case a.IsMulticast():
		return fmt.Errorf("%v is a multicast address; an interface needs one of its own", a)
	case a.Is4() && a.As4()[0] == 0, a == broadcast:
		return fmt.Errorf("%v is no host's address (RFC 1122, section 3.2.1.3)", a)
	}
	return nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// checkServer reports why the address cannot be that of a name server inside the tunnel.
func checkServer(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("the address is not valid; want one such as 10.0.0.1 or fd00::1")
	case a.Is4In6():
		return fmt.Errorf("%v is an IPv4 address in IPv6 clothes; write %v", a, a.Unmap())
	case a.Zone() != "":
		return fmt.Errorf("%v has a zone, and the tunnel has none; leave out what follows the %%", show(a.WithZone("").String()))
	case a.IsUnspecified(), a.IsMulticast(), a == broadcast:
		return fmt.Errorf("%v is not the address of one server", a)
	}
	return nil
}

// checkAllowedIP reports why the prefix cannot be one of a peer's.
func checkAllowedIP(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("the prefix is not valid; want one such as 10.0.0.2/32 or fd00::/64")
	case p.Addr().Is4In6():
		return fmt.Errorf("%v is an IPv4 prefix in IPv6 clothes; write it as IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("%v has bits set beyond its length; write %v", p, p.Masked())
	}
	return nil
}

// show quotes a value for an error's text, unless it may be a key that was put in the wrong place: no piece of a key
// must get into a log, so a long run of letters and digits is described instead. Long values are cut.
func show(s string) string {
	const (
		longest = 80 // more than any address or most host names need
		keyish  = 20 // no IP address has a run of so many; half of a key has
	)
	run := 0
	for i := range len(s) {
		if isAlnum(s[i]) || s[i] == '+' || s[i] == '/' {
			run++
		} else {
			run = 0
		}
		if run > keyish {
			return fmt.Sprintf("(text of %d characters)", len(s))
		}
	}
	if len(s) > longest {
		return strconv.QuoteToASCII(s[:longest]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
