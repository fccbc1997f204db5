// SPDX-License-Identifier: MIT

package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/wgnet/internal/relay"
)

// Of RFC 1928 and, for the password, RFC 1929.
const (
	socksVersion    = 5
	passwordVersion = 1

	methodNone     = 0x00
	methodPassword = 0x02
	methodNoneFits = 0xff

	commandConnect = 1

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4

	replyOK                 = 0
	replyFailure            = 1
	replyNotAllowed         = 2
	replyNetworkUnreachable = 3
	replyHostUnreachable    = 4
	replyRefused            = 5
	replyTTLExpired         = 6
	replyCommandUnknown     = 7
	replyAddressUnknown     = 8
)

// ServeSOCKS serves SOCKS5 on l until ctx is done: then it returns nil. Another end is an error of l, or of cfg. It closes
// l, ends the connections with a reset, and returns when nothing is left.
//
// Of the commands there is CONNECT. A host name goes to the dialer as it is. Half-closes and resets are passed on.
func ServeSOCKS(ctx context.Context, l net.Listener, cfg Config) error {
	if err := cfg.prepare(l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	return relay.Serve(ctx, relay.Limit(l, cfg.MaxConns), func(ctx context.Context, c net.Conn) {
		if err := cfg.serveSOCKS(ctx, c); err != nil {
			cfg.Logger.DebugContext(ctx, "SOCKS connection failed", "client", c.RemoteAddr(), "error", err)
		}
	})
}

func (c *Config) serveSOCKS(ctx context.Context, client net.Conn) error {
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { relay.Reset(client) })
	defer stop()
	if err := client.SetDeadline(time.Now().Add(c.HandshakeTimeout)); err != nil {
		return err
	}
	address, err := c.negotiate(client)
	if err != nil {
		return err
	}
	if err := client.SetDeadline(time.Time{}); err != nil {
		return err
	}
	target, err := c.dial(ctx, address)
	if err != nil {
		return errors.Join(err, writeReply(client, replyTo(err), nil))
	}
	if err := writeReply(client, replyOK, target.LocalAddr()); err != nil {
		target.Close()
		return err
	}
	return relay.Join(ctx, client, target, relay.Hooks{})
}

// negotiate does all that comes before the dial, and returns the address to dial.
func (c *Config) negotiate(client io.ReadWriter) (address string, err error) {
	methods, err := readMethods(client)
	if err != nil {
		return "", err
	}
	want := byte(methodNone)
	if c.Username != "" {
		want = methodPassword
	}
	method := byte(methodNoneFits)
	for _, m := range methods {
		if m == want {
			method = want
		}
	}
	if _, err := client.Write([]byte{socksVersion, method}); err != nil {
		return "", err
	}
	switch method {
	case methodNoneFits:
		return "", fmt.Errorf("the client offers the methods of authentication %v, not %d", methods, want)
	case methodPassword:
		username, password, err := readPassword(client)
		if err != nil {
			return "", err
		}
		if !c.authenticated(username, password) {
			_, err := client.Write([]byte{passwordVersion, 1})
			return "", errors.Join(errors.New("wrong user name or password"), err)
		}
		if _, err := client.Write([]byte{passwordVersion, 0}); err != nil {
			return "", err
		}
	}
	address, err = readRequest(client)
	var refused socksError
	if errors.As(err, &refused) {
		return "", errors.Join(err, writeReply(client, refused.reply, nil))
	}
	return address, err
}

// A socksError is a request that is answered with a reply of its own.
type socksError struct {
	reply byte
	text  string
}

func (e socksError) Error() string { return e.text }

// readMethods reads the client's greeting (RFC 1928 section 3). Nothing is read beyond a message, here and below: what
// follows is for somebody else.
func readMethods(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != socksVersion {
		return nil, fmt.Errorf("the client speaks version %d of SOCKS, or no SOCKS: want 5", head[0])
	}
	methods := make([]byte, head[1])
	_, err := io.ReadFull(r, methods)
	return methods, err
}

// readPassword reads the client's name and password (RFC 1929 section 2).
func readPassword(r io.Reader) (username, password string, err error) {
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return "", "", err
	}
	if version[0] != passwordVersion {
		return "", "", fmt.Errorf("version %d of the authentication by password: want 1", version[0])
	}
	if username, err = readString(r); err != nil {
		return "", "", err
	}
	password, err = readString(r)
	return username, password, err
}

// readString reads up to 255 bytes, whose number comes first.
func readString(r io.Reader) (string, error) {
	var size [1]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return "", err
	}
	b := make([]byte, size[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// readRequest reads what the client wants (RFC 1928 section 4): the address to connect to.
func readRequest(r io.Reader) (address string, err error) {
	var head [4]byte // version, command, reserved, type of address
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	if head[0] != socksVersion {
		return "", socksError{replyFailure, fmt.Sprintf("a request of version %d: want 5", head[0])}
	}
	var host string
	switch head[3] {
	case addressIPv4:
		var b [4]byte
		_, err = io.ReadFull(r, b[:])
		host = netip.AddrFrom4(b).String()
	case addressIPv6:
		var b [16]byte
		_, err = io.ReadFull(r, b[:])
		host = netip.AddrFrom16(b).String()
	case addressName:
		host, err = readString(r)
	default:
		return "", socksError{replyAddressUnknown, fmt.Sprintf("an address of type %d: want 1, 3 or 4", head[3])}
	}
	if err != nil {
		return "", err
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", err
	}
	switch {
	case head[1] != commandConnect:
		return "", socksError{replyCommandUnknown, fmt.Sprintf("command %d: there is 1, CONNECT, alone", head[1])}
	case host == "":
		return "", socksError{replyFailure, "an empty host name"}
	case strings.ContainsAny(host, "[]"): // with a port it would be no address, or another one
		return "", socksError{replyFailure, "a host name with a bracket"}
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(port[:])))), nil
}

// writeReply answers a request (RFC 1928 section 6).
func writeReply(w io.Writer, reply byte, bound net.Addr) error {
	b := []byte{socksVersion, reply, 0}
	var addr netip.AddrPort
	if tcp, ok := bound.(*net.TCPAddr); ok {
		addr = tcp.AddrPort()
	}
	switch ip := addr.Addr().Unmap(); {
	case ip.Is6():
		b = append(append(b, addressIPv6), ip.AsSlice()...)
	case ip.Is4():
		b = append(append(b, addressIPv4), ip.AsSlice()...)
	default:
		b = append(b, addressIPv4, 0, 0, 0, 0)
	}
	_, err := w.Write(binary.BigEndian.AppendUint16(b, addr.Port()))
	return err
}

// replyTo says in SOCKS why a dial failed.
func replyTo(err error) byte {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return replyNetworkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &dns):
		return replyHostUnreachable
	case errors.Is(err, syscall.EACCES):
		return replyNotAllowed
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return replyTTLExpired
	}
	return replyFailure
}
