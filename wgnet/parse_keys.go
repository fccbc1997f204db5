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

// A keyRule says what a key of the file is.
type keyRule struct {
	name    string // the usual spelling
	section string
	list    bool   // may be repeated, and adds up
	ignored string // why it is not for us; "" if it is
}

const (
	noPrograms = "ignored: wgnet starts no programs"
	noRouting  = "ignored: wgnet has no part in the host's routing"
)

// keyRules has every key of wg(8) and wg-quick(8).
var keyRules = []keyRule{
	{name: "PrivateKey", section: sectionInterface},
	{name: "Address", section: sectionInterface, list: true},
	{name: "ListenPort", section: sectionInterface},
	{name: "DNS", section: sectionInterface, list: true},
	{name: "MTU", section: sectionInterface},
	{name: "FwMark", section: sectionInterface, ignored: noRouting + "; Config.Control can mark the socket"},
	{name: "Table", section: sectionInterface, ignored: noRouting},
	{name: "SaveConfig", section: sectionInterface, ignored: "ignored: wgnet does not write config files"},
	{name: "PreUp", section: sectionInterface, ignored: noPrograms},
	{name: "PostUp", section: sectionInterface, ignored: noPrograms},
	{name: "PreDown", section: sectionInterface, ignored: noPrograms},
	{name: "PostDown", section: sectionInterface, ignored: noPrograms},
	{name: "PublicKey", section: sectionPeer},
	{name: "PresharedKey", section: sectionPeer},
	{name: "Endpoint", section: sectionPeer},
	{name: "AllowedIPs", section: sectionPeer, list: true},
	{name: "PersistentKeepalive", section: sectionPeer},
}

// ruleOf finds a key in any letter case.
func ruleOf(key string) (keyRule, bool) {
	for _, r := range keyRules {
		if strings.EqualFold(r.name, key) {
			return r, true
		}
	}
	return keyRule{}, false
}

// keysOf lists the keys that a section may have.
func keysOf(section string) string {
	var names []string
	for _, r := range keyRules {
		if r.section == section {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, ", ")
}

// setValue sets a key that has one value.
func (p *parser) setValue(key, value string) (err error) {
	c, peer := p.cfg, p.peer()
	switch key {
	case "PrivateKey":
		c.PrivateKey, err = parsePrivateKey(value)
	case "ListenPort":
		if c.ListenPort, err = parsePort(value); err != nil {
			err = fmt.Errorf("%s is not a port from 0 to 65535", show(value))
		}
	case "MTU":
		if c.MTU, err = strconv.Atoi(value); err != nil {
			err = fmt.Errorf("%s is not a number of bytes", show(value))
		}
	case "PublicKey":
		peer.PublicKey, err = decodeKey(value)
	case "PresharedKey":
		peer.PresharedKey, err = parsePresharedKey(value)
	case "Endpoint":
		peer.Endpoint = value
		_, err = parseEndpoint(value)
	case "PersistentKeepalive":
		if strings.EqualFold(value, "off") {
			break
		}
		seconds, parseErr := strconv.ParseUint(value, 10, 16)
		if parseErr != nil {
			return fmt.Errorf("%s is neither a number of seconds from 0 to 65535 nor \"off\"", show(value))
		}
		peer.PersistentKeepalive = time.Duration(seconds) * time.Second
	default:
		panic("wgnet: a key without a rule: " + key) // a slip in keyRules, not in the file
	}
	return err
}

// setEntry adds an entry to a list.
func (p *parser) setEntry(key, entry string) error {
	c, peer := p.cfg, p.peer()
	switch key {
	case "Address":
		prefix, err := parsePrefix(entry)
		if err != nil {
			return err
		}
		c.Addresses = append(c.Addresses, prefix)
		return checkAddress(prefix)
	case "DNS":
		return p.setDNS(entry)
	case "AllowedIPs":
		if entry[0] == '+' || entry[0] == '-' {
			return errors.New("an entry that begins with + or - changes a running interface (wg set, wg syncconf); " +
				"leave the sign out")
		}
		prefix, err := parsePrefix(entry)
		if err != nil {
			return err
		}
		if masked := prefix.Masked(); prefix != masked && !prefix.Addr().Is4In6() {
			p.warn(key, fmt.Sprintf("%v has bits set beyond its length; taken as %v", prefix, masked))
			prefix = masked
		}
		peer.AllowedIPs = append(peer.AllowedIPs, prefix)
		if len(peer.AllowedIPs) > maxAllowedIPs {
			return fmt.Errorf("more than %d", maxAllowedIPs)
		}
		return checkAllowedIP(prefix)
	}
	panic("wgnet: a list without a rule: " + key) // a slip in keyRules, not in the file
}

// setDNS adds a name server or a search domain. As in wg-quick, what has digits and dots only, or a colon, is a server.
func (p *parser) setDNS(entry string) error {
	c := p.cfg
	if strings.Trim(entry, "0123456789.") != "" && !strings.Contains(entry, ":") {
		if strings.HasPrefix(entry, "~") {
			p.warn("DNS", "an entry that begins with ~ is a rule for the host's systemd-resolved; ignored")
			return nil
		}
		c.SearchDomains = append(c.SearchDomains, entry)
		if err := checkDomain(entry); err != nil {
			return fmt.Errorf("search domain %s %w", show(entry), err)
		}
		return nil
	}
	addr, err := netip.ParseAddr(entry)
	if err != nil {
		return fmt.Errorf("%s is not an IP address", show(entry))
	}
	if addr.IsLoopback() {
		p.warn("DNS", fmt.Sprintf("%v is the loopback of the tunnel's own stack, where the host's name server is not", addr))
	}
	c.DNS = append(c.DNS, addr)
	return checkServer(addr)
}

// parsePrefix parses "address/length", or an address by itself, which is a prefix of its full length.
func parsePrefix(s string) (netip.Prefix, error) {
	const want = "want one such as 10.0.0.2, 10.0.0.0/24 or fd00::/64"
	if !strings.Contains(s, "/") {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%s is not an IP address: %s", show(s), want)
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%s has a zone, and the tunnel has none: %s", show(s), want)
		}
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s is not an IP address with a prefix length: %s", show(s), want)
	}
	return prefix, nil
}
