// SPDX-License-Identifier: MIT

package nettests

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
)

// A TCPConn has the methods of [net.TCPConn] that the cases use.
type TCPConn interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
}

// A TCPListener has the methods of [net.TCPListener] that the cases use.
type TCPListener interface {
	net.Listener
	SetDeadline(t time.Time) error
}

// A UDPConn has the methods of [net.UDPConn] that the cases use.
type UDPConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// A World is a place for the cases to run in: a client that dials, and a server at an address. They may be the same host.
// The zero AddrPort stands for an address that is not given.
type World struct {
	Name           string
	Server, Client netip.Addr
	DialTCP        func(ctx context.Context, network string, laddr, raddr netip.AddrPort) (TCPConn, error)
	ListenTCP      func(network string, laddr netip.AddrPort) (TCPListener, error)
	DialUDP        func(network string, laddr, raddr netip.AddrPort) (UDPConn, error)
	ListenUDP      func(network string, laddr netip.AddrPort) (UDPConn, error)
	ClientUDP      func(network string, laddr netip.AddrPort) (UDPConn, error) // ListenUDP of the client

	notTCP, notUDP []string // networks that the functions for TCP and UDP refuse
	notes          []string
}

// Conformance runs all cases in worlds, over IPv4 and IPv6, and compares what they note with what they note in a world of
// package net: that of [HostValues] or [HostText]. worlds is called for each case.
func Conformance(t *testing.T, host func(netip.Addr) *World, worlds func(t *testing.T, v6 bool) []*World) {
	for _, loopback := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		family := map[bool]string{true: "IPv4", false: "IPv6"}[loopback.Is4()]
		t.Run(family, func(t *testing.T) {
			if l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0))); err != nil {
				t.Skipf("the host has no %s: %v", family, err)
			} else {
				l.Close()
			}
			for _, c := range slices.Concat(tcpCases, udpCases) {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					want := host(loopback)
					c.run(t, want)
					for _, got := range worlds(t, loopback.Is6()) {
						got.notTCP, got.notUDP = want.notTCP, want.notUDP
						c.run(t, got)
						if !slices.Equal(want.notes, got.notes) {
							t.Errorf("the host:\n\t%s\n%s:\n\t%s", strings.Join(want.notes, "\n\t"), got.Name, strings.Join(got.notes, "\n\t"))
						}
					}
				})
			}
		})
	}
}

func (w *World) note(what string, args ...any) {
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

// at is the server's address with a port.
func (w *World) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(w.Server, port) }

func (w *World) wildcard() netip.AddrPort {
	if w.Server.Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}

func (w *World) listen(t *testing.T) TCPListener {
	t.Helper()
	l := must[TCPListener](t)(w.ListenTCP("tcp", w.at(0)))
	t.Cleanup(func() { l.Close() })
	return l
}

// conns is a connection, both ends.
func (w *World) conns(t *testing.T) (client, server TCPConn) {
	t.Helper()
	l := w.listen(t)
	client = must[TCPConn](t)(w.DialTCP(context.Background(), "tcp", netip.AddrPort{}, w.at(portOf(l.Addr()))))
	server = must[net.Conn](t)(l.Accept()).(TCPConn)
	t.Cleanup(func() { client.Close(); server.Close() })
	// A mistake shows as a time-out, not as a hang.
	limit := time.Now().Add(20 * time.Second)
	if err := errors.Join(client.SetDeadline(limit), server.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func (w *World) packets(t *testing.T) (client, server UDPConn) {
	t.Helper()
	server = must[UDPConn](t)(w.ListenUDP("udp", w.at(0)))
	client = must[UDPConn](t)(w.DialUDP("udp", netip.AddrPort{}, w.at(portOf(server.LocalAddr()))))
	t.Cleanup(func() { client.Close(); server.Close() })
	limit := time.Now().Add(20 * time.Second)
	if err := errors.Join(client.SetDeadline(limit), server.SetDeadline(limit)); err != nil {
		t.Fatal(err)
	}
	return client, server
}
