// SPDX-License-Identifier: MIT

// Package proxy is a SOCKS5 server and an HTTP proxy over any dialer. With a Net's, programs of the host that know of
// proxies reach into the tunnel, and names are looked up there:
//
//	l, err := net.Listen("tcp", "127.0.0.1:1080")
//	err = proxy.ServeSOCKS(ctx, l, proxy.Config{Dialer: n})
//
//	curl --proxy socks5h://127.0.0.1:1080 http://server:9090
//
// A listener that is not on a loopback address needs a user name and a password. Neither protocol encrypts them.
package proxy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// The defaults of [Config].
const (
	defaultMaxConns         = 1024
	defaultDialTimeout      = 30 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
)

// A Dialer makes the connections that clients ask for: a Net of package wgnet, a [*net.Dialer]. Addresses may have host
// names in them.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says what a proxy does. The zero value of each field but Dialer is of use.
type Config struct {
	// Dialer makes the connections. It is required.
	Dialer Dialer

	// Username and Password are what clients have to give. Of at most 255 bytes each. Both empty means that none are
	// asked for, which is an error if the listener is not on a loopback address.
	Username, Password string

	// MaxConns bounds the clients' connections that are open at a time; further ones wait to be accepted. 0 means 1,024.
	MaxConns int

	// HandshakeTimeout is how long a client may take to say what it wants, and to send the rest of an HTTP request that is
	// turned away. 0 means 10 seconds.
	HandshakeTimeout time.Duration

	// DialTimeout bounds each dial. 0 means 30 seconds.
	DialTimeout time.Duration

	// Logger gets what fails, at level Debug. nil discards.
	Logger *slog.Logger
}

// prepare checks a config for a listener, and puts the defaults in.
func (c *Config) prepare(at net.Addr) error {
	switch {
	case c.Dialer == nil:
		return errors.New("proxy: Config.Dialer is not set")
	case len(c.Username) > 255 || len(c.Password) > 255: // RFC 1929 section 2
		return errors.New("proxy: a user name or password is longer than 255 bytes")
	case c.Username != "" && c.Password == "", c.Username == "" && c.Password != "":
		return errors.New("proxy: set both Username and Password, or none")
	case c.Username == "" && !isLoopback(at):
		return fmt.Errorf("proxy: %v is not a loopback address, so that others could use the proxy: "+
			"set Username and Password, or listen on 127.0.0.1", at)
	}
	c.MaxConns = cmp.Or(max(c.MaxConns, 0), defaultMaxConns)
	c.HandshakeTimeout = cmp.Or(max(c.HandshakeTimeout, 0), defaultHandshakeTimeout)
	c.DialTimeout = cmp.Or(max(c.DialTimeout, 0), defaultDialTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// isLoopback says whether only programs of this host reach a listener.
func isLoopback(at net.Addr) bool {
	switch at := at.(type) {
	case *net.TCPAddr:
		return at.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// authenticated compares in a time that does not tell how much of it is right.
func (c *Config) authenticated(username, password string) bool {
	equal := func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return subtle.ConstantTimeCompare(x[:], y[:])
	}
	return equal(username, c.Username)&equal(password, c.Password) == 1
}

func (c *Config) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	return c.Dialer.DialContext(ctx, "tcp", address)
}
