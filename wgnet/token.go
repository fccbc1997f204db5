// SPDX-License-Identifier: MIT

package wgnet

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unique"
)

// A token is "wgnet1_" and, in base64 for URLs without padding, the fields of the file in the order that MarshalText has,
// then a checksum of them. The underscore keeps the version apart from base64 that begins with a digit; no program takes it for the
// end of a word or for a part of an address.
//
// Numbers and the lengths of strings and lists are unsigned varints of encoding/binary. A prefix is one byte, its length
// plus 33 if it is IPv6, and the bytes of the address that matter. The checksum is CRC-32 (Castagnoli), big-endian: it
// finds each slip within 32 bits, such as a wrong character or two that changed places, and all but one in 2^32 of other
// mistakes. It protects from mistakes only: whoever can change a token can make a new one.
const (
	tokenName    = "wgnet"
	tokenVersion = "1"
	tokenPrefix  = tokenName + tokenVersion + "_"

	// maxTokenSize is far more than a person can paste, and bounds what a token can ask for: some 1,300 peers.
	maxTokenSize = 64 << 10

	token6 = 33 // added to the length of an IPv6 prefix, and one more than the longest of IPv4
)

var (
	tokenChecksum = crc32.MakeTable(crc32.Castagnoli)
	tokenEncoding = base64.RawURLEncoding.Strict()
)

// Token returns the Config as one line of text that a person can paste and [ParseToken] reads back to the same Config.
// It has what the file of [Config.MarshalText] has, the private and the preshared keys included, and they can be read
// by anybody who sees it: hand it over as you would hand over a password, and log it nowhere. A Config that is not valid
// is an error, and so is one with a pinned endpoint, or whose token would have more than 65,536 characters: use a file
// for that.
//
// A Config that lacks nothing but its PrivateKey has a token too. It is for another side that has a key already and gave
// the public one ([InviteOptions.PublicKey]): there, [Config.PrivateKey] is set after ParseToken and before New.
func (c *Config) Token() (string, error) {
	if err := c.validateButKey(); err != nil {
		return "", err
	}
	for i := range c.Peers {
		if c.Peers[i].PinEndpoint {
			return "", &ParseError{Section: sectionPeer, Key: "PinEndpoint", Err: fmt.Errorf(
				"peer %s: a token has no place for it; use a file, with MarshalText", c.Peers[i].label())}
		}
	}
	body := appendTokenBody(nil, c)
	body = binary.BigEndian.AppendUint32(body, crc32.Checksum(body, tokenChecksum))
	if len(tokenPrefix)+tokenEncoding.EncodedLen(len(body)) > maxTokenSize {
		return "", fmt.Errorf("wgnet: token: it would have more than %d characters; use a file, with MarshalText", maxTokenSize)
	}
	return tokenPrefix + tokenEncoding.EncodeToString(body), nil
}

// ParseToken reads what [Config.Token] has written. White space and line breaks, which mail programs put in, are left
// out wherever they are. The Config that is returned is valid, or lacks its PrivateKey alone, because Token was called
// without one: set it then, or New will say that it is missing. An error is a [*ParseError] whose File is "token"; it
// does not repeat the token and has no key in it. Of a text of any length no more than 65,536 characters are looked at,
// white space aside.
func ParseToken(s string) (*Config, error) {
	c, err := parseToken(s)
	if err != nil {
		if e, ok := errors.AsType[*ParseError](err); ok {
			e.File = tokenFile
			return nil, e
		}
		return nil, &ParseError{File: tokenFile, Err: err}
	}
	return c, nil
}

// validateButKey is Validate for a Config that may have no private key.
func (c *Config) validateButKey() error {
	if c == nil || !c.PrivateKey.IsZero() {
		return c.Validate()
	}
	d := *c
	d.PrivateKey = NewPrivateKey() // in the place of the one that is to come
	return d.Validate()
}

// tokenFile stands in a ParseError where the name of a file would.
const tokenFile = "token"

func parseToken(s string) (*Config, error) {
	text, err := packToken(s)
	if err != nil {
		return nil, err
	}
	encoded, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return nil, wrongPrefix(text)
	}
	body, err := tokenEncoding.DecodeString(encoded)
	split := len(body) - crc32.Size
	if err != nil || split < 0 || crc32.Checksum(body[:split], tokenChecksum) != binary.BigEndian.Uint32(body[split:]) {
		return nil, errors.New("it is cut short or mistyped: its checksum is wrong; copy the whole of it again")
	}
	body = body[:split]
	r := tokenReader{rest: body}
	c := r.config()
	if r.failed || len(r.rest) > 0 {
		return nil, errNotOurToken
	}
	if err := c.validateButKey(); err != nil {
		return nil, err
	}
	// One Config has one token: what could be written in another way too, such as a number in more bytes, was not
	// written by Token.
	if string(appendTokenBody(nil, c)) != string(body) {
		return nil, errNotOurToken
	}
	return c, nil
}

var errNotOurToken = errors.New(
	"its checksum is right, but no version 1 token is made in this way; make it again with Token")

// packToken leaves out the white space.
func packToken(s string) (string, error) {
	var b strings.Builder
	position := 0
	for _, c := range s {
		position++
		switch {
		case unicode.IsSpace(c), c == '\u200b', c == '\ufeff': // and what some programs put where a line may break
			continue
		case c >= 0x80 || !isAlnum(byte(c)) && c != '-' && c != '_':
			return "", fmt.Errorf("character %d is none that a token has; copy the token and nothing around it", position)
		case b.Len() == maxTokenSize:
			return "", fmt.Errorf("it has more than %d characters; copy the token and nothing around it", maxTokenSize)
		}
		b.WriteByte(byte(c))
	}
	return b.String(), nil
}

// wrongPrefix says what a text is that does not begin as a token of our version does.
func wrongPrefix(text string) error {
	const longest = 4 // digits of a version that is worth printing
	if text == "" {
		return errors.New("there is none; it is one line of text that begins with " + tokenPrefix)
	}
	rest, named := strings.CutPrefix(text, tokenName)
	version, _, ended := strings.Cut(rest, "_")
	if named && ended && version != "" && len(version) <= longest && strings.Trim(version, "0123456789") == "" {
		return fmt.Errorf("it is of version %s, and this program reads version %s; update the older of the two programs",
			version, tokenVersion)
	}
	return errors.New("it does not begin with " + tokenPrefix + "; copy the whole of it, from its first character on")
}

func appendTokenBody(b []byte, c *Config) []byte {
	if c.PrivateKey.IsZero() {
		b = append(b, make([]byte, keySize)...)
	} else {
		b = append(b, c.PrivateKey.private.Value()...)
	}
	b = appendList(b, c.Addresses, func(b []byte, p netip.Prefix) []byte { return appendPrefix(b, p, p.Addr().BitLen()) })
	b = binary.AppendUvarint(b, uint64(c.ListenPort))
	b = appendList(b, c.DNS, func(b []byte, a netip.Addr) []byte {
		return appendPrefix(b, netip.PrefixFrom(a, a.BitLen()), a.BitLen())
	})
	b = appendList(b, c.SearchDomains, appendString)
	b = binary.AppendUvarint(b, uint64(c.MTU))
	return appendList(b, c.Peers, appendPeer)
}

func appendPeer(b []byte, p PeerConfig) []byte {
	b = appendString(b, p.Name)
	b = append(b, p.PublicKey[:]...)
	if p.PresharedKey.IsZero() {
		b = append(b, 0)
	} else {
		b = append(append(b, 1), p.PresharedKey.preshared.Value()...)
	}
	b = appendString(b, p.Endpoint)
	b = appendList(b, p.AllowedIPs, func(b []byte, p netip.Prefix) []byte { return appendPrefix(b, p, p.Bits()) })
	return binary.AppendUvarint(b, uint64(p.PersistentKeepalive/time.Second))
}

func appendList[T any](b []byte, list []T, appendOne func([]byte, T) []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, v := range list {
		b = appendOne(b, v)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendPrefix writes the bytes of the address that hold its first bits.
func appendPrefix(b []byte, p netip.Prefix, bits int) []byte {
	length := p.Bits()
	if p.Addr().Is6() {
		length += token6
	}
	return append(append(b, byte(length)), p.Addr().AsSlice()[:(bits+7)/8]...)
}

// A tokenReader takes a token's body apart. After a failure it reads nothing but zero values, so it is asked once, at
// the end. It makes nothing that is larger than a few times the body, whatever numbers are in it.
type tokenReader struct {
	rest   []byte
	failed bool
}

func (r *tokenReader) config() *Config {
	c := new(Config)
	if raw := string(r.take(keySize)); strings.Trim(raw, "\x00") != "" { // all zeros are no key: see Token
		c.PrivateKey.private = unique.Make(privateBytes(raw))
	}
	c.Addresses = readList(r, func() netip.Prefix { return r.prefix(true) })
	c.ListenPort = uint16(r.number(1<<16 - 1))
	c.DNS = readList(r, func() netip.Addr { return r.prefix(true).Addr() })
	c.SearchDomains = readList(r, r.text)
	c.MTU = r.number(maxTokenNumber)
	c.Peers = readList(r, r.peer)
	return c
}

func (r *tokenReader) peer() (p PeerConfig) {
	p.Name = r.text()
	copy(p.PublicKey[:], r.take(keySize))
	if r.number(1) == 1 {
		if raw := string(r.take(keySize)); strings.Trim(raw, "\x00") != "" {
			p.PresharedKey.preshared = unique.Make(presharedBytes(raw))
		}
	}
	p.Endpoint = r.text()
	p.AllowedIPs = readList(r, func() netip.Prefix { return r.prefix(false) })
	p.PersistentKeepalive = time.Duration(r.number(maxTokenNumber)) * time.Second
	return p
}

// readList reads as many values as the list says that it has. It grows with what is read, not with what is said.
func readList[T any](r *tokenReader, readOne func() T) (list []T) {
	for n := r.number(maxTokenNumber); n > 0 && !r.failed; n-- {
		list = append(list, readOne())
	}
	return list
}

// take returns the next n bytes, or as many zeros as a key has if they are not there.
func (r *tokenReader) take(n int) []byte {
	if r.failed = r.failed || n > len(r.rest); r.failed {
		return make([]byte, keySize)
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

// maxTokenNumber is more than any number of a valid Config, and fits an int and a count of seconds in a Duration.
const maxTokenNumber = 1<<31 - 1

func (r *tokenReader) number(most uint64) int {
	v, n := binary.Uvarint(r.rest)
	if r.failed = r.failed || n <= 0 || v > most; r.failed {
		return 0
	}
	r.rest = r.rest[n:]
	return int(v)
}

// text reads a string. Every one of a valid Config is in visible ASCII: what is not may be a key, and must not get into
// an error's text.
func (r *tokenReader) text() string {
	s := r.take(r.number(maxTokenNumber))
	for _, c := range s {
		r.failed = r.failed || c <= ' ' || c >= 0x7f
	}
	if r.failed {
		return ""
	}
	return string(s)
}

// prefix reads a prefix with all bytes of its address, or with those that the prefix covers.
func (r *tokenReader) prefix(whole bool) netip.Prefix {
	var buf [16]byte
	bits, size := int(r.take(1)[0]), 4
	if bits >= token6 {
		bits, size = bits-token6, 16
	}
	if r.failed = r.failed || bits > size*8; r.failed {
		return netip.Prefix{}
	}
	n := size
	if !whole {
		n = (bits + 7) / 8
	}
	copy(buf[:size], r.take(n))
	addr, _ := netip.AddrFromSlice(buf[:size]) // which has a length that addresses have
	return netip.PrefixFrom(addr, bits)
}
