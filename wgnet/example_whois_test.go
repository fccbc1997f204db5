// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"time"

	"example.com/wgnet/wgnet"
)

// Who is at the other end of a connection, and who has sent a datagram.
func ExamplePeerOf() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()
	l, err := bob.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	pc, err := bob.ListenPacket("udp", ":7")
	if err != nil {
		log.Fatal(err)
	}

	for _, network := range []string{"tcp", "udp"} {
		conn, err := alice.Dial(network, "bob:7")
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
	}
	conn, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	peer, ok := wgnet.PeerOf(conn)
	fmt.Println(peer, ok, peer.PublicKey == alice.PublicKey())

	_, from, err := pc.ReadFrom(make([]byte, 100))
	if err != nil {
		log.Fatal(err)
	}
	peer, ok = bob.PeerFor(from.(*net.UDPAddr).AddrPort().Addr())
	fmt.Println(peer, ok)
	// Output:
	// alice true true
	// alice true
}

// A host invites another one. All that the other needs is in one line of text.
func ExampleNet_Invite() {
	host, err := wgnet.New(&wgnet.Config{
		PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	cfg, err := host.Invite(wgnet.InviteOptions{Name: "laptop", HostName: "host", Endpoint: "127.0.0.1"})
	if err != nil {
		log.Fatal(err)
	}
	token, err := cfg.Token() // to be handed over as a password is
	if err != nil {
		log.Fatal(err)
	}

	// On the other side:
	cfg, err = wgnet.ParseToken(token)
	if err != nil {
		log.Fatal(err)
	}
	laptop, err := wgnet.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer laptop.Close()
	fmt.Println(laptop.Addresses(), "may reach", cfg.Peers[0].AllowedIPs)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := laptop.WaitPeer(ctx, host.PublicKey()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the laptop is on the network")

	if err := host.RemovePeer(laptop.PublicKey()); err != nil { // the invitation is taken back
		log.Fatal(err)
	}
	// Output:
	// [10.0.0.2/24] may reach [10.0.0.1/32]
	// the laptop is on the network
}

// A service ends in good order: what it has written arrives.
func ExampleNet_Shutdown() {
	alice, bob := network()
	defer alice.Close()
	l, err := bob.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go serve(l) // bob.Shutdown ends it
	conn, err := alice.Dial("tcp", "bob:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(line)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := bob.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	fmt.Println(err == io.EOF) // an orderly end
	// Output:
	// hello 10.0.0.1
	// true
}
