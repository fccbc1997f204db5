// SPDX-License-Identifier: MIT

package wghttp_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wghttp"
	"example.com/wgnet/wgnet/wgnettest"
)

// whoAmI answers with the peer's name and the protocol.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	peer, ok := wghttp.PeerFromContext(r.Context())
	fmt.Fprintf(w, "%s %v %s", peer, ok, r.Proto)
}

// serve serves until the test ends.
func serve(t *testing.T, n *wgnet.Net, server *http.Server, cert *tls.Certificate) {
	t.Helper()
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = server.Close() // never fails for a listener of a Net
		<-done
	})
	go func() { // ends with server.Close
		defer close(done)
		if cert != nil {
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}}
			_ = server.ServeTLS(l, "", "") // says that it was closed
		} else {
			_ = server.Serve(l)
		}
	}()
}

// get fetches a page, and returns "status body".
func get(t *testing.T, n *wgnet.Net, url string) string {
	t.Helper()
	transport := &http.Transport{
		DialContext: n.DialContext, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the certificate is of no interest here
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(body)))
}

func newCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestRequirePeer(t *testing.T) {
	onlyA := func(_ *http.Request, p wgnet.Peer) bool { return p.Name == "a" }
	for _, test := range []struct {
		name        string
		allow       func(*http.Request, wgnet.Peer) bool
		connContext func(context.Context, net.Conn) context.Context
		tls         bool
		url         string
		a, c, self  string // what a, c and the server itself get
	}{
		{
			"every peer", nil, wghttp.ConnContext, false, "http://10.0.0.2",
			"200 a true HTTP/1.1", "200 c true HTTP/1.1", "403 403 forbidden",
		},
		{
			"one peer", onlyA, wghttp.ConnContext, false, "http://[fd00::2]",
			"200 a true HTTP/1.1", "403 403 forbidden", "403 403 forbidden",
		},
		{
			"TLS and HTTP/2", onlyA, wghttp.ConnContext, true, "https://10.0.0.2:80",
			"200 a true HTTP/2.0", "403 403 forbidden", "403 403 forbidden",
		},
		{
			"without ConnContext", nil, nil, false, "http://10.0.0.2",
			"500 wghttp: set the ConnContext of the http.Server to wghttp.ConnContext",
			"500 wghttp: set the ConnContext of the http.Server to wghttp.ConnContext",
			"500 wghttp: set the ConnContext of the http.Server to wghttp.ConnContext",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b", "c"}})
			server := &http.Server{
				Handler: wghttp.RequirePeer(test.allow, http.HandlerFunc(whoAmI)), ConnContext: test.connContext,
			}
			var cert *tls.Certificate
			if test.tls {
				cert = newCertificate(t)
			}
			serve(t, n.Nodes[1].Net, server, cert)
			for i, want := range []string{test.a, test.self, test.c} {
				if got := get(t, n.Nodes[i].Net, test.url); got != want {
					t.Errorf("%s gets %q, want %q", n.Nodes[i].Name, got, want)
				}
			}
		})
	}
}

func TestPeerFromContext(t *testing.T) {
	if p, ok := wghttp.PeerFromContext(t.Context()); ok {
		t.Errorf("a context of no request has %v", p)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if p, ok := wghttp.PeerFromContext(wghttp.ConnContext(t.Context(), ours)); ok {
		t.Errorf("a pipe has %v", p)
	}
}
