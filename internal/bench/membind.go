// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"example.com/wgnet/internal/memnet"
	"golang.zx2c4.com/wireguard/conn"
)

// memBatch is the batch of upstream's own bind on Linux.
const memBatch = conn.IdealBatchSize

// memBind gives upstream's device an endpoint of an in-memory network in the place of a socket, with batches as large
// as those of its own bind.
type memBind struct {
	network *memnet.Network
	addr    netip.Addr

	mu sync.Mutex   // guards pc
	pc *memnet.Conn // nil while closed
}

// Open implements [conn.Bind].
func (b *memBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pc != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	pc, err := b.network.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(b.addr, port).String())
	if err != nil {
		return nil, 0, err
	}
	b.pc = pc.(*memnet.Conn)
	mem, from := b.pc, make([]netip.AddrPort, memBatch)
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, err := mem.ReadBatch(bufs[:min(len(bufs), memBatch)], sizes, from)
		for i, addr := range from[:n] {
			eps[i] = &conn.StdNetEndpoint{AddrPort: addr}
		}
		return n, err
	}
	return []conn.ReceiveFunc{receive}, mem.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
}

// Close implements [conn.Bind].
func (b *memBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pc == nil {
		return nil
	}
	pc := b.pc
	b.pc = nil
	return pc.Close()
}

// Send implements [conn.Bind].
func (b *memBind) Send(bufs [][]byte, to conn.Endpoint) error {
	b.mu.Lock()
	pc := b.pc
	b.mu.Unlock()
	if pc == nil {
		return net.ErrClosed
	}
	_, err := pc.WriteBatch(bufs, to.(*conn.StdNetEndpoint).AddrPort)
	return err
}

// ParseEndpoint implements [conn.Bind].
func (b *memBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	addr, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: addr}, err
}

// SetMark implements [conn.Bind].
func (b *memBind) SetMark(uint32) error { return nil }

// BatchSize implements [conn.Bind].
func (b *memBind) BatchSize() int { return memBatch }

// memListen is the ListenPacket of a wgnet.Config: an endpoint at addr.
func memListen(n *memnet.Network, addr netip.Addr) func(context.Context, string, string) (net.PacketConn, error) {
	return func(ctx context.Context, network, address string) (net.PacketConn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return n.ListenPacket(ctx, network, net.JoinHostPort(addr.String(), port))
	}
}
