// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"example.com/wgnet/netstack"
)

// TestStraggler is fault 25 when the peer dies with packets on their way to us: one that comes in after our first
// packet, and does not answer it, must not keep us from noticing that nobody does.
func TestStraggler(t *testing.T) {
	const peer = 7
	for _, tc := range []struct {
		name string
		to   netip.Addr
		do   func(context.Context, *netstack.Stack, netip.Addr) error
	}{
		{"ping", addrB4, ping},
		{"ping", addrB6, ping},
		{"dial", addrB4, dialRefused},
		{"dial", addrB6, dialRefused},
	} {
		t.Run(tc.name+" "+tc.to.String(), func(t *testing.T) {
			own := []netip.Prefix{netip.PrefixFrom(addrA4, 32), netip.PrefixFrom(addrA6, 128)}
			silent := make(chan struct{}, 100)
			a := newStack(t, netstack.Config{Addresses: own, Silent: func(netstack.PeerID) { silent <- struct{}{} }})
			b := newStack(t, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrB4, 32), netip.PrefixFrom(addrB6, 128)}})
			a.SetRoutes([]netstack.Route{
				{Prefix: netip.PrefixFrom(addrB4, 32), Peer: peer}, {Prefix: netip.PrefixFrom(addrB6, 128), Peer: peer},
			})
			da, db := a.Device(), b.Device()
			ctx := testContext(t)
			defer context.AfterFunc(ctx, func() { da.Close(); db.Close() })() // no Read waits for ever

			done := make(chan error, 1)
			go func() { done <- tc.do(ctx, a, tc.to) }() // ctx ends it
			first := readPacket(t, da)
			writePacket(t, da, emptyDatagram(tc.to))
			select {
			case <-silent:
			case <-ctx.Done():
				t.Fatal("the silence is not noticed")
			}
			a.Resend(peer)
			again := readPacket(t, da)
			if header := ipHeaderLen(first); len(again) < header+4 || !bytes.Equal(again[header:header+4], first[header:header+4]) {
				t.Errorf("sent again %x, want %x", again, first)
			}
			writePacket(t, db, again)
			writePacket(t, da, readPacket(t, db))
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func ping(ctx context.Context, s *netstack.Stack, to netip.Addr) error {
	_, err := s.Ping(ctx, to, 1, 56)
	return err
}

func dialRefused(ctx context.Context, s *netstack.Stack, to netip.Addr) error {
	_, err := s.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(to, 80))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return errors.Join(errors.New("want ECONNREFUSED"), err)
}

func readPacket(t *testing.T, d *netstack.Device) []byte {
	t.Helper()
	bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
	if n, err := d.Read(bufs, sizes, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return bufs[0][:sizes[0]]
}

func writePacket(t *testing.T, d *netstack.Device, packet []byte) {
	t.Helper()
	if _, err := d.Write([][]byte{packet}, 0); err != nil {
		t.Fatal(err)
	}
}

func ipHeaderLen(packet []byte) int {
	if packet[0]>>4 == 6 {
		return 40
	}
	return int(packet[0]&0xf) * 4
}

// emptyDatagram is a UDP packet from b to a. Its UDP length is one too small, so that a drops it without a word.
func emptyDatagram(from netip.Addr) []byte {
	if from.Is6() {
		p := make([]byte, 40, 48)
		p[0], p[5], p[6], p[7] = 6<<4, 8, 17, 64
		copy(p[8:], from.AsSlice())
		copy(p[24:], addrA6.AsSlice())
		return append(p, 0, 9, 0, 9, 0, 7, 0, 0)
	}
	p := make([]byte, 20, 28)
	p[0], p[3], p[8], p[9] = 4<<4|5, 28, 64, 17
	copy(p[12:], from.AsSlice())
	copy(p[16:], addrA4.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	return append(p, 0, 9, 0, 9, 0, 7, 0, 0)
}
