// SPDX-License-Identifier: MIT

package wgnet

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"example.com/wgnet/netstack"
)

// A Peer says who somebody is. It is comparable, and its PublicKey can be relied upon: nobody without the private key
// that belongs to it gets a packet through to this host.
type Peer struct {
	// Name is the peer's name in the config, or "" if it has none.
	Name      string    `json:"name,omitempty"`
	PublicKey PublicKey `json:"public_key"`
}

// String returns the name, or the beginning of the key of a peer without one.
func (p Peer) String() string { return (&PeerConfig{Name: p.Name, PublicKey: p.PublicKey}).label() }

// PeerOf returns the peer behind a connection of a Net, or one that is wrapped around it and has a method NetConn, as
// [crypto/tls.Conn] does. The answer was pinned when the connection was dialed or accepted, and is that of the peer whose
// AllowedIPs have let the connection in: an address that moves to another peer afterwards takes none of its connections
// along, but resets them.
//
// It reports false for what is not a Net's or stays inside of one, as a connection to its own address does; and
// for a connection that the other side had reset before it was accepted, since its address may have moved after that.
func PeerOf(conn net.Conn) (Peer, bool) {
	const deepest = 16 // wrappers; one may return itself
	for range deepest {
		switch c := conn.(type) {
		case interface{ whoIs() (Peer, bool) }:
			return c.whoIs()
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return Peer{}, false
		}
	}
	return Peer{}, false
}

// PeerFor returns the peer that serves an address now, by the longest prefix in its AllowedIPs: the one who has sent a
// datagram that has just come from there, or whom a dial would reach. It reports false for addresses that are nobody's or
// the Net's own. Of a connection [PeerOf] knows more: who serves its address may have changed.
func (n *Net) PeerFor(addr netip.Addr) (Peer, bool) {
	p := n.peerFor(addr)
	if p == nil {
		return Peer{}, false
	}
	return p.who(), true
}

// who is the peer as others see it.
func (p *peer) who() Peer { return Peer{p.Name, p.PublicKey} }

// listener is a listener whose connections are pinned to their peers.
type listener struct {
	*netstack.TCPListener
	net *Net
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if c, err := l.net.pinTCP(conn, nil); err == nil {
			return c, nil
		}
	}
}

// The connections of a Net: those of the stack, and who is at the other end.
type (
	tcpConn struct {
		*netstack.TCPConn
		pinned
	}
	udpConn struct {
		*netstack.UDPConn
		pinned
	}
	flowConn struct {
		net.Conn
		pinned
	}
)

// pinned is the peer behind a connection, if there is one.
type pinned struct {
	peer  Peer
	known bool
}

func (p pinned) whoIs() (Peer, bool) { return p.peer, p.known }

// pinTCP takes over what the stack has returned, with an error or not.
func (n *Net) pinTCP(conn *netstack.TCPConn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	who, err := n.whoIs(conn)
	if err != nil {
		return nil, err
	}
	return &tcpConn{conn, who}, nil
}

// pinUDP is pinTCP for UDP.
func (n *Net) pinUDP(conn *netstack.UDPConn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	who, err := n.whoIs(conn)
	if err != nil {
		return nil, err
	}
	return &udpConn{conn, who}, nil
}

// pinFlow is pinTCP for what a flow's Accept has returned, whose peer is known.
func pinFlow(conn net.Conn, who Peer) net.Conn {
	if c, ok := conn.(*netstack.TCPConn); ok {
		return &tcpConn{c, pinned{who, true}}
	}
	return &flowConn{conn, pinned{who, true}}
}

// whoIs finds the peer that the stack has pinned a new connection to. If that peer was removed in this very moment, so that
// nobody can tell who it was, it closes the connection, which is reset.
func (n *Net) whoIs(conn interface {
	net.Conn
	Peer() (netstack.PeerID, bool)
},
) (pinned, error) {
	id, ok := conn.Peer()
	if !ok {
		return pinned{}, nil
	}
	if p := n.peers().byID[id]; p != nil {
		return pinned{p.who(), true}, nil
	}
	_ = conn.Close() // it was reset with its peer
	return pinned{}, &net.OpError{
		Op: "dial", Net: conn.RemoteAddr().Network(), Source: conn.LocalAddr(), Addr: conn.RemoteAddr(),
		Err: os.NewSyscallError("connect", syscall.ECONNRESET),
	}
}
