// SPDX-License-Identifier: MIT

package netstack_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"example.com/wgnet/netstack"
)

// The cases of the conformance suite run twice: on the net package over the host's loopback, and between two stacks.
// What each case notes down has to be the same.

type tcpConn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
}

type tcpListener interface {
	net.Listener
	SetDeadline(t time.Time) error
}

type udpConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// world is a place for the suite to run in: a client that dials, and a server at an address.
type world struct {
	server, client netip.Addr
	dialTCP        func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (tcpConn, error)
	listenTCP      func(network string, laddr netip.AddrPort) (tcpListener, error)
	dialUDP        func(network string, laddr, raddr netip.AddrPort) (udpConn, error)
	listenUDP      func(network string, laddr netip.AddrPort) (udpConn, error)
	clientUDP      func(network string, laddr netip.AddrPort) (udpConn, error)

	notes []string
}

func (w *world) note(what string, args ...any) {
	line := what + ":"
	for _, arg := range args {
		switch arg := arg.(type) {
		case nil:
			line += " nil"
		case error:
			line += " " + describe(arg)
		default:
			line += fmt.Sprintf(" %v", arg)
		}
	}
	w.notes = append(w.notes, line)
}

var errorKinds = []struct {
	name string
	err  error
}{
	{"ErrClosed", net.ErrClosed},
	{"ErrDeadlineExceeded", os.ErrDeadlineExceeded},
	{"Canceled", context.Canceled},
	{"ErrWriteToConnected", net.ErrWriteToConnected},
	{"ErrUnexpectedEOF", io.ErrUnexpectedEOF},
	{"ECONNREFUSED", syscall.ECONNREFUSED},
	{"ECONNRESET", syscall.ECONNRESET},
	{"ECONNABORTED", syscall.ECONNABORTED},
	{"EPIPE", syscall.EPIPE},
	{"EADDRINUSE", syscall.EADDRINUSE},
	{"EADDRNOTAVAIL", syscall.EADDRNOTAVAIL},
	{"ENETUNREACH", syscall.ENETUNREACH},
	{"EHOSTUNREACH", syscall.EHOSTUNREACH},
	{"ETIMEDOUT", syscall.ETIMEDOUT},
	{"EMSGSIZE", syscall.EMSGSIZE},
	{"EDESTADDRREQ", syscall.EDESTADDRREQ},
	{"EINVAL", syscall.EINVAL},
	{"ENOTCONN", syscall.ENOTCONN},
}

// describe is what a program can find out about an error without reading its text.
func describe(err error) string {
	if err == io.EOF {
		return "EOF"
	}
	var kinds []string
	for _, kind := range errorKinds {
		if errors.Is(err, kind.err) {
			kinds = append(kinds, kind.name)
		}
	}
	if e := (*net.AddrError)(nil); errors.As(err, &e) {
		kinds = append(kinds, "AddrError")
	}
	if e := net.UnknownNetworkError(""); errors.As(err, &e) {
		kinds = append(kinds, "UnknownNetworkError "+string(e))
	}
	if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
		kinds = append(kinds, "timeout")
	}
	if e := (*net.OpError)(nil); errors.As(err, &e) {
		kinds = append(kinds, fmt.Sprintf("%s/%s addr=%v", e.Op, e.Net, e.Addr != nil))
	}
	if len(kinds) == 0 {
		return "unknown error " + err.Error()
	}
	return "(" + strings.Join(kinds, ", ") + ")"
}

// must ends a case whose set-up fails.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func portOf(addr net.Addr) uint16 {
	return addr.(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()
}

func hostWorld(addr netip.Addr) *world {
	tcp := func(ap netip.AddrPort) *net.TCPAddr {
		if ap == (netip.AddrPort{}) {
			return nil
		}
		return net.TCPAddrFromAddrPort(ap)
	}
	udp := func(ap netip.AddrPort) *net.UDPAddr {
		if ap == (netip.AddrPort{}) {
			return nil
		}
		return net.UDPAddrFromAddrPort(ap)
	}
	w := &world{server: addr, client: addr}
	w.dialTCP = func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (tcpConn, error) {
		d := net.Dialer{}
		if laddr != (netip.AddrPort{}) {
			d.LocalAddr = tcp(laddr)
		}
		if ctx == context.Background() {
			c, err := net.DialTCP(network, tcp(laddr), tcp(raddr))
			if err != nil {
				return nil, err
			}
			return c, nil
		}
		c, err := d.DialContext(ctx, network, raddr.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	w.listenTCP = func(network string, laddr netip.AddrPort) (tcpListener, error) {
		return net.ListenTCP(network, tcp(laddr))
	}
	w.dialUDP = func(network string, laddr, raddr netip.AddrPort) (udpConn, error) {
		return net.DialUDP(network, udp(laddr), udp(raddr))
	}
	w.listenUDP = func(network string, laddr netip.AddrPort) (udpConn, error) {
		return net.ListenUDP(network, udp(laddr))
	}
	w.clientUDP = w.listenUDP
	return w
}

func pairWorld(tb testing.TB, client, server netip.Addr) *world {
	a, b := newPair(tb)
	w := &world{server: server, client: client}
	w.dialTCP = func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (tcpConn, error) {
		return a.DialTCP(ctx, network, laddr, raddr)
	}
	w.listenTCP = func(network string, laddr netip.AddrPort) (tcpListener, error) { return b.ListenTCP(network, laddr) }
	w.dialUDP = func(network string, laddr, raddr netip.AddrPort) (udpConn, error) {
		return a.DialUDP(context.Background(), network, laddr, raddr)
	}
	w.listenUDP = func(network string, laddr netip.AddrPort) (udpConn, error) { return b.ListenUDP(network, laddr) }
	w.clientUDP = func(network string, laddr netip.AddrPort) (udpConn, error) { return a.ListenUDP(network, laddr) }
	return w
}

// at is the server's address with a port.
func (w *world) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(w.server, port) }

func (w *world) wildcard() netip.AddrPort {
	if w.server.Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}

func (w *world) listen(t *testing.T) tcpListener {
	t.Helper()
	l := must[tcpListener](t)(w.listenTCP("tcp", w.at(0)))
	t.Cleanup(func() { l.Close() })
	return l
}

// conns is a connection, both ends.
func (w *world) conns(t *testing.T) (client, server tcpConn) {
	t.Helper()
	l := w.listen(t)
	client = must[tcpConn](t)(w.dialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr()))))
	server = must[net.Conn](t)(l.Accept()).(tcpConn)
	t.Cleanup(func() { client.Close(); server.Close() })
	// A mistake shows as a time-out, not as a hang.
	limit := time.Now().Add(20 * time.Second)
	if err := errors.Join(client.SetDeadline(limit), server.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func (w *world) packets(t *testing.T) (client, server udpConn) {
	t.Helper()
	server = must[udpConn](t)(w.listenUDP("udp", w.at(0)))
	client = must[udpConn](t)(w.dialUDP("udp", netip.AddrPort{}, w.at(portOf(server.LocalAddr()))))
	t.Cleanup(func() { client.Close(); server.Close() })
	limit := time.Now().Add(20 * time.Second)
	if err := errors.Join(client.SetDeadline(limit), server.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestConformance(t *testing.T) {
	families := []struct {
		name                 string
		host, client, server netip.Addr
	}{
		{"IPv4", netip.MustParseAddr("127.0.0.1"), addrA4, addrB4},
		{"IPv6", netip.IPv6Loopback(), addrA6, addrB6},
	}
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			if l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(family.host, 0))); err != nil {
				t.Skipf("the host has no %s: %v", family.name, err)
			} else {
				l.Close()
			}
			for _, c := range slices.Concat(tcpCases, udpCases) {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					want, got := hostWorld(family.host), pairWorld(t, family.client, family.server)
					c.run(t, want)
					c.run(t, got)
					if !slices.Equal(want.notes, got.notes) {
						t.Errorf("the host:\n\t%s\nthe stack:\n\t%s", strings.Join(want.notes, "\n\t"), strings.Join(got.notes, "\n\t"))
					}
				})
			}
		})
	}
}

// The net package's own test of a net.Conn, across two stacks.
func TestTCPConnIsANetConn(t *testing.T) {
	for _, addr := range []netip.Addr{addrB4, addrB6} {
		t.Run(addr.String(), func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				d, acc := tcpPair(t, a, b, addr)
				return d, acc, func() { d.Close(); acc.Close() }, nil
			})
		})
	}
}

// And on the stack's own loopback.
func TestLoopbackConnIsANetConn(t *testing.T) {
	t.Parallel()
	a := newStack(t, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrA4, 24)}})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		d, acc := tcpPair(t, a, a, netip.MustParseAddr("127.0.0.1"))
		return d, acc, func() { d.Close(); acc.Close() }, nil
	})
}
