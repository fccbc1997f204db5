// SPDX-License-Identifier: MIT

package wgnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

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
