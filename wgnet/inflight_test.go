// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"example.com/wgnet/internal/outer"
	"example.com/wgnet/netstack"
	"golang.zx2c4.com/wireguard/device"
)

// The device encrypts a packet in the buffer that it was read into, and gives that to Send: so the stack knows to whom a
// message goes. If a new version did otherwise, transfers would stall every few packets.
func TestMessagesTellTheirPeer(t *testing.T) {
	const id = 7
	addr, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
	b := onePeer(t, nil, keys[0].Public(), "", "10.0.0.2", "10.0.0.1", keys[1])

	stack, err := netstack.New(netstack.Config{Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}, MaxInFlight: maxInFlight})
	if err != nil {
		t.Fatal(err)
	}
	stack.SetRoutes([]netstack.Route{{Prefix: netip.PrefixFrom(other, 32), Peer: id}})
	told := make(chan string, 64)
	sockets, err := outer.Open(outer.Config{Sending: func(message []byte) {
		peer, ok := stack.PeerOf(message)
		told <- fmt.Sprint(peer, ok)
	}})
	if err != nil {
		t.Fatal(err)
	}
	dev := device.NewDevice(stack.Device(), sockets.Bind(), device.NewLogger(device.LogLevelSilent, ""))
	defer func() {
		if err := stack.Close(); err != nil {
			t.Error(err)
		}
		if err := sockets.Close(); err != nil {
			t.Error(err)
		}
		dev.Close()
	}()
	p := newPeerTable([]PeerConfig{{
		PublicKey: keys[1].Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(other, 32)},
		Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.ListenPort()).String(),
	}}, nil)
	if err := dev.IpcSet(uapiKey(keys[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.NewPeer(device.NoisePublicKey(keys[1].Public())); err != nil {
		t.Fatal(err)
	}
	if err := dev.IpcSet(uapiPeers(p.all)); err != nil {
		t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		t.Fatal(err)
	}
	listener, err := b.ListenPacket("udp", ":9") // else the second datagram is refused
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := stack.DialUDP(t.Context(), "udp", netip.AddrPort{}, netip.AddrPortFrom(other, 9))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The shortest and the longest: the message of the latter reaches to the mark.
	for _, size := range []int{1, netstack.DefaultMTU - 20 - 8} {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-told:
			if got != fmt.Sprint(netstack.PeerID(id), true) {
				t.Errorf("a datagram of %d bytes is told to be to peer %s", size, got)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was sent")
		}
	}
}
