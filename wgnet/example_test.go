// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"example.com/wgnet/wgnet"
)

// network starts two hosts that are each other's peer: alice at 10.0.0.1 and bob at 10.0.0.2. Only alice knows where
// the other is.
func network() (alice, bob *wgnet.Net) {
	aliceKey, bobKey := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	aliceAddr, bobAddr := []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}, []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}
	bob, err := wgnet.New(&wgnet.Config{
		PrivateKey: bobKey,
		Addresses:  bobAddr,
		Peers:      []wgnet.PeerConfig{{Name: "alice", PublicKey: aliceKey.Public(), AllowedIPs: aliceAddr}},
	})
	if err != nil {
		log.Fatal(err)
	}
	alice, err = wgnet.New(&wgnet.Config{
		PrivateKey: aliceKey,
		Addresses:  aliceAddr,
		Peers: []wgnet.PeerConfig{{
			Name: "bob", PublicKey: bobKey.Public(), AllowedIPs: bobAddr,
			Endpoint: fmt.Sprintf("127.0.0.1:%d", bob.ListenPort()),
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	return alice, bob
}

// serve answers every connection with a line.
func serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // the listener was closed
		}
		fmt.Fprintln(conn, "hello", conn.RemoteAddr().(*net.TCPAddr).IP)
		conn.Close()
	}
}

// What happens to the peers, and how things stand then.
func ExampleNet_Events() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	events := bob.Events(context.Background()) // from now on
	for e := range events {
		fmt.Println(e.Kind, e.Peer)
		break
	}
	for _, p := range bob.Status().Peers {
		fmt.Println(p.Name, p.Session, p.AllowedIPs)
	}
	// Output:
	// peer up alice
	// alice up [10.0.0.1/32]
}

// An HTTP server and an HTTP client take a Net as they take the machine's network.
func ExampleNet() {
	alice, bob := network() // each with wgnet.New
	defer alice.Close()
	defer bob.Close()

	l, err := bob.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello, wireguard")
	})}
	go server.Serve(l) // server.Close ends it
	defer server.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: alice.DialContext}}
	resp, err := client.Get("http://10.0.0.2:9090")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(body))
	// Output: hello, wireguard
}

func ExampleNet_Dial() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()
	l, err := bob.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go serve(l) // bob.Close ends it

	conn, err := alice.Dial("tcp", "10.0.0.2:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s says %s", conn.RemoteAddr(), text)
	// Output: 10.0.0.2:7 says hello 10.0.0.1
}

// The errors are those of the net package.
func ExampleNet_DialContext() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	_, err := alice.DialContext(ctx, "tcp", "bob:8080") // by the peer's name
	fmt.Println("refused:", errors.Is(err, syscall.ECONNREFUSED))
	_, err = alice.DialContext(ctx, "tcp", "10.0.0.3:8080")
	fmt.Println("unreachable:", errors.Is(err, syscall.ENETUNREACH))
	fmt.Println(err)
	// Output:
	// refused: true
	// unreachable: true
	// dial tcp 10.0.0.3:8080: connect: network is unreachable: no peer's AllowedIPs contain 10.0.0.3
}

func ExampleNet_Listen() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	l, err := bob.Listen("tcp", "10.0.0.2:0") // or ":0", for all of bob's addresses
	if err != nil {
		log.Fatal(err)
	}
	go func() { // ends after one line
		conn, err := alice.Dial("tcp", l.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello, bob")
	}()

	conn, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
	// Output: hello, bob
}

func ExampleNet_ListenPacket() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	server, err := bob.ListenPacket("udp", ":53")
	if err != nil {
		log.Fatal(err)
	}
	client, err := alice.Dial("udp", "10.0.0.2:53")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Write([]byte("hello, bob")); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, from, err := server.ReadFrom(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from %v\n", buf[:n], from.(*net.UDPAddr).IP)
	// Output: hello, bob from 10.0.0.1
}

func ExampleNet_Ping() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 3 {
		reply, err := alice.Ping(ctx, "bob")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v: seq=%d ttl=%d within a second: %t\n", reply.Addr, reply.Seq, reply.TTL, reply.RTT < time.Second)
	}
	// Output:
	// 10.0.0.2: seq=1 ttl=64 within a second: true
	// 10.0.0.2: seq=2 ttl=64 within a second: true
	// 10.0.0.2: seq=3 ttl=64 within a second: true
}

// Bob has no endpoint for Alice, so he cannot dial her before he has heard from her.
func ExampleNet_WaitPeer() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := bob.WaitPeer(ctx, alice.PublicKey()); err != nil {
		log.Fatal(err)
	}
	reply, err := bob.Ping(ctx, "alice")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Addr, "answers")
	// Output: 10.0.0.1 answers
}

func ExampleNet_LookupHost() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()

	ctx := context.Background()
	addrs, err := alice.LookupHost(ctx, "bob") // the Name in his PeerConfig, or a "# Name = bob" in the file
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(addrs)
	_, err = alice.LookupHost(ctx, "example.com") // would be asked through the tunnel, of the servers in Config.DNS
	fmt.Println(err)
	// Output:
	// [10.0.0.2]
	// lookup example.com: no DNS server is configured: set DNS in the tunnel's configuration
}

func ExampleDialer() {
	alice, bob := network()
	defer alice.Close()
	defer bob.Close()
	l, err := bob.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go serve(l) // bob.Close ends it

	dialer := &wgnet.Dialer{
		Net:       alice,
		LocalAddr: netip.MustParseAddrPort("10.0.0.1:4321"),
		Timeout:   10 * time.Second,
	}
	conn, err := dialer.Dial("tcp", "10.0.0.2:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.LocalAddr(), "to", conn.RemoteAddr())
	// Output: 10.0.0.1:4321 to 10.0.0.2:7
}
