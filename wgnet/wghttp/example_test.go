// SPDX-License-Identifier: MIT

package wghttp_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wghttp"
)

// host makes a Net at an address.
func host(addr string) *wgnet.Net {
	n, err := wgnet.New(&wgnet.Config{
		PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix(addr)},
	})
	if err != nil {
		log.Fatal(err)
	}
	return n
}

// introduce makes two Nets each other's peers.
func introduce(client *wgnet.Net, name string, server *wgnet.Net) {
	err := server.AddPeer(wgnet.PeerConfig{Name: name, PublicKey: client.PublicKey(), AllowedIPs: client.Addresses()})
	if err != nil {
		log.Fatal(err)
	}
	err = client.AddPeer(wgnet.PeerConfig{
		Name: "server", PublicKey: server.PublicKey(), AllowedIPs: server.Addresses(),
		Endpoint: fmt.Sprintf("127.0.0.1:%d", server.ListenPort()),
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A server greets a peer by its name, and refuses one that it does not know by that name.
func Example() {
	server, alice, mallory := host("10.0.0.1/32"), host("10.0.0.2/32"), host("10.0.0.3/32")
	defer server.Close()
	defer alice.Close()
	defer mallory.Close()
	introduce(alice, "alice", server)
	introduce(mallory, "", server)

	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, _ := wghttp.PeerFromContext(r.Context())
		fmt.Fprintln(w, "hello,", peer.Name)
	})
	named := func(_ *http.Request, peer wgnet.Peer) bool { return peer.Name != "" }
	l, err := server.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	s := &http.Server{Handler: wghttp.RequirePeer(named, hello), ConnContext: wghttp.ConnContext}
	go s.Serve(l) // s.Close ends it
	defer s.Close()

	for _, n := range []*wgnet.Net{alice, mallory} {
		client := &http.Client{Transport: &http.Transport{DialContext: n.DialContext}}
		resp, err := client.Get("http://server")
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Printf("%d %s", resp.StatusCode, body)
	}
	// Output:
	// 200 hello, alice
	// 403 403 forbidden
}
