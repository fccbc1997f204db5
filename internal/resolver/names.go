// SPDX-License-Identifier: MIT

package resolver

import "strings"

// maxName is the longest name in presentation form: 255 octets on the wire (RFC 1035 section 2.3.4) are 254
// characters with the final dot.
const maxName = 254

// candidates are the rooted names to ask for, in order. A name with a final dot is asked for as it stands; any other
// also with each search domain: as it stands first if it has c.Ndots dots, last if it has fewer.
func (c *Client) candidates(name string) []string {
	if !isDomainName(name) {
		return nil
	}
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}

	var names []string
	for _, domain := range c.Search {
		domain = strings.Trim(domain, ".")
		completed := name + "." + domain + "."
		if domain != "" && isDomainName(completed) && !neverAsked(completed) {
			names = append(names, completed)
		}
	}
	itself := name + "."
	if strings.Count(name, ".") >= orDefault(c.Ndots, defaultNdots) {
		return append([]string{itself}, names...)
	}
	return append(names, itself)
}

// neverAsked reports whether a name must not reach a DNS server: .onion (RFC 7686 section 2), .invalid (RFC 6761
// section 6.4) and .localhost (RFC 6761 section 6.3). Search domains do not complete such a name either: it would
// tell the server what was looked for.
func neverAsked(name string) bool {
	return isUnder(name, "onion") || isUnder(name, "invalid") || isUnder(name, "localhost")
}

// isUnder reports whether name is top, which is in lower case, or a name below it.
func isUnder(name, top string) bool {
	name = lower(strings.TrimSuffix(name, "."))
	return name == top || strings.HasSuffix(name, "."+top)
}

// isDomainName reports whether s is a host name in the net package's sense: labels of letters, digits, hyphens and
// underscores, 1 to 63 characters long, no hyphen at a label's ends, at least one character that is no digit.
// Escapes are not understood; names in other scripts come in their ASCII form (RFC 5890).
func isDomainName(s string) bool {
	if s == "." {
		return true
	}
	if len(s) > maxName || len(s) == maxName && s[maxName-1] != '.' {
		return false
	}
	numeric := true
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch b := label[i]; {
			case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', b == '-', b == '_':
				numeric = false
			case '0' <= b && b <= '9':
			default:
				return false
			}
		}
	}
	return !numeric
}

// lower folds ASCII letters alone, as DNS compares names (RFC 4343); strings.ToLower would also fold other letters
// into them.
func lower(s string) string {
	b := []byte(s)
	for i := range b {
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}
