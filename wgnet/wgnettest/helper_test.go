// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// scope is a testing.TB whose cleanups run when the test says so, and whose failures are kept.
type scope struct {
	testing.TB
	cleanups []func()
	errors   []string
	logs     []string
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) Errorf(format string, args ...any) {
	s.errors = append(s.errors, fmt.Sprintf(format, args...))
}

func (s *scope) Logf(format string, args ...any) {
	s.logs = append(s.logs, fmt.Sprintf(format, args...))
}
func (s *scope) Failed() bool { return len(s.errors) > 0 }

// end is the end of the test.
func (s *scope) end() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}

// must ends a benchmark's scope, in which nothing may have failed.
func (s *scope) must() {
	s.end()
	for _, e := range s.errors {
		s.TB.Error(e)
	}
}

// listen listens on a Net until the test ends.
func listen(tb testing.TB, n *wgnet.Net, address string) net.Listener {
	tb.Helper()
	l, err := n.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // it may be closed already
	return l
}

// dial dials, and closes the connection when the test ends.
func dial(tb testing.TB, n *wgnet.Net, network, address string) net.Conn {
	tb.Helper()
	c, err := (&wgnet.Dialer{Net: n, Timeout: patience}).Dial(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() }) // it may be closed already
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		tb.Fatal(err)
	}
	return c
}

// serve handles each connection of a listener until the test ends, and closes all of them then.
func serve(tb testing.TB, l net.Listener, handle func(net.Conn)) {
	var accepting, handlers sync.WaitGroup
	var conns []net.Conn  // the accepting goroutine's until it has ended
	accepting.Go(func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			handlers.Go(func() { // ends with the connection
				defer c.Close()
				handle(c)
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close() // these may be closed already
		accepting.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
		handlers.Wait()
	})
}

func echo(c net.Conn) { io.Copy(c, c) }

// serveHTTP greets until the test ends.
func serveHTTP(tb testing.TB, l net.Listener) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello, wireguard\n")
	})}
	done := make(chan struct{})
	tb.Cleanup(func() {
		_ = server.Close() // it may be closed with its Net
		<-done
	})
	go func() { // ends with server.Close
		defer close(done)
		_ = server.Serve(l) // says that it was closed
	}()
}

// get fetches a page with a connection of its own.
func get(tb testing.TB, n *wgnet.Net, url string) string {
	tb.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

// newUpstream makes a network of one Net, "net", and upstream's own implementation, "up".
func newUpstream(tb testing.TB, change func(*wgnet.Config)) (n *wgnettest.Network, node, up *wgnettest.Node, peer *testpeer.Peer) {
	tb.Helper()
	n = wgnettest.NewUnstartedNetwork(tb, wgnettest.Config{Names: []string{"net"}})
	key := testpeer.GenerateKey()
	node, up = n.Nodes[0], n.Join("up", wgnet.PublicKey(key.Public()))
	peer = testpeer.New(tb, testpeer.Options{
		PrivateKey: key, Addresses: []string{up.Addr().String(), up.Addr6().String()},
		ListenPort: up.Endpoint().Port(), ListenPacket: up.ListenPacket,
	})
	if change != nil {
		change(node.Config)
	}
	if err := peer.AddPeer(remote(node)); err != nil {
		tb.Fatal(err)
	}
	n.Start()
	return n, node, up, peer
}

// remote is a node as upstream's implementation is told of it.
func remote(node *wgnettest.Node) testpeer.Remote {
	r := testpeer.Remote{PublicKey: testpeer.Key(node.PublicKey()), Endpoint: node.Endpoint().String()}
	for _, p := range node.AllowedIPs() {
		r.AllowedIPs = append(r.AllowedIPs, p.String())
	}
	return r
}
