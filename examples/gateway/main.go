// SPDX-License-Identifier: MIT

// Command gateway lets the peers of a WireGuard tunnel into the networks of this host, with no root and no TUN device.
//
//	gateway -config wg0.conf -rules rules.txt
//
// where rules.txt may have the line "allow from laptop to 192.168.1.0/24". Without arguments it makes up a network of two
// and a LAN with a web server, and fetches a page from there, as the peer.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"

	"example.com/wgnet/gateway"
	"example.com/wgnet/wgnet"
)

func main() {
	config := flag.String("config", "", "wg-quick `file` of this host")
	rules := flag.String("rules", "", "`file` of rules, one a line")
	flag.Parse()
	if *config == "" {
		demo()
		return
	}
	text := string(must(os.ReadFile(*rules)))
	gw := must(gateway.New(gateway.Config{Rules: must(gateway.ParseRules(text)), Logger: slog.Default()}))
	n := must(wgnet.New(must(wgnet.LoadConfig(*config))))
	must(0, n.HandleFlows(func(f *wgnet.Flow) { gw.Serve(f) }))
	select {} // until it is interrupted
}

// A lanFlow is for 192.168.1.123, the one host of the LAN, which in truth is a port of this host's loopback.
type lanFlow struct{ *wgnet.Flow }

func (lanFlow) Destination() netip.AddrPort { return web.Addr().(*net.TCPAddr).AddrPort() }

var web = must(net.Listen("tcp", "127.0.0.1:0"))

func demo() {
	go http.Serve(web, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello, lan") }))
	laptop := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
	door := &wgnet.Config{PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}
	door.Peers = []wgnet.PeerConfig{{Name: "laptop", PublicKey: laptop.PrivateKey.Public(), AllowedIPs: laptop.Addresses}}
	n := must(wgnet.New(door))
	gw := must(gateway.New(gateway.Config{Rules: must(gateway.ParseRules("allow tcp from laptop to 127.0.0.1 special"))}))
	must(0, n.HandleFlows(func(f *wgnet.Flow) { gw.Serve(lanFlow{f}) }))
	lan := []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}
	laptop.Peers = []wgnet.PeerConfig{{PublicKey: n.PublicKey(), AllowedIPs: lan}}
	laptop.Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", n.ListenPort())
	client := http.Client{Transport: &http.Transport{DialContext: must(wgnet.New(laptop)).DialContext}}
	must(io.Copy(os.Stdout, must(client.Get("http://192.168.1.123:9090")).Body))
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
