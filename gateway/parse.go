// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxRules bounds what ParseRules reads: each flow is compared with rule after rule.
const maxRules = 10_000

// ParseRules reads rules from text, one a line:
//
//	# the printer, for everybody
//	allow tcp to 192.168.1.9 port 631,9100
//	allow tcp,udp from laptop,phone to 192.168.1.0/24 port 53,80,8000-8099
//	deny to 10.0.0.0/8
//	allow ping
//	allow tcp to 127.0.0.1 port 8080 special
//
// A line has an action, then in this order, each of them optional: protocols, `from` peers, `to` destinations (addresses,
// prefixes, or any), `port` ports, and `special`. Lists are separated by commas, with spaces after them or none. What
// follows a # is a comment. The fields of [Rule] say what they mean. An error names the line and what was expected.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := fields(line)
		if len(words) == 0 {
			continue
		}
		if len(rules) == maxRules {
			return nil, fmt.Errorf("gateway: line %d: more than %d rules", number, maxRules)
		}
		r, err := parseRule(words)
		if err == nil {
			err = r.check()
		}
		if err != nil {
			return nil, fmt.Errorf("gateway: line %d: %w", number, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// fields splits a line into words, with each list in one word.
func fields(line string) (words []string) {
	joined := false
	for _, word := range strings.Fields(line) {
		if len(words) > 0 && (joined || word[0] == ',') {
			words[len(words)-1] += word
		} else {
			words = append(words, word)
		}
		joined = word[len(word)-1] == ','
	}
	return words
}

func parseRule(words []string) (r Rule, err error) {
	switch words[0] {
	case "allow":
		r.Action = Allow
	case "deny":
	default:
		return r, fmt.Errorf("%q: want allow or deny first", words[0])
	}
	words = words[1:]
	if len(words) > 0 && !isKeyword(words[0]) {
		if r.Networks, err = list(words[0], parseWord); err != nil {
			return r, err
		}
		words = words[1:]
	}
	keyword := ""
	for len(words) > 0 {
		if !follows(words[0], keyword) {
			return r, fmt.Errorf("%q: want protocols, from, to, port, special, each once and in this order", words[0])
		}
		keyword = words[0]
		if keyword == "special" {
			r.Special = true
			words = words[1:]
			continue
		}
		if len(words) == 1 || isKeyword(words[1]) {
			return r, fmt.Errorf("nothing after %q", keyword)
		}
		value := words[1]
		words = words[2:]
		if value == "any" {
			continue
		}
		switch keyword {
		case "from":
			r.Peers, err = list(value, parseWord)
		case "to":
			r.To, err = list(value, parsePrefix)
		case "port":
			r.Ports, err = list(value, parsePorts)
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", keyword, err)
		}
	}
	return r, nil
}

var keywords = []string{"from", "to", "port", "special"}

func isKeyword(word string) bool { return follows(word, "") }

// follows says whether a word is a keyword that comes after another one, "" being the first of all.
func follows(word, keyword string) bool {
	after := keyword == ""
	for _, k := range keywords {
		if after && k == word {
			return true
		}
		after = after || k == keyword
	}
	return false
}

func list[T any](text string, parse func(string) (T, error)) (values []T, err error) {
	for word := range strings.SplitSeq(text, ",") {
		if word == "" {
			return nil, fmt.Errorf("%q: a comma too many", text)
		}
		v, err := parse(word)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

func parseWord(word string) (string, error) {
	if word == "any" || isKeyword(word) {
		return "", fmt.Errorf("%q in a list", word)
	}
	return word, nil
}

func parsePrefix(word string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(word); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return p, fmt.Errorf("%q: want an address, or a prefix such as 192.168.1.0/24 or fd00::/8", word)
	}
	return p, nil
}

func parsePorts(word string) (p Ports, err error) {
	first, last, isRange := strings.Cut(word, "-")
	p.First, err = parsePort(first)
	p.Last = p.First
	if isRange {
		var lastErr error
		p.Last, lastErr = parsePort(last)
		err = errors.Join(err, lastErr)
	}
	if err != nil {
		return p, fmt.Errorf("%q: want a number from 1 to 65535, or a range such as 8000-8099", word)
	}
	return p, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}
