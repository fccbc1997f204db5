// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// tapped are the packets that a tap has seen.
type tapped struct {
	mu   sync.Mutex // guards seen
	seen []netstack.TappedPacket
}

func (l *tapped) see(p netstack.TappedPacket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.Data = slices.Clone(p.Data)
	l.seen = append(l.seen, p)
}

// A tap sees what the device hands over, whether the stack takes it or not, and what the stack answers.
func TestTap(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrA4, 24), netip.PrefixFrom(addrA6, 64)}})
	s.SetRoutes([]netstack.Route{{Prefix: netip.PrefixFrom(addrB4, 32), Peer: 7}, {Prefix: netip.PrefixFrom(addrA4, 32), Peer: 8}})
	stranger := netip.MustParseAddr("192.0.2.1")
	syn := header.TCPFields{SrcPort: 5, DstPort: 6, SeqNum: 1, Flags: header.TCPFlagSyn, WindowSize: 1000}
	crooked := rawTCP(addrB4, addrA4, syn, nil)
	crooked[0] = 0x41 // a header of four bytes
	packets := []struct {
		name  string
		data  []byte
		peer  netstack.PeerID
		known bool
	}{
		{"SYN to a closed port", rawTCP(addrB4, addrA4, syn, nil), 7, true},
		{"from our own address", rawTCP(addrA4, addrA4, syn, nil), 8, true},
		{"from nobody", rawTCP(stranger, addrA4, syn, nil), 0, false},
		{"from nobody, IPv6", rawTCP(addrB6, addrA6, syn, nil), 0, false},
		{"a header length that lies", crooked, 7, true},
		{"cut short", rawTCP(addrB4, addrA4, syn, nil)[:19], 0, false},
		{"of no version", []byte{0x70, 1, 2}, 0, false},
	}
	const offset = 16
	bufs := [][]byte{make([]byte, offset)} // an empty packet is none
	for _, p := range packets {
		bufs = append(bufs, append(make([]byte, offset), p.data...))
	}
	var log, other tapped
	remove, err := s.AddTap(log.see)
	if err != nil {
		t.Fatal(err)
	}
	removeOther, err := s.AddTap(other.see)
	if err != nil {
		t.Fatal(err)
	}
	removeOther()
	removeOther()
	d := s.Device()
	if _, err := d.Write(bufs, offset); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1500)
	sizes := make([]int, 1)
	if n, err := d.Read([][]byte{answer}, sizes, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	remove()
	if _, err := d.Write(bufs, offset); err != nil {
		t.Fatal(err)
	}
	if len(log.seen) != len(packets)+1 || len(other.seen) != 0 {
		t.Fatalf("one tap has seen %d packets, want %d, the removed one %d", len(log.seen), len(packets)+1, len(other.seen))
	}
	for i, p := range packets {
		if got := log.seen[i]; !bytes.Equal(got.Data, p.data) || got.Peer != p.peer || got.Known != p.known || got.Outbound {
			t.Errorf("%s: %+v", p.name, got)
		}
	}
	got := log.seen[len(packets)]
	if !bytes.Equal(got.Data, answer[:sizes[0]]) || got.Peer != 7 || !got.Known || !got.Outbound {
		t.Errorf("the answer: %+v", got)
	}
}

func TestMaxTaps(t *testing.T) {
	s := newStack(t, netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addrA4, 24)}})
	var remove func()
	for range netstack.MaxTaps {
		var err error
		if remove, err = s.AddTap(func(netstack.TappedPacket) {}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.AddTap(func(netstack.TappedPacket) {}); err == nil {
		t.Error("one tap too many")
	}
	remove()
	if _, err := s.AddTap(func(netstack.TappedPacket) {}); err != nil {
		t.Error(err)
	}
}
