// SPDX-License-Identifier: MIT

package memnet_test

import (
	"context"
	"fmt"
	"net/netip"

	"example.com/wgnet/internal/memnet"
)

func Example() {
	n := memnet.New(memnet.Options{Seed: 1})
	defer n.Close()
	a, err := n.ListenPacket(context.Background(), "udp", "10.1.0.1:51820")
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := n.ListenPacket(context.Background(), "udp", "10.1.0.2:51820")
	if err != nil {
		fmt.Println(err)
		return
	}
	from, to := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	if err := n.SetLink(from, to, memnet.Link{Loss: 0.2, Duplicate: 0.05}); err != nil {
		fmt.Println(err)
		return
	}
	for range 1000 {
		if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
			fmt.Println(err)
			return
		}
	}
	s := n.Stats(from, to)
	fmt.Println(s.Sent, "sent,", s.Lost, "lost,", s.Duplicated, "duplicated,", s.Delivered, "delivered")
	// Output: 1000 sent, 210 lost, 46 duplicated, 836 delivered
}
