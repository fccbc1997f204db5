// SPDX-License-Identifier: MIT

// Command dialer fetches a URL through a WireGuard tunnel, with no root and no TUN device, and prints the body.
//
//	dialer -config wg0.conf http://10.0.0.2:9090
//
// With -config it is the host that the file describes. Without, it makes up a network of two and fetches a page from
// the other peer, which it is too.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"os"
	"time"

	"example.com/wgnet/wgnet"
)

func main() {
	file := flag.String("config", "", "wg-quick `file` of this host")
	flag.Parse()
	cfg, url := new(wgnet.Config), flag.Arg(0)
	switch {
	case *file != "" && flag.NArg() == 1:
		cfg = must(wgnet.LoadConfig(*file))
	case *file == "" && flag.NArg() == 0:
		cfg, url = serve(), "http://10.0.0.2:9090"
	default:
		log.Fatal("usage: dialer -config file URL, or no arguments at all to see it work")
	}
	for _, warning := range cfg.Warnings() {
		log.Println("warning:", warning)
	}
	n := must(wgnet.New(cfg))
	defer n.Close()
	dialer := &wgnet.Dialer{Net: n, Timeout: 10 * time.Second}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	resp := must(client.Get(url))
	if resp.StatusCode != http.StatusOK {
		log.Fatal(resp.Status)
	}
	must(io.Copy(os.Stdout, resp.Body))
}

// serve is a peer that serves HTTP. It returns the config of the host that may ask it.
func serve() *wgnet.Config {
	client := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
	server := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}
	server.Peers = []wgnet.PeerConfig{{PublicKey: client.PrivateKey.Public(), AllowedIPs: client.Addresses}}
	n := must(wgnet.New(server))
	l := must(n.Listen("tcp", ":9090"))
	hello := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello, wireguard") }
	go http.Serve(l, http.HandlerFunc(hello)) // as long as the program runs
	client.Peers = []wgnet.PeerConfig{{PublicKey: n.PublicKey(), AllowedIPs: n.Addresses()}}
	client.Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", n.ListenPort())
	return client
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
