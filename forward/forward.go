// SPDX-License-Identifier: MIT

// Package forward passes connections and datagrams that come to a listener on to one address, by a dialer. With a Net on
// one side it brings a port of the host into the tunnel, or one of the tunnel to the host:
//
//	// the host's port 8080 is port 80 of a peer
//	l, err := net.Listen("tcp", "127.0.0.1:8080")
//	err = forward.TCP(ctx, l, n, "10.0.0.2:80", forward.Options{})
//
//	// the Net's port 53 is the host's name server
//	pc, err := n.ListenPacket("udp", ":53")
//	err = forward.UDP(ctx, pc, &net.Dialer{}, "127.0.0.1:53", forward.Options{})
//
// Names in the address are for the dialer to look up, each time anew. Whoever reaches the listener is let through: there
// is no other check.
package forward

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"time"

	"example.com/wgnet/internal/relay"
)

// The defaults of [Options].
const (
	defaultMaxConns    = 1024
	defaultDialTimeout = 30 * time.Second
	defaultUDPIdle     = 5 * time.Minute // RFC 4787, REQ-5
)

// A Dialer makes the connections to the address: a [*net.Dialer], a Net of package wgnet, a proxy's dialer.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Options bound a forward. The zero value has the defaults.
type Options struct {
	// MaxConns bounds the connections that are open at a time; further ones wait to be accepted. For UDP it bounds the
	// sources, of which a new one takes the place of the one that has been idle for longest. Each takes 64 KiB, and up to
	// as much again of datagrams that wait. While twice as many are still being closed, new ones are lost. 0 means 1,024.
	MaxConns int

	// DialTimeout bounds each dial. 0 means 30 seconds.
	DialTimeout time.Duration

	// UDPIdleTimeout is after how long without a datagram a source is forgotten. 0 means 5 minutes, what RFC 4787
	// recommends.
	UDPIdleTimeout time.Duration

	// Logger gets what fails, at level Debug. nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.MaxConns = cmp.Or(max(o.MaxConns, 0), defaultMaxConns)
	o.DialTimeout = cmp.Or(max(o.DialTimeout, 0), defaultDialTimeout)
	o.UDPIdleTimeout = cmp.Or(max(o.UDPIdleTimeout, 0), defaultUDPIdle)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// TCP forwards each connection that l accepts to address, until ctx is done: then it returns nil. Another end is an error
// of l. It closes l, ends the connections with a reset, and returns when nothing is left.
//
// Half-closes, resets and back-pressure are passed on both ways. If address cannot be reached, the connection is reset.
func TCP(ctx context.Context, l net.Listener, d Dialer, address string, o Options) error {
	o = o.withDefaults()
	return relay.Serve(ctx, relay.Limit(l, o.MaxConns), func(ctx context.Context, c net.Conn) {
		target, err := dial(ctx, d, "tcp", address, o)
		if err != nil {
			o.Logger.DebugContext(ctx, "connection not forwarded", "from", c.RemoteAddr(), "to", address, "error", err)
			relay.Reset(c)
			return
		}
		if err := relay.Join(ctx, c, target, relay.Hooks{}); err != nil {
			o.Logger.DebugContext(ctx, "connection broke", "from", c.RemoteAddr(), "to", address, "error", err)
		}
	})
}

func dial(ctx context.Context, d Dialer, network, address string, o Options) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}
