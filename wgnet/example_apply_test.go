// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"syscall"

	"example.com/wgnet/wgnet"
)

// Two hosts that know nobody are introduced to each other while they run, and part again.
func ExampleNet_AddPeer() {
	newHost := func(addr string) *wgnet.Net {
		n, err := wgnet.New(&wgnet.Config{
			PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix(addr)},
		})
		if err != nil {
			log.Fatal(err)
		}
		return n
	}
	alice, bob := newHost("10.0.0.1/32"), newHost("10.0.0.2/32")
	defer alice.Close()
	defer bob.Close()
	l, err := bob.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go serve(l) // ends with the listener, when bob is closed

	if err := bob.AddPeer(wgnet.PeerConfig{Name: "alice", PublicKey: alice.PublicKey(), AllowedIPs: alice.Addresses()}); err != nil {
		log.Fatal(err)
	}
	err = alice.AddPeer(wgnet.PeerConfig{
		Name: "bob", PublicKey: bob.PublicKey(), AllowedIPs: bob.Addresses(),
		Endpoint: fmt.Sprintf("127.0.0.1:%d", bob.ListenPort()),
	})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := alice.Dial("tcp", "bob:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	var line string
	if _, err := fmt.Fscanf(conn, "%s", &line); err != nil {
		log.Fatal(err)
	}
	fmt.Println("bob says", line)

	if err := alice.RemovePeer(bob.PublicKey()); err != nil {
		log.Fatal(err)
	}
	_, err = alice.Dial("tcp", "10.0.0.2:80")
	fmt.Println("bob is unreachable:", errors.Is(err, syscall.ENETUNREACH))
	// Output:
	// bob says hello
	// bob is unreachable: true
}

// A program follows its config file: call this when the file has changed. A file that cannot be used changes nothing.
func ExampleNet_Apply() {
	reload := func(n *wgnet.Net, path string) error {
		cfg, err := wgnet.LoadConfig(path)
		if err != nil {
			return err
		}
		return n.Apply(cfg)
	}

	n, err := wgnet.New(&wgnet.Config{
		PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer n.Close()
	err = reload(n, "no-such-file.conf")
	fmt.Println("nothing has changed:", errors.Is(err, os.ErrNotExist), n.Addresses())
	// Output: nothing has changed: true [10.0.0.1/32]
}
