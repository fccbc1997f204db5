// SPDX-License-Identifier: MIT

package memnet_test

import (
	"context"
	"crypto/ecdh"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"example.com/wgnet/internal/memnet"
)

// bind lends an endpoint of a host to a device.
type bind struct {
	host *memnet.Host
	mu   sync.Mutex // guards pc
	pc   *memnet.Conn
}

// endpoint is an address as the device wants it.
type endpoint netip.AddrPort

func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	pc, err := b.host.ListenPacket(context.Background(), "udp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pc = pc.(*memnet.Conn)
	local := netip.MustParseAddrPort(pc.LocalAddr().String())
	return []conn.ReceiveFunc{receiver(b.pc)}, local.Port(), nil
}

func receiver(pc *memnet.Conn) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		addrs := make([]netip.AddrPort, len(bufs))
		n, err := pc.ReadBatch(bufs, sizes, addrs)
		for i := range n {
			eps[i] = endpoint(addrs[i])
		}
		return n, err
	}
}

func (b *bind) conn() *memnet.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pc
}

func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	_, err := b.conn().WriteBatch(bufs, netip.AddrPort(to.(endpoint)))
	return err
}

func (b *bind) Close() error {
	if pc := b.conn(); pc != nil {
		pc.Close() // the device closes a bind more than once
	}
	return nil
}

func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	addr, err := netip.ParseAddrPort(s)
	return endpoint(addr), err
}

func (b *bind) BatchSize() int       { return 16 }
func (b *bind) SetMark(uint32) error { return nil }

func (e endpoint) ClearSrc()           {}
func (e endpoint) SrcToString() string { return "" }
func (e endpoint) DstToString() string { return netip.AddrPort(e).String() }
func (e endpoint) DstToBytes() []byte  { return []byte(e.DstToString()) }
func (e endpoint) DstIP() netip.Addr   { return netip.AddrPort(e).Addr() }
func (e endpoint) SrcIP() netip.Addr   { return netip.Addr{} }

// node is a WireGuard device on a host of its own.
type node struct {
	outer, inner netip.Addr
	tun          *tuntest.ChannelTUN
	dev          *device.Device
}

// tunnel starts two devices that know each other.
func tunnel(t *testing.T, n *memnet.Network) (nodes [2]*node) {
	t.Helper()
	var private, public [2]string
	for i := range nodes {
		key, err := ecdh.X25519().NewPrivateKey(append(make([]byte, 31), byte(64+i)))
		if err != nil {
			t.Fatal(err)
		}
		private[i], public[i] = hex.EncodeToString(key.Bytes()), hex.EncodeToString(key.PublicKey().Bytes())
	}
	for i := range nodes {
		outer, inner := netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}), netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)})
		host, err := n.NewHost(outer)
		if err != nil {
			t.Fatal(err)
		}
		tun := tuntest.NewChannelTUN()
		dev := device.NewDevice(tun.TUN(), &bind{host: host}, device.NewLogger(device.LogLevelSilent, ""))
		t.Cleanup(dev.Close)
		err = dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=51820\npublic_key=%s\nendpoint=10.1.0.%d:51820\n"+
			"allowed_ip=10.9.0.%d/32\n", private[i], public[1-i], 2-i, 2-i))
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Up(); err != nil {
			t.Fatal(err)
		}
		nodes[i] = &node{outer, inner, tun, dev}
	}
	return nodes
}

// took sends a packet through the tunnel and returns how long it was under way.
func took(from, to *node) time.Duration {
	start := time.Now()
	from.tun.Outbound <- tuntest.Ping(to.inner, from.inner)
	<-to.tun.Inbound
	return time.Since(start)
}

// TestDevice runs WireGuard on a network of 20 ms one way, in a bubble, so that every time is exact. The boundaries
// are those of the WireGuard paper, section 6.1 (fault 52), and of an endpoint that roams (fault 53).
func TestDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const oneWay = 20 * time.Millisecond
		n := memnet.New(memnet.Options{})
		t.Cleanup(func() { n.Close() }) // after the devices
		if err := n.SetDefault(memnet.Link{Latency: oneWay}); err != nil {
			t.Fatal(err)
		}
		nodes := tunnel(t, n)
		a, b := nodes[0], nodes[1]
		start := time.Now()
		for _, tc := range []struct {
			name string
			at   time.Duration
			want time.Duration
		}{
			{"first, behind initiation and response", 0, 3 * oneWay},
			{"in the session", 10 * time.Second, oneWay},
			{"before Rekey-After-Time", 119 * time.Second, oneWay},
			{"after Rekey-After-Time: the old session still carries it", 121 * time.Second, oneWay},
			{"in the session that has followed", 290 * time.Second, oneWay},
			{"after Reject-After-Time", 500 * time.Second, 3 * oneWay},
			{"after three times Reject-After-Time: all keys are erased", 1100 * time.Second, 3 * oneWay},
		} {
			time.Sleep(time.Until(start.Add(tc.at)))
			if d := took(a, b); d != tc.want {
				t.Errorf("%s, at %v: a packet takes %v, want %v", tc.name, tc.at, d, tc.want)
			}
		}

		moved := netip.MustParseAddr("203.0.113.9")
		if err := n.Move(b.outer, moved); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			name     string
			from, to *node
		}{{"from the new address", b, a}, {"to the new address", a, b}} {
			if d := took(tc.from, tc.to); d != oneWay {
				t.Errorf("%s a packet takes %v, want %v", tc.name, d, oneWay)
			}
		}
		if s := n.Stats(a.outer, moved); s.Delivered == 0 {
			t.Errorf("%+v: nothing went to the new address", s)
		}
	})
}
