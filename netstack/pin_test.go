// SPDX-License-Identifier: MIT

package netstack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"example.com/wgnet/netstack"
)

// checkPeer compares who a connection is with. A want below 0 stands for nobody.
func checkPeer(t *testing.T, name string, c interface {
	Peer() (netstack.PeerID, bool)
}, want int,
) {
	t.Helper()
	got, ok := c.Peer()
	if ok != (want >= 0) || ok && int(got) != want {
		t.Errorf("%s: peer %d, %v; want %d", name, got, ok, want)
	}
}

func TestPeer(t *testing.T) {
	a, b := newPair(t)
	a.SetRoutes(append(routes(1, "10.0.0.2/32"), routes(2, "fd00::/64")...))
	b.SetRoutes(append(routes(3, "10.0.0.1/32"), routes(4, "::/0")...))
	dialed4, accepted4 := tcpPair(t, a, b, addrB4)
	dialed6, accepted6 := tcpPair(t, a, b, addrB6)
	local, localAccepted := tcpPair(t, a, a, addrA4)
	loopback, _ := tcpPair(t, a, a, netip.MustParseAddr("127.0.0.1"))
	udp, err := a.DialUDP(testContext(t), "udp", netip.AddrPort{}, netip.AddrPortFrom(addrB6, 9))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	checkPeer(t, "dialed IPv4", dialed4, 1)
	checkPeer(t, "accepted IPv4", accepted4, 3)
	checkPeer(t, "dialed IPv6", dialed6, 2)
	checkPeer(t, "accepted IPv6", accepted6, 4)
	checkPeer(t, "UDP", udp, 2)
	checkPeer(t, "to itself", local, -1)
	checkPeer(t, "from itself", localAccepted, -1)
	checkPeer(t, "loopback", loopback, -1)
	checkPeer(t, "packet conn", listenAt(t, a, addrA4), -1)

	a.SetRoutes(append(routes(7, "10.0.0.2/32"), routes(2, "fd00::/64")...))
	checkPeer(t, "after its address has moved", dialed4, 1)
}

// knock makes a connection from b to a listener of a's that nobody has accepted yet.
func knock(t *testing.T, b *netstack.Stack, l *netstack.TCPListener) *netstack.TCPConn {
	t.Helper()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	c, err := b.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrA4, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func listenTCP(t *testing.T, s *netstack.Stack) *netstack.TCPListener {
	t.Helper()
	l, err := s.ListenTCP("tcp", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// An address moves between a connection's handshake and its Accept: what the one has sent who had it is never taken for the
// other's.
func TestMovedBeforeAccept(t *testing.T) {
	for _, test := range []struct {
		name  string
		leave func(*netstack.TCPConn) error // what the client does before the move
	}{
		{"open", func(*netstack.TCPConn) error { return nil }},
		{"half closed", (*netstack.TCPConn).CloseWrite},
		{"closed", (*netstack.TCPConn).Close},
		{"reset by the client", func(c *netstack.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := newPair(t)
			a.SetRoutes(routes(1, "10.0.0.2/32"))
			l := listenTCP(t, a)
			c := knock(t, b, l)
			if _, err := io.WriteString(c, "let me in"); err != nil {
				t.Fatal(err)
			}
			if err := test.leave(c); err != nil {
				t.Fatal(err)
			}
			knock(t, b, l) // all that was sent before has arrived
			a.SetRoutes(routes(2, "10.0.0.2/32"))
			newest := knock(t, b, l).LocalAddr().String()
			for {
				accepted, err := l.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				defer accepted.Close()
				if accepted.RemoteAddr().String() == newest {
					checkPeer(t, "new", accepted, 2)
					break
				}
				checkPeer(t, "moved", accepted, -1)
			}
		})
	}
}

// While the device has let another peer have an address and the stack's routes do not say so yet, nobody who connects is
// taken for the one who had it; and who was connected before is cut off before that begins.
func TestChangeRoutes(t *testing.T) {
	a, b := newPair(t)
	a.SetRoutes(routes(1, "10.0.0.2/32", "fd00::/64"))
	old, _ := tcpPair(t, a, b, addrB4)
	other, otherAccepted := tcpPair(t, a, b, addrB6)
	l := listenTCP(t, a)
	accepted := make(chan *netstack.TCPConn)
	go func() { // ends with the listener
		defer close(accepted)
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	err := a.ChangeRoutes(append(routes(2, "10.0.0.2/32"), routes(1, "fd00::/64")...), func() error {
		if _, err := old.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("before the change: %v, want ECONNRESET", err)
		}
		knock(t, b, l)
		knock(t, b, l) // by now the first one waits to be accepted, at least
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	newest := knock(t, b, l).LocalAddr().String()
	for c := range accepted {
		defer c.Close()
		if c.RemoteAddr().String() == newest {
			checkPeer(t, "connected afterwards", c, 2)
			break
		}
		checkPeer(t, "connected in between", c, -1)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("connected in between: %v, want ECONNRESET", err)
		}
	}
	l.Close()
	checkPeer(t, "another address", other, 1)
	exchange(t, other, otherAccepted)

	// A change that fails leaves the routes alone.
	failure := errors.New("no")
	if err := a.ChangeRoutes(append(routes(3, "10.0.0.2/32"), routes(1, "fd00::/64")...), func() error { return failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if id, ok := a.PeerFor(addrB4); id != 2 || !ok {
		t.Errorf("after a change that failed: peer %d, %v", id, ok)
	}
	exchange(t, other, otherAccepted)
}

// A dial that is answered while its address changes hands is no connection to the one who had it.
func TestChangeRoutesDial(t *testing.T) {
	a, b := newStacks(t)
	a.SetRoutes(routes(1, "10.0.0.2/32"))
	l := listenTCP(t, b)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	got := make(chan error, 1)
	go func() { // ends with the change
		_, err := a.DialTCP(testContext(t), "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrB4, port))
		got <- err
	}()
	if !eventually(func() bool { return a.LinkQueue().Ack > 0 }) {
		t.Fatalf("no SYN: %+v", a.LinkQueue())
	}
	err := a.ChangeRoutes(routes(2, "10.0.0.2/32"), func() error {
		join(t, a, b)
		c, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the dial: %v, want ECONNRESET", err)
	}
}
