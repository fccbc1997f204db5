// SPDX-License-Identifier: MIT

package thirdparty

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// size is how much is transferred each way where the content is compared.
const size = 10 << 20

// serverAddrs are the server's addresses inside the tunnel.
var serverAddrs = []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}

// testContext bounds a test that would hang otherwise.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newNets makes two Nets that are each other's peer over loopback.
func newNets(t *testing.T) (client, server *wgnet.Net) {
	t.Helper()
	clientKey, serverKey := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	clientPrefixes, serverPrefixes := prefixes("10.0.0.1/32", "fd00::1/128"), prefixes("10.0.0.2/32", "fd00::2/128")
	server = newNet(t, &wgnet.Config{
		PrivateKey: serverKey, Addresses: serverPrefixes,
		Peers: []wgnet.PeerConfig{{PublicKey: clientKey.Public(), AllowedIPs: clientPrefixes}},
	})
	client = newNet(t, &wgnet.Config{
		PrivateKey: clientKey, Addresses: clientPrefixes,
		Peers: []wgnet.PeerConfig{{
			Name: "server", PublicKey: serverKey.Public(), AllowedIPs: serverPrefixes,
			Endpoint: fmt.Sprintf("127.0.0.1:%d", server.ListenPort()),
		}},
	})
	return client, server
}

func newNet(t *testing.T, cfg *wgnet.Config) *wgnet.Net {
	t.Helper()
	n, err := wgnet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() }) // never fails
	return n
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func listen(t *testing.T, n *wgnet.Net, address string) net.Listener {
	t.Helper()
	l, err := n.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func listenPacket(t *testing.T, n *wgnet.Net, address string) net.PacketConn {
	t.Helper()
	c, err := n.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing %s: %v", address, err)
		}
	})
	return c
}

// content returns a reader of size bytes, alike for one seed, and their hash.
func content(seed uint64) (io.Reader, string) {
	source := func() io.Reader {
		return io.LimitReader(mathrand.NewChaCha8([32]byte{byte(seed)}), size)
	}
	return source(), hash(source())
}

// hash returns the SHA-256 of what is read, or the error.
func hash(r io.Reader) string {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}

// tlsConfigs makes the TLS configs of a server with a fresh certificate and of a client that trusts it.
func tlsConfigs(t *testing.T, protocols ...string) (client, server *tls.Config) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"server"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate)
	client = &tls.Config{RootCAs: trusted, ServerName: "server", NextProtos: protocols}
	server = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, NextProtos: protocols,
	}
	return client, server
}

// noLog fails the test if anything was logged: libraries complain there about connections that they do not like.
func noLog(t *testing.T) {
	t.Helper()
	var said lines
	before := log.Writer()
	log.SetOutput(&said)
	t.Cleanup(func() {
		log.SetOutput(before)
		if text := said.String(); text != "" {
			t.Errorf("logged:\n%s", text)
		}
	})
}

// lines is a strings.Builder for several goroutines.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
