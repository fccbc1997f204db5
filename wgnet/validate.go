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
	return nil
}

func (c *Config) validatePeers(line locate) error {
	if len(c.Peers) > maxPeers {
		return &ParseError{Section: sectionPeer, Err: fmt.Errorf("%d peers, at most %d fit", len(c.Peers), maxPeers)}
	}
	var (
		own    = c.PrivateKey.Public()
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

		if p.PublicKey.hex() == c.PrivateKey.hex() {
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

// An endpoint is a peer's Endpoint taken apart.
type endpoint struct {
	host string     // a name to look up; "" if addr is valid
	addr netip.Addr // the zero Addr if host is set
	port uint16
}

// parseEndpoint takes "host:port" apart and refuses what no packet can be sent to.
func parseEndpoint(s string) (endpoint, error) {
	const want = "want host:port, such as vpn.example.com:51820, 192.0.2.1:51820 or [2001:db8::1]:51820"
	fail := func(reason string) (endpoint, error) { return endpoint{}, errors.New(show(s) + " " + reason) }

	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return fail("has no port: " + want)
	}
	host, portText := s[:i], s[i+1:]
	if strings.HasSuffix(portText, "]") {
		return fail("has no port: " + want)
	}
	port, err := parsePort(portText)
	if err != nil {
		return fail("has no port from 1 to 65535 after its last colon: " + want)
	}
	if port == 0 {
		return fail("has port 0, where nobody listens")
	}

	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		inner, bracketed = strings.CutSuffix(inner, "]")
		if !bracketed {
			return fail("has an opening bracket without a closing one: " + want)
		}
	}
	addr, err := netip.ParseAddr(inner)
	switch {
	case err != nil && bracketed:
		return fail("has no IPv6 address between the brackets: " + want)
	case err != nil && strings.Contains(inner, ":"):
		return fail("is not understood: " + want)
	case err != nil:
		if err := checkDomain(inner); err != nil {
			return endpoint{}, fmt.Errorf("%s: the host %w", show(s), err)
		}
		return endpoint{host: inner, port: port}, nil
	case addr.Is6() && !bracketed:
		return fail("needs brackets around its IPv6 address: " + want)
	case addr.Is4() && bracketed:
		return fail("has brackets around an IPv4 address: " + want)
	case addr.Is4In6():
		return fail("has an IPv4 address in IPv6 clothes; write it as IPv4")
	case addr.IsUnspecified(), addr == broadcast, addr.Is4() && addr.As4()[0] == 0:
		return fail("is no host's address")
	case addr.IsMulticast():
		return fail("is a multicast address; a peer is one host")
	case !printable(addr.Zone()):
		return fail("has a zone that is not the name or number of an interface")
	}
	return endpoint{addr: addr, port: port}, nil
}

// parsePort parses a decimal port, and nothing else: no sign, no service name.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// printable reports whether s has only visible ASCII characters that mean nothing in a config file.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`#[],=%"`, s[i]) >= 0 {
			return false
		}
	}
	return true
}

// checkName reports why a peer cannot have the name. Names follow RFC 1123, section 2.1.
func checkName(s string) error {
	if strings.HasSuffix(s, ".") {
		return errors.New("the name ends in a dot")
	}
	if strings.Contains(s, "_") {
		return errors.New("the name has an underscore; want letters, digits and hyphens")
	}
	if err := checkDomain(s); err != nil {
		return fmt.Errorf("the name %w", err)
	}
	if folded := strings.ToLower(s); folded == "localhost" || strings.HasSuffix(folded, ".localhost") {
		return errors.New("the name means the host itself (RFC 6761, section 6.3)") // our own loopback
	}
	return nil
}

// checkDomain reports why s is not a domain name. Underscores are let through: they are not for host names, but real
// zones have them. A name whose last label is a number is taken for a broken IPv4 address (RFC 1123, section 2.1).
func checkDomain(s string) error {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > 253 {
		return errors.New("is longer than 253 characters (RFC 1035, section 2.3.4)")
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return errors.New("has a label that is empty or longer than 63 characters (RFC 1035, section 2.3.4)")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("has a label that begins or ends with a hyphen")
		}
		for i := range len(label) {
			if c := label[i]; !isAlnum(c) && c != '-' && c != '_' {
				return errors.New("is not made of letters, digits, hyphens and dots (write international names in their xn-- form)")
			}
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return errors.New("looks like an IPv4 address but is none")
	}
	return nil
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
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
