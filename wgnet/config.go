// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

const (
	// DefaultMTU is the MTU of a Config whose MTU is 0: 1,500 bytes of Ethernet less 80 for IPv6, UDP and WireGuard.
	DefaultMTU = 1420

	// minMTU is what every IPv4 host must be able to take in (RFC 791, section 3.1).
	minMTU = 576

	// minMTU6 is what every IPv6 link must carry (RFC 8200, section 5).
	minMTU6 = 1280

	// maxMTU is the largest inner packet that fits one UDP datagram over IPv4: 65,535 bytes less the headers of IPv4
	// (20), UDP (8) and WireGuard's data message with its tag (32; WireGuard paper, section 5.4.6). On some systems,
	// Windows among them, the device's buffers are smaller; the stack needs four bytes of them (netstack.Stack.PeerOf).
	maxMTU = min(65475, device.MaxContentSize-4)

	// maxPeers is the device's own limit (device.MaxPeers).
	maxPeers = 1 << 16

	// maxAllowedIPs bounds the trie of allowed IPs, all peers together.
	maxAllowedIPs = 1 << 20

	// maxKeepalive is the largest PersistentKeepalive that wg(8) knows.
	maxKeepalive = 65535 * time.Second
)

// Config describes one host on a WireGuard network: what stands in a wg-quick file, and a few hooks that a file cannot
// hold. Make one by hand, or with [ParseConfig], [LoadConfig] or [ParseToken]. A Config is plain data: it is not safe for
// concurrent change, and New takes a copy.
//
// A Config never shows its secrets: fmt, log/slog, encoding/json and YAML encoders print keys as "(redacted)".
// [Config.MarshalText] and [Config.Token] alone write them. Encoders that know of no other method than MarshalText, such
// as encoding/xml, write the complete file when they are given a *Config.
type Config struct {
	// PrivateKey is this host's key. Required.
	PrivateKey PrivateKey

	// Addresses are the host's own addresses inside the tunnel, each with the length of its subnet: at least one. They
	// may not be multicast, unspecified, loopback or IPv4-mapped IPv6 addresses, and none may come twice.
	Addresses []netip.Prefix

	// ListenPort is the outer UDP port. 0 lets the system pick one.
	ListenPort uint16

	// DNS are the name servers, asked through the tunnel and nowhere else. Empty means that no names are resolved
	// except the peers' own.
	DNS []netip.Addr

	// SearchDomains are the domains that are tried with names that are not fully qualified.
	SearchDomains []string

	// MTU is the largest packet inside the tunnel, in bytes: 576 to 65,475 (on Windows to 1,980), and at least
	// 1,280 with an IPv6 address. 0 means DefaultMTU. On Linux, TCP sends smaller ones to a peer when the system knows
	// that the path takes less. A path that drops large datagrams and does not say so, a black hole, is not noticed: there
	// it takes a smaller MTU.
	MTU int

	// Peers are the hosts that this one talks to: at most 65,536, with at most 1,048,576 AllowedIPs in all. It may be
	// empty.
	Peers []PeerConfig

	// The fields below are not part of the file.

	// Logger gets what the tunnel has to say: at level Info a story that a person can follow (peers up, down and why,
	// endpoints that moved), at Warn trouble, at Debug the protocol. No key but public ones is in it. Its handler runs in
	// one goroutine of its own and holds up nobody but Close; when it falls 512 lines behind, lines are lost, and counted.
	// Its Enabled is asked from any goroutine, with locks held: it must not block, nor call the Net. nil discards everything.
	Logger *slog.Logger `json:"-"`

	// Control is called for each outer UDP socket after it is made and before it is bound, as the field of the same
	// name in [net.ListenConfig]. An error keeps the socket from being used. nil does nothing.
	Control func(network, address string, c syscall.RawConn) error `json:"-"`

	// ListenPacket opens the tunnel's transport in the place of a UDP socket, as [net.ListenConfig.ListenPacket] does: an
	// in-memory, obfuscated, proxied or recorded network. It is called by New, by Apply for another port,
	// and, in a goroutine of its own, when the conn has failed for good, until it succeeds; with network "udp" and the listen
	// port after a colon. The conn's addresses are UDP addresses, its Close ends what waits in it, and the Net closes it. nil
	// opens a UDP socket. Control is not called for it.
	//
	// A conn with the methods ReadFromUDPAddrPort and WriteToUDPAddrPort of [net.UDPConn] spares allocations. One with
	//
	//	ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error)
	//	WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error)
	//
	// carries several datagrams in a call: ReadBatch waits for one and fills in as many as it can without waiting,
	// WriteBatch returns how many it has sent.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error) `json:"-"`

	// ResolveEndpoint resolves the host names in the peers' Endpoints: the only names that are ever looked up outside
	// of the tunnel. nil asks the host's resolver. It may be called from several goroutines at once, 16 at most, and has to
	// return once its context is done.
	ResolveEndpoint func(ctx context.Context, host string) ([]netip.Addr, error) `json:"-"`

	// ResolveInterval is how often those names are looked up again, on top of when a peer does not answer: at least a
	// second. A peer whose name leads elsewhere is followed there, unless it was last heard from an address that never was
	// the name's. 0 means DefaultResolveInterval, negative only when a peer does not answer.
	ResolveInterval time.Duration `json:"-"`

	warnings []Warning
}

// PeerConfig describes one peer.
type PeerConfig struct {
	// Name is a host name for the peer, which Dial understands: labels of letters, digits and hyphens, no IP address,
	// not localhost, and not the name of another peer in any letter case. "" means none. In a file it is a comment in
	// the peer's section: "# Name = db".
	Name string

	// PublicKey is who the peer is. Required, and not the same as another peer's or our own.
	PublicKey PublicKey

	// PresharedKey is a second secret, which both sides must have alike. The zero value means none.
	PresharedKey PresharedKey

	// Endpoint is where the peer is in the outer network: "host:port", where host is a name, an IPv4 address, or an
	// IPv6 address in brackets, with a zone or not. "" means that it is learned from the peer's packets. All addresses of a
	// name are tried, one after the other, until the peer answers at one, and the name is looked up again when it answers
	// at none. A peer that sends from elsewhere, and is authenticated, is answered there, until it does not answer any more.
	Endpoint string

	// PinEndpoint keeps a peer from moving: it gets what is sent to it at Endpoint, which must be set, wherever its own
	// packets come from. In a file it is a comment in the peer's section, "# PinEndpoint = true"; a token has no place for
	// it. It cannot be changed as long as the peer is one: remove the peer and add it again.
	PinEndpoint bool

	// AllowedIPs are the addresses that the peer may send from and that are sent to it. No bit may be set beyond the
	// prefix length, and a prefix belongs to one peer only. Empty means that the peer may send and receive nothing.
	AllowedIPs []netip.Prefix

	// PersistentKeepalive is how often an empty packet keeps firewalls and NATs open: whole seconds from 1 to 65,535.
	// 0 means never.
	PersistentKeepalive time.Duration
}

// Clone returns a deep copy, except for Logger and the functions, which both copies share. The clone of nil
// is nil.
func (c *Config) Clone() *Config {
	if c == nil {
		return nil
	}
	d := *c
	d.Addresses = slices.Clone(c.Addresses)
	d.DNS = slices.Clone(c.DNS)
	d.SearchDomains = slices.Clone(c.SearchDomains)
	d.Peers = slices.Clone(c.Peers)
	for i := range d.Peers {
		d.Peers[i] = d.Peers[i].clone()
	}
	d.warnings = slices.Clone(c.warnings)
	return &d
}

// mtu is the MTU that the field means.
func (c *Config) mtu() int {
	if c.MTU == 0 {
		return DefaultMTU
	}
	return c.MTU
}

// Warnings returns what [ParseConfig] or [LoadConfig] found that is no error but that a person should know: keys that
// are for other programs, a key file that others can read, prefixes that were put right. It is nil for a Config made by
// hand.
func (c *Config) Warnings() []Warning { return slices.Clone(c.warnings) }

func (p *PeerConfig) clone() PeerConfig {
	q := *p
	q.AllowedIPs = slices.Clone(p.AllowedIPs)
	return q
}

// label names the peer for a person: its name, or the beginning of its key.
func (p *PeerConfig) label() string {
	switch {
	case p.Name != "" && checkName(p.Name) == nil:
		return p.Name
	case p.PublicKey.IsZero():
		return "without a key"
	}
	return p.PublicKey.String()[:8] + "…"
}

// A Warning is something in a config file that does not keep it from being used.
type Warning struct {
	Line    int    // line in the file, from 1; 0 if it is about the file as a whole
	Section string // "Interface", "Peer", or ""
	Key     string // as in wg-quick(8), in its usual spelling; or ""
	Reason  string
}

// String returns the warning as one line of text. It holds no secrets.
func (w Warning) String() string {
	var b strings.Builder
	if w.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", w.Line)
	}
	b.WriteString(place(w.Section, w.Key))
	b.WriteString(w.Reason)
	return b.String()
}

// A ParseError says what is wrong with a config, and where. [Config.Validate] returns it too, without a line.
type ParseError struct {
	File    string // path given to LoadConfig, "token" from ParseToken, or ""
	Line    int    // line in the file, from 1; 0 if there is none
	Section string // "Interface", "Peer", or ""
	Key     string // as in wg-quick(8), in its usual spelling; or ""
	Err     error  // the cause; a peer without a name is named by the first characters of its public key
}

func (e *ParseError) Error() string {
	var b strings.Builder
	b.WriteString("wgnet: ")
	if e.File != "" {
		b.WriteString(e.File)
	} else {
		b.WriteString("config")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
	}
	b.WriteString(": ")
	b.WriteString(place(e.Section, e.Key))
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *ParseError) Unwrap() error { return e.Err }

// place says where in a config something is, for the beginning of a message.
func place(section, key string) string {
	switch {
	case section == "":
		return ""
	case key == "":
		return "[" + section + "]: "
	}
	return "[" + section + "] " + key + ": "
}
