// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"example.com/wgnet/wgnet"
)

// A handler that answers for one address of a network behind it, lets peers reach each other, and refuses the rest.
func ExampleNet_HandleFlows() {
	client, gateway, err := startPair()
	if err != nil {
		panic(err)
	}
	defer client.Close()
	defer gateway.Close()
	err = client.UpdatePeer(wgnet.PeerConfig{
		PublicKey: gateway.PublicKey(), Endpoint: localhost(gateway.ListenPort()),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("192.168.1.0/24")},
	})
	if err != nil {
		panic(err)
	}

	err = gateway.HandleFlows(func(f *wgnet.Flow) {
		if _, _, ok := f.Target(); ok {
			_ = f.Forward() // its error is that the flow has ended meanwhile
			return
		}
		if f.Network() != "tcp" || f.Destination().String() != "192.168.1.123:9090" {
			f.Refuse(syscall.ECONNREFUSED)
			return
		}
		c, err := f.Accept()
		if err != nil {
			return // the client has given up
		}
		defer c.Close()
		fmt.Fprintf(c, "hello from %s\n", f.Destination())
	})
	if err != nil {
		panic(err)
	}

	c, err := client.Dial("tcp", "192.168.1.123:9090")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	fmt.Printf("%s%v\n", text, err)
	_, err = client.Dial("tcp", "192.168.1.123:22")
	fmt.Println(err)
	// Output:
	// hello from 192.168.1.123:9090
	// <nil>
	// dial tcp 192.168.1.123:22: connect: connection refused
}
