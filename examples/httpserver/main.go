// SPDX-License-Identifier: MIT

// Command httpserver serves HTTP on port 9090 inside a WireGuard network, with no root and no TUN device.
//
// With -config it is the host that the file describes. Without, it makes up a network of two: it prints the other
// peer's file, fetches its own page as that peer, and serves on, so that a real peer can use the file.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"os"
	"os/signal"

	"example.com/wgnet/wgnet"
)

func main() {
	file := flag.String("config", "", "wg-quick `file` of this host (default: make up a network of two and try it)")
	flag.Parse()
	peer := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
	cfg := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}
	cfg.Peers = []wgnet.PeerConfig{{PublicKey: peer.PrivateKey.Public(), AllowedIPs: peer.Addresses}}
	if *file != "" {
		cfg = must(wgnet.LoadConfig(*file))
	}
	for _, warning := range cfg.Warnings() {
		log.Println("warning:", warning)
	}
	interrupted, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	n := must(wgnet.New(cfg))
	l := must(n.Listen("tcp", ":9090"))
	log.Printf("serving http://%v:9090 over UDP port %d until interrupted", n.Addresses()[0].Addr(), n.ListenPort())
	if *file == "" {
		peer.Peers = []wgnet.PeerConfig{{PublicKey: n.PublicKey(), AllowedIPs: n.Addresses()}}
		peer.Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", n.ListenPort())
		go try(peer) // ends after one request
	}
	context.AfterFunc(interrupted, func() { n.Close() }) // Serve returns then
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello, wireguard") }
	if err := http.Serve(l, http.HandlerFunc(hello)); interrupted.Err() == nil {
		log.Fatal(err)
	}
	<-n.Done()
}

// try prints a peer's config and is that peer for one request.
func try(cfg *wgnet.Config) {
	fmt.Printf("%s\n", must(cfg.MarshalText()))
	n := must(wgnet.New(cfg))
	defer n.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: n.DialContext}}
	io.Copy(os.Stdout, must(client.Get("http://10.0.0.2:9090")).Body)
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
