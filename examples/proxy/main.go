// SPDX-License-Identifier: MIT

// Command proxy lets programs of this host reach into a WireGuard tunnel by SOCKS5 and by HTTP, with no root and no TUN
// device.
//
//	proxy -config wg0.conf -socks 127.0.0.1:1080 -http 127.0.0.1:8080
//	curl --proxy socks5h://127.0.0.1:1080 http://server:9090
//
// Without arguments it makes up a network of two, and fetches a page from the other peer by each of the proxies.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"

	"example.com/wgnet/proxy"
	"example.com/wgnet/wgnet"
)

func main() {
	config := flag.String("config", "", "wg-quick `file` of this host")
	socks := flag.String("socks", "127.0.0.1:0", "`address` of the SOCKS5 proxy")
	web := flag.String("http", "127.0.0.1:0", "`address` of the HTTP proxy")
	flag.Parse()
	load := wgnet.LoadConfig
	if *config == "" {
		load = serve
	}
	n := must(wgnet.New(must(load(*config))))
	l5, lh := must(net.Listen("tcp", *socks)), must(net.Listen("tcp", *web))
	log.Printf("SOCKS5 at %v, HTTP at %v", l5.Addr(), lh.Addr())
	go func() { log.Fatal(proxy.ServeSOCKS(context.Background(), l5, proxy.Config{Dialer: n})) }()
	go func() { log.Fatal(proxy.ServeHTTP(context.Background(), lh, proxy.Config{Dialer: n})) }()
	if *config != "" {
		select {} // until it is interrupted
	}
	for _, u := range []url.URL{{Scheme: "socks5h", Host: l5.Addr().String()}, {Scheme: "http", Host: lh.Addr().String()}} {
		client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&u)}}
		fmt.Printf("by %s: ", u.Scheme)
		must(io.Copy(os.Stdout, must(client.Get("http://server:9090")).Body))
	}
}

// serve is a peer that serves HTTP. It returns the config of the host that may ask it.
func serve(string) (*wgnet.Config, error) {
	client := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
	server := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}
	server.Peers = []wgnet.PeerConfig{{PublicKey: client.PrivateKey.Public(), AllowedIPs: client.Addresses}}
	n := must(wgnet.New(server))
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello, wireguard") }
	go http.Serve(must(n.Listen("tcp", ":9090")), http.HandlerFunc(hello)) // as long as the program runs
	client.Peers = []wgnet.PeerConfig{{Name: "server", PublicKey: n.PublicKey(), AllowedIPs: n.Addresses()}}
	client.Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", n.ListenPort())
	return client, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
