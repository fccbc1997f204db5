// SPDX-License-Identifier: MIT

package wgnet

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// MarshalText returns the Config as a wg-quick file that [ParseConfig] reads back to the same Config. It has the
// private and the preshared keys in it, in the clear: write it to a file that nobody else may read (mode 0600). A Config
// that is not valid is an error.
func (c *Config) MarshalText() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	var b strings.Builder
	c.write(&b, PrivateKey.Reveal, PresharedKey.Reveal)
	if b.Len() > maxFileSize {
		return nil, fmt.Errorf("wgnet: config: the file would be larger than %d MiB", maxFileSize>>20)
	}
	return []byte(b.String()), nil
}

// write writes the file, with the secrets as the two functions put them.
func (c *Config) write(b *strings.Builder, private func(PrivateKey) string, preshared func(PresharedKey) string) {
	b.WriteString("[Interface]\n")
	writeValue(b, "PrivateKey", private(c.PrivateKey))
	writeList(b, "Address", texts(c.Addresses))
	if c.ListenPort != 0 {
		writeValue(b, "ListenPort", fmt.Sprint(c.ListenPort))
	}
	writeList(b, "DNS", append(texts(c.DNS), c.SearchDomains...))
	if c.MTU != 0 {
		writeValue(b, "MTU", fmt.Sprint(c.MTU))
	}
	for i := range c.Peers {
		b.WriteString("\n")
		c.Peers[i].write(b, preshared)
	}
}

func (p *PeerConfig) write(b *strings.Builder, preshared func(PresharedKey) string) {
	b.WriteString("[Peer]\n")
	if p.Name != "" {
		writeValue(b, "# Name", p.Name)
	}
	writeValue(b, "PublicKey", p.PublicKey.String())
	if !p.PresharedKey.IsZero() {
		writeValue(b, "PresharedKey", preshared(p.PresharedKey))
	}
	if p.Endpoint != "" {
		writeValue(b, "Endpoint", p.Endpoint)
	}
	if p.PinEndpoint {
		writeValue(b, "# PinEndpoint", "true")
	}
	writeList(b, "AllowedIPs", texts(p.AllowedIPs))
	if p.PersistentKeepalive != 0 {
		writeValue(b, "PersistentKeepalive", fmt.Sprint(int64(p.PersistentKeepalive/time.Second)))
	}
}

func writeValue(b *strings.Builder, key, value string) {
	b.WriteString(key + " = " + value + "\n")
}

// writeList writes as many lines as it takes to keep each short: the key may be repeated, and readers have limits.
func writeList(b *strings.Builder, key string, values []string) {
	const perLine = 16
	for chunk := range slices.Chunk(values, perLine) {
		writeValue(b, key, strings.Join(chunk, ", "))
	}
}

func texts[T netip.Addr | netip.Prefix](values []T) []string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = fmt.Sprint(v)
	}
	return s
}

// The methods below have value receivers, other than those above: a Config must hide its secrets as a value too.

// String returns the Config as a wg-quick file with "(redacted)" for each secret.
func (c Config) String() string {
	var b strings.Builder
	c.write(&b, PrivateKey.String, PresharedKey.String)
	return b.String()
}

// GoString is String: %#v shows no more than %v does.
func (c Config) GoString() string { return c.String() }

// Format writes String, whatever the verb and the flags.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue returns the Config as a group for log/slog, without secrets. The peers are only counted: there can be many.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("public_key", c.PrivateKey.Public().String()),
		slog.Any("addresses", texts(c.Addresses)),
		slog.Int("listen_port", int(c.ListenPort)),
		slog.Any("dns", texts(c.DNS)),
		slog.Any("search_domains", c.SearchDomains),
		slog.Int("mtu", c.MTU),
		slog.Int("peers", len(c.Peers)),
	)
}

// MarshalJSON returns the fields as a JSON object with "(redacted)" for each secret: encoding/json would take
// MarshalText otherwise.
func (c Config) MarshalJSON() ([]byte, error) {
	type fields Config // has the fields, and none of the methods
	return json.Marshal(fields(c))
}

// MarshalYAML returns String, for the YAML encoders that ask for this method before MarshalText.
func (c Config) MarshalYAML() (any, error) { return c.String(), nil }

// String returns the peer's section of a wg-quick file with "(redacted)" for the preshared key.
func (p PeerConfig) String() string {
	var b strings.Builder
	p.write(&b, PresharedKey.String)
	return b.String()
}

// GoString is String: %#v shows no more than %v does.
func (p PeerConfig) GoString() string { return p.String() }

// Format writes String, whatever the verb and the flags.
func (p PeerConfig) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// LogValue returns the peer as a group for log/slog, without secrets.
func (p PeerConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("name", p.Name),
		slog.String("public_key", p.PublicKey.String()),
		slog.Any("preshared_key", p.PresharedKey),
		slog.String("endpoint", p.Endpoint),
		slog.Any("allowed_ips", texts(p.AllowedIPs)),
		slog.Bool("pin_endpoint", p.PinEndpoint),
		slog.Duration("persistent_keepalive", p.PersistentKeepalive),
	)
}
