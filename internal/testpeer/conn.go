// SPDX-License-Identifier: MIT

package testpeer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialContext connects to an address inside the tunnel. network is one of tcp, tcp4, tcp6, udp, udp4, udp6; a name is
// asked from Options.DNS. The connection ends with the run, at the latest.
func (p *Peer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r := p.current()
	if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	r.tun.writers.RLock()
	defer r.tun.writers.RUnlock()
	if r.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	c, err := r.tun.net.DialContext(ctx, network, address)
	if udp, ok := c.(*gonet.UDPConn); ok {
		return &udpConn{UDPConn: udp, writers: &r.tun.writers, ctx: r.ctx}, err
	}
	return c, err
}

// Listen accepts TCP connections on an IP and port inside the tunnel; no IP (":80") means all the peer's addresses
// of both families.
func (p *Peer) Listen(address string) (net.Listener, error) {
	addr, err := parseListen(address)
	if err != nil {
		return nil, err
	}
	return p.current().tun.net.ListenTCPAddrPort(addr)
}

// ListenUDP receives datagrams on an IP and port inside the tunnel; no IP (":53") means all the peer's addresses of
// both families.
func (p *Peer) ListenUDP(address string) (net.PacketConn, error) {
	addr, err := parseListen(address)
	if err != nil {
		return nil, err
	}
	r := p.current()
	c, err := r.tun.net.ListenUDPAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return &udpConn{UDPConn: c, writers: &r.tun.writers, ctx: r.ctx}, nil
}

// Serve serves HTTP on an address as in Listen, until Close or a restart.
func (p *Peer) Serve(address string, handler http.Handler) error {
	l, err := p.Listen(address)
	if err != nil {
		return err
	}
	r := p.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.Join(net.ErrClosed, l.Close())
	}
	server := &http.Server{Handler: handler}
	r.servers = append(r.servers, server)
	r.serving.Add(1)
	go func() { // ends when close calls server.Close, and close waits for it
		defer r.serving.Done()
		server.Serve(l) // its error only says that it was closed
	}()
	return nil
}

// HTTPClient is an HTTP client whose connections begin at this peer, each for one request.
func (p *Peer) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: p.DialContext, DisableKeepAlives: true}}
}

// Ping sends one echo request to an address inside the tunnel and waits for its answer. It returns the round-trip
// time, which includes the handshake if there was no session.
//
// It talks to gVisor itself: upstream's PingConn loses an answer that arrives before its Read (fault 38).
func (p *Peer) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	r := p.current()
	transport, network, request, reply := icmp.ProtocolNumber4, ipv4.ProtocolNumber, byte(8), byte(0)
	if addr.Is6() {
		transport, network, request, reply = icmp.ProtocolNumber6, ipv6.ProtocolNumber, 128, 129
	}
	var queue waiter.Queue
	ready, notify := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&ready)
	defer queue.EventUnregister(&ready)
	ep, terr := r.tun.stack.NewEndpoint(transport, network, &queue)
	if terr != nil {
		return 0, fmt.Errorf("testpeer: ping %v: %v", addr, terr)
	}
	defer ep.Close()

	// Type, code, checksum, identifier, sequence (RFC 792; RFC 4443 section 4.1), then 24 bytes of payload. The stack
	// fills in the checksum and an identifier of its own.
	message := make([]byte, 8+24)
	message[0] = request
	rand.Read(message[8:])
	start := time.Now()
	r.tun.writers.RLock()
	terr = ep.Connect(tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(addr.AsSlice())})
	if terr == nil {
		_, terr = ep.Write(bytes.NewReader(message), tcpip.WriteOptions{})
	}
	r.tun.writers.RUnlock()
	if terr != nil {
		return 0, fmt.Errorf("testpeer: ping %v: %v", addr, terr)
	}
	for {
		var answer bytes.Buffer
		_, terr := ep.Read(&answer, tcpip.ReadOptions{})
		switch _, wait := terr.(*tcpip.ErrWouldBlock); {
		case wait:
			select {
			case <-notify:
			case <-ctx.Done():
				return 0, fmt.Errorf("testpeer: ping %v: no answer: %w", addr, ctx.Err())
			case <-r.ctx.Done():
				return 0, net.ErrClosed
			}
		case terr != nil:
			return 0, fmt.Errorf("testpeer: ping %v: %v", addr, terr)
		case answer.Len() == len(message) && answer.Bytes()[0] == reply && bytes.Equal(answer.Bytes()[8:], message[8:]):
			return time.Since(start), nil
		}
	}
}

func parseListen(address string) (netip.AddrPort, error) {
	if strings.HasPrefix(address, ":") {
		// An invalid Addr with a port is upstream's "all addresses"; it opens an IPv6 endpoint that takes IPv4 too.
		a, err := netip.ParseAddrPort("[::]" + address)
		return netip.AddrPortFrom(netip.Addr{}, a.Port()), err
	}
	return netip.ParseAddrPort(address)
}

// udpConn keeps shim.destroy out while a datagram is on its way through the stack.
type udpConn struct {
	*gonet.UDPConn
	writers *sync.RWMutex
	ctx     context.Context // of the run
}

func (c *udpConn) Write(b []byte) (int, error) { return c.WriteTo(b, nil) }

func (c *udpConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	c.writers.RLock()
	defer c.writers.RUnlock()
	if c.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	return c.UDPConn.WriteTo(b, addr)
}
