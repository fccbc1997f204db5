// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Networks of a [Flow], and what a [Rule] may name.
const (
	networkTCP  = "tcp"
	networkUDP  = "udp"
	networkPing = "ping"
)

var networks = []string{networkTCP, networkUDP, networkPing}

// An Action is what a rule does with the flows that it matches. The zero value is [Deny].
type Action uint8

// The actions.
const (
	Deny Action = iota
	Allow
)

// String returns "deny" or "allow".
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// Ports is a range of ports, both ends included. {80, 80} is port 80 alone.
type Ports struct {
	First, Last uint16
}

// String returns "80" or "8000-8099".
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// A Rule matches a flow if each of its fields does; an empty field matches everything. The zero value matches every
// flow and denies it. [ParseRules] reads rules from text and String writes them.
type Rule struct {
	// Action is what becomes of a flow that matches.
	Action Action

	// Networks are the protocols: "tcp", "udp" and "ping" (ICMP and ICMPv6 echo requests).
	Networks []string

	// Peers are names, in any letter case, or public keys in base64 of the peers that the flow comes from.
	Peers []string

	// To are the destinations. A rule that denies also matches an IPv6 address that has a matching IPv4 address in
	// it by RFC 6052 (NAT64, 64:ff9b::/96).
	To []netip.Prefix

	// Ports are the destination's ports. With ports, the rule matches TCP and UDP only.
	Ports []Ports

	// Special lets a rule that allows match the host's own addresses and the special ones: loopback, link-local,
	// metadata services of clouds, and the others that package documentation lists. Without it, no rule allows
	// them. It needs To, so that it cannot happen by accident.
	Special bool
}

// String returns the rule as [ParseRules] reads it: "allow tcp from laptop to 192.168.1.0/24 port 80,443".
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(r.Action.String())
	if len(r.Networks) > 0 {
		b.WriteString(" " + strings.Join(r.Networks, ","))
	}
	if len(r.Peers) > 0 {
		b.WriteString(" from " + strings.Join(r.Peers, ","))
	}
	if len(r.To) > 0 {
		b.WriteString(" to " + join(r.To))
	}
	if len(r.Ports) > 0 {
		b.WriteString(" port " + join(r.Ports))
	}
	if r.Special {
		b.WriteString(" special")
	}
	return b.String()
}

func join[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, ",")
}

// check says what is wrong with a rule and what was expected.
func (r Rule) check() error {
	if r.Action != Deny && r.Action != Allow {
		return fmt.Errorf("action %d: want Allow or Deny", r.Action)
	}
	for _, n := range r.Networks {
		if !slices.Contains(networks, n) {
			return fmt.Errorf("protocol %q: want tcp, udp or ping", n)
		}
	}
	for _, p := range r.Peers {
		if p == "" || p == "any" || isKeyword(p) || strings.ContainsFunc(p, notInName) {
			return fmt.Errorf("peer %q: want its name, or its public key in base64", p)
		}
	}
	for _, p := range r.To {
		switch {
		case !p.IsValid():
			return errors.New("a destination is not set: want a prefix such as 192.168.1.0/24")
		case p.Addr().Is4In6():
			return fmt.Errorf("destination %v: an IPv4 address inside of an IPv6 one; write it as IPv4", p)
		case p != p.Masked():
			return fmt.Errorf("destination %v has bits after its length: want %v, or %v for the one address", p, p.Masked(), p.Addr())
		}
	}
	for _, p := range r.Ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Errorf("port %v: want a number from 1 to 65535, or a range such as 8000-8099", p)
		}
	}
	if len(r.Ports) > 0 && len(r.Networks) > 0 && !slices.ContainsFunc(r.Networks, func(n string) bool { return n != networkPing }) {
		return errors.New("ping has no ports: leave them out, or name tcp or udp")
	}
	if r.Special && len(r.To) == 0 {
		return errors.New("special: say which addresses with `to`")
	}
	return nil
}

// notInName says which characters would make something else of a name in a rule's text.
func notInName(r rune) bool { return r == ',' || r == '#' || r == utf8.RuneError || unicode.IsSpace(r) }

// matches says whether the rule speaks of a flow. embedded is the IPv4 address inside of dst, if there is one.
func (r *Rule) matches(from source, network string, dst netip.AddrPort, embedded netip.Addr) bool {
	if len(r.Networks) > 0 && !slices.Contains(r.Networks, network) {
		return false
	}
	if len(r.Peers) > 0 && !slices.ContainsFunc(r.Peers, from.is) {
		return false
	}
	if len(r.Ports) > 0 {
		in := func(p Ports) bool { return p.First <= dst.Port() && dst.Port() <= p.Last }
		if network == networkPing || !slices.ContainsFunc(r.Ports, in) {
			return false
		}
	}
	if len(r.To) == 0 {
		return true
	}
	return slices.ContainsFunc(r.To, func(p netip.Prefix) bool {
		return p.Contains(dst.Addr()) || r.Action == Deny && embedded.IsValid() && p.Contains(embedded)
	})
}

// A source is the peer that a flow comes from.
type source struct{ name, id string }

// is says whether a rule's word means this peer. No name has the = of a key's base64 at its end.
func (s source) is(word string) bool {
	return word == s.id || s.name != "" && strings.EqualFold(word, s.name)
}

// String names the peer for a person.
func (s source) String() string {
	if s.name != "" {
		return s.name
	}
	return s.id
}

// A policy is a checked list of rules, which nobody changes.
type policy struct {
	rules []Rule
}

func newPolicy(rules []Rule) (*policy, error) {
	p := &policy{rules: make([]Rule, len(rules))}
	for i, r := range rules {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("gateway: rule %d: %w", i+1, err)
		}
		r.Networks, r.Peers = slices.Clone(r.Networks), slices.Clone(r.Peers)
		r.To, r.Ports = slices.Clone(r.To), slices.Clone(r.Ports)
		p.rules[i] = r
	}
	return p, nil
}

// A verdict is what the policy says of a flow.
type verdict struct {
	allowed bool
	why     func() string
}

// decide applies the first rule that matches. kind is what is special about dst's address. The reason, for a person, is
// made when it is asked for: most flows are allowed, and floods are not to cost more than they must.
func (p *policy) decide(from source, network string, dst netip.AddrPort, kind special) verdict {
	if kind.never {
		return verdict{why: func() string { return dst.Addr().String() + " is " + kind.what + ", where no flow can go" }}
	}
	embedded, _ := embedded4(dst.Addr())
	for i := range p.rules {
		r := &p.rules[i]
		if r.Action == Allow && kind.what != "" && !r.Special || !r.matches(from, network, dst, embedded) {
			continue
		}
		return verdict{allowed: r.Action == Allow, why: func() string { return fmt.Sprintf("rule %d: %v", i+1, r) }}
	}
	return verdict{why: func() string {
		if kind.what != "" {
			return dst.Addr().String() + " is " + kind.what + ", which a rule allows only if it says special"
		}
		return "no rule allows it"
	}}
}
