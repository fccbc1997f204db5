// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// Wildcards, single addresses, both families and port 0; who can connect is what the net package would let in.
func TestListen(t *testing.T) {
	a, b := newPair(t)
	const (
		v4, v6, own4, own6 = "10.0.0.2", "fd00::2", "127.0.0.1", "::1"
	)
	for _, c := range []struct {
		network, address string
		addr             string // without its port
		reached          []string
		not              []string
	}{
		{"tcp", ":0", "[::]", []string{v4, v6, own4, own6}, nil},
		{"tcp", "0.0.0.0:0", "[::]", []string{v4, v6}, nil},
		{"tcp", "[::]:0", "[::]", []string{v4, v6}, nil},
		{"tcp4", ":0", "0.0.0.0", []string{v4, own4}, []string{v6, own6}},
		{"tcp4", "0.0.0.0:0", "0.0.0.0", []string{v4}, []string{v6}},
		{"tcp6", ":0", "[::]", []string{v6, own6}, []string{v4, own4}},
		{"tcp6", "[::]:0", "[::]", []string{v6}, []string{v4}},
		{"tcp", "10.0.0.2:0", "10.0.0.2", []string{v4}, []string{v6, own4}},
		{"tcp", "[fd00::2]:0", "[fd00::2]", []string{v6}, []string{v4, own6}},
		{"tcp", "localhost:0", "127.0.0.1", []string{own4}, []string{v4, own6}},
		{"tcp6", "localhost:0", "[::1]", []string{own6}, []string{v6, own4}},
		{"tcp", "127.0.0.1:0", "127.0.0.1", []string{own4}, []string{v4}},
	} {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			l, err := b.Listen(c.network, c.address)
			if err != nil {
				t.Fatal(err)
			}
			serveEcho(t, l)
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil || port == "0" || l.Addr().String() != c.addr+":"+port || l.Addr().Network() != "tcp" {
				t.Errorf("Addr: %v %v", l.Addr(), err)
			}
			pc, err := b.ListenPacket("udp"+c.network[3:], c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			_, udpPort, err := net.SplitHostPort(pc.LocalAddr().String())
			if err != nil || udpPort == "0" || pc.LocalAddr().String() != c.addr+":"+udpPort {
				t.Errorf("LocalAddr: %v %v", pc.LocalAddr(), err)
			}
			from := func(host string) *wgnet.Net {
				if host == own4 || host == own6 {
					return b
				}
				return a
			}
			for _, host := range c.reached {
				conn, err := from(host).DialContext(testContext(t), "tcp", net.JoinHostPort(host, port))
				if err != nil {
					t.Error(err)
					continue
				}
				if err := roundTrip(conn); err != nil {
					t.Errorf("%s: %v", host, err)
				}
				conn.Close()
				if err := exchange(pc, from(host), net.JoinHostPort(host, udpPort), []byte(host)); err != nil {
					t.Errorf("UDP to %s: %v", host, err)
				}
			}
			for _, host := range c.not {
				if conn, err := from(host).DialContext(testContext(t), "tcp", net.JoinHostPort(host, port)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: got %v, %v", host, conn, err)
				}
			}
		})
	}
}

// exchange sends a datagram from n to pc and back.
func exchange(pc net.PacketConn, n *wgnet.Net, to string, word []byte) error {
	c, err := n.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	limit := time.Now().Add(10 * time.Second)
	if err := errors.Join(c.SetDeadline(limit), pc.SetDeadline(limit)); err != nil {
		return err
	}
	if n, err := c.Write(word); n != len(word) || err != nil {
		return fmt.Errorf("wrote %d of %d: %v", n, len(word), err)
	}
	buf := make([]byte, 1<<16)
	read, from, err := pc.ReadFrom(buf)
	if err != nil {
		return err
	}
	if !bytes.Equal(buf[:read], word) || from.String() != c.LocalAddr().String() {
		return fmt.Errorf("got %d bytes of %d from %v, which is %v", read, len(word), from, c.LocalAddr())
	}
	if _, err := pc.WriteTo(word, from); err != nil {
		return err
	}
	if read, _, err = c.(net.PacketConn).ReadFrom(buf); err != nil || !bytes.Equal(buf[:read], word) {
		return fmt.Errorf("got %d bytes of %d back: %v", read, len(word), err)
	}
	return nil
}

// fault 33, through a tunnel.
func TestDatagramSizes(t *testing.T) {
	a, b := newPair(t)
	pc, port := listenPacket(t, b, ":0")
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		header, largest := 28, 65507
		if host == "fd00::2" {
			header, largest = 48, 65527
		}
		for _, size := range []int{0, 1, 1420 - header - 1, 1420 - header, 1420 - header + 1, 1419, 1420, 1421, 9000, largest} {
			word := bytes.Repeat([]byte{byte(size)}, size)
			if err := exchange(pc, a, net.JoinHostPort(host, port), word); err != nil {
				t.Errorf("%d bytes to %s: %v", size, host, err)
			}
		}
		c, err := a.Dial("udp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, largest+1)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%d bytes to %s: got %v", largest+1, host, err)
		}
	}
}

// Faults 29 and 32: what a packet conn refuses.
func TestPacketConnErrors(t *testing.T) {
	a, b := newPair(t)
	pc, _ := listenPacket(t, a, ":0")
	pc4, err := a.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc4.Close()
	word := []byte("x")
	for _, c := range []struct {
		name string
		pc   net.PacketConn
		to   net.Addr
		is   error
	}{
		{"an IPAddr", pc, &net.IPAddr{IP: net.IPv4(10, 0, 0, 2)}, nil},
		{"nil", pc, nil, nil},
		{"a nil UDPAddr", pc, (*net.UDPAddr)(nil), nil},
		{"an empty UDPAddr", pc, &net.UDPAddr{}, nil},
		{"wrong family", pc4, &net.UDPAddr{IP: net.ParseIP("fd00::2"), Port: 9}, nil},
		{"fault 30: no route", pc, &net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 9}, syscall.ENETUNREACH},
	} {
		if _, err := c.pc.WriteTo(word, c.to); err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}

	for _, deadline := range []time.Time{time.Now().Add(10 * time.Millisecond), time.Unix(1, 0)} {
		if err := pc.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		_, _, err := pc.ReadFrom(make([]byte, 9))
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("deadline: got %v", err)
		}
	}

	// A port where nobody listens says so to a connected socket.
	c, err := b.Dial("udp", "a:9")
	if errors.Is(err, syscall.EHOSTUNREACH) { // b has not heard of a
		if _, err := a.Ping(testContext(t), "b"); err != nil {
			t.Fatal(err)
		}
		c, err = b.Dial("udp", "a:9")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(word); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 9)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: got %v", err)
	}
}

// The methods beyond net.PacketConn's that a QUIC implementation, say, looks for.
func TestPacketConnMethods(t *testing.T) {
	a, b := newPair(t)
	pc, port := listenPacket(t, b, ":0")
	c, _ := listenPacket(t, a, ":0")
	type addrPortConn interface {
		ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
		WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}
	to := netip.MustParseAddrPort("10.0.0.2:" + port)
	if err := errors.Join(c.(addrPortConn).SetReadBuffer(1<<20), c.(addrPortConn).SetWriteBuffer(1<<20)); err != nil {
		t.Error(err)
	}
	if _, err := c.(addrPortConn).WriteToUDPAddrPort([]byte("abc"), to); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2) // what does not fit is lost
	n, from, err := pc.(addrPortConn).ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "ab" || from.Addr() != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
}

func TestListenErrors(t *testing.T) {
	n := newNet(t, newConfig("10.0.0.1/24", "fd00::1/64"))
	_, tcpPort := listen(t, n, ":0")
	_, udpPort := listenPacket(t, n, ":0")
	for _, c := range []struct {
		name, network, address string
		is                     error
		text                   string
	}{
		{"taken", "tcp", ":" + tcpPort, syscall.EADDRINUSE, ""},
		{"taken for UDP", "udp", ":" + udpPort, syscall.EADDRINUSE, ""},
		{"not ours", "tcp", "10.0.0.2:80", syscall.EADDRNOTAVAIL, "listen tcp 10.0.0.2:80: bind: cannot assign requested address"},
		{"wrong family", "tcp4", "[fd00::1]:80", nil, "listen tcp4 [fd00::1]:80: address fd00::1: wrong address family for network tcp4"},
		{"a name", "tcp", "b:80", nil, "listen tcp: address b:80: want an address of this host, localhost or nothing before the port"},
		{"no port", "tcp", "10.0.0.1", nil, "listen tcp: address 10.0.0.1: missing port in address"},
		{"almost a network", "tcp:", ":80", net.UnknownNetworkError("tcp:"), ""},
		{"unknown network", "unix", ":80", net.UnknownNetworkError("unix"), ""},
		{"no network", "", "localhost:80", net.UnknownNetworkError(""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var err error
			if c.network == "udp" {
				_, err = n.ListenPacket(c.network, c.address)
			} else {
				_, err = n.Listen(c.network, c.address)
			}
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "listen" || op.Net != c.network {
				t.Fatalf("%#v is no *net.OpError of the call", err)
			}
			if c.is != nil && !errors.Is(err, c.is) || c.text != "" && err.Error() != c.text {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := n.Listen("udp", ":80"); !errors.Is(err, net.UnknownNetworkError("udp")) {
		t.Errorf("Listen for UDP: got %v", err)
	}
	if _, err := n.ListenPacket("tcp", ":80"); !errors.Is(err, net.UnknownNetworkError("tcp")) {
		t.Errorf("ListenPacket for TCP: got %v", err)
	}
}

// fault 35: each half of a connection ends by itself.
func TestHalfClose(t *testing.T) {
	n, up := newUpstream(t, nil)
	l, err := up.Listen(":7")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
	c, err := n.DialContext(testContext(t), "tcp", "up:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("wireguard"), 100_000)
	written := make(chan error, 1)
	go func() { // the deadline ends it
		_, err := c.Write(want)
		written <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	}()
	var got bytes.Buffer
	if _, err := got.ReadFrom(c); err != nil { // until the echo server has seen our end
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes of %d came back", got.Len(), len(want))
	}
}
