// SPDX-License-Identifier: MIT

package testpeer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
)

// A packetBind is a device's bind over a packet conn that Options.ListenPacket opens. It uses none of the conn's abilities
// beyond net.PacketConn.
type packetBind struct {
	listen func(ctx context.Context, network, address string) (net.PacketConn, error)

	mu sync.Mutex // guards pc
	pc net.PacketConn
}

// Open implements conn.Bind.
func (b *packetBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pc != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	pc, err := b.listen(context.Background(), "udp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, 0, err
	}
	local, err := netip.ParseAddrPort(pc.LocalAddr().String())
	if err != nil {
		pc.Close()
		return nil, 0, fmt.Errorf("the packet conn's address: %w", err)
	}
	b.pc = pc
	receive := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := pc.ReadFrom(bufs[0])
		if err != nil {
			return 0, err
		}
		addr, err := netip.ParseAddrPort(from.String())
		if err != nil {
			return 0, err
		}
		sizes[0], eps[0] = n, &conn.StdNetEndpoint{AddrPort: addr}
		return 1, nil
	}
	return []conn.ReceiveFunc{receive}, local.Port(), nil
}

// Close implements conn.Bind. The device closes a bind more than once.
func (b *packetBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pc == nil {
		return nil
	}
	err := b.pc.Close()
	b.pc = nil
	return err
}

// Send implements conn.Bind.
func (b *packetBind) Send(bufs [][]byte, to conn.Endpoint) error {
	ep, ok := to.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.mu.Lock()
	pc := b.pc
	b.mu.Unlock()
	if pc == nil {
		return net.ErrClosed
	}
	for _, buf := range bufs {
		if _, err := pc.WriteTo(buf, net.UDPAddrFromAddrPort(ep.AddrPort)); err != nil {
			return err
		}
	}
	return nil
}

// ParseEndpoint implements conn.Bind.
func (b *packetBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	addr, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return &conn.StdNetEndpoint{AddrPort: addr}, nil
}

// SetMark implements conn.Bind.
func (b *packetBind) SetMark(uint32) error { return nil }

// BatchSize implements conn.Bind.
func (b *packetBind) BatchSize() int { return 1 }
