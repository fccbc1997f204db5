// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// shutDown calls Shutdown, and returns when it has begun.
func shutDown(tb testing.TB, n *wgnet.Net, ctx context.Context) <-chan error {
	tb.Helper()
	l, _ := listen(tb, n, ":0")
	got := make(chan error, 1)
	go func() { got <- n.Shutdown(ctx) }() // ends with ctx, or what the test does
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		tb.Errorf("Accept: %v, want net.ErrClosed", err)
	}
	return got
}

// randomBytes is what no buffer has by chance, and its hash.
func randomBytes(size int) ([]byte, [sha256.Size]byte) {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b, sha256.Sum256(b)
}

// fault 39: a large write, closed at once, arrives whole over a slow and lossy link before Shutdown returns, and ends in
// good order.
func TestShutdownDelivers(t *testing.T) {
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0].Net, n.Nodes[1].Net
	data, want := randomBytes(1 << 20)
	l, port := listen(t, b, ":0")
	defer l.Close()
	c, err := a.DialContext(testContext(t), "tcp", "b:"+port)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	n.SetLinks(wgnettest.Link{Bandwidth: 20e6, Latency: 10 * time.Millisecond, Loss: 0.01})
	hash, read := sha256.New(), make(chan error, 1)
	go func() { // ends with the connection
		_, err := io.CopyN(hash, accepted, int64(len(data)-1000))
		read <- err
	}()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if rest, err := io.Copy(hash, accepted); rest != 1000 || err != nil {
		t.Errorf("after the sender's end: %d bytes, %v; want 1000 and an orderly end", rest, err)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != want {
		t.Error("the data is not what was sent")
	}
}

// The same to upstream's stack, which does not read before the Net is gone.
func TestShutdownDeliversUpstream(t *testing.T) {
	n, up := newUpstream(t, nil)
	data, want := randomBytes(32 << 10)
	l, port := listen(t, n, ":0")
	c, err := up.DialContext(testContext(t), "tcp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := accepted.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	received, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(received) != want {
		t.Errorf("%d of %d bytes, %v", len(received), len(data), err)
	}
}

func TestShutdownWaits(t *testing.T) {
	a, b := wgnettest.Pair(t)
	dialed, accepted := connect(t, b, a, "a")
	pc, _ := listenPacket(t, a, ":0")
	first, second := shutDown(t, a, testContext(t)), make(chan error, 1)
	go func() { second <- a.Shutdown(testContext(t)) }() // ends with the first one

	_, dialTCP := a.Dial("tcp", "b:80")
	_, dialUDP := a.Dial("udp", "10.0.0.2:80")
	_, listenTCP := a.Listen("tcp", ":0")
	_, listenUDP := a.ListenPacket("udp", ":0")
	_, lookup := a.LookupHost(testContext(t), "b")
	for name, err := range map[string]error{
		"Dial": dialTCP, "Dial UDP": dialUDP, "Listen": listenTCP, "ListenPacket": listenUDP, "LookupHost": lookup,
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v, want net.ErrClosed", name, err)
		}
	}
	// What is open works on.
	go func() { // ends with the connection
		io.Copy(accepted, accepted)
		accepted.Close()
	}()
	for range 3 {
		if err := roundTrip(dialed); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-first:
		t.Fatalf("Shutdown does not wait for a connection: %v", err)
	case <-a.Done():
		t.Fatal("the Net is closed")
	default:
	}
	if err := dialed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, got := range []<-chan error{first, second} {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	select {
	case <-a.Done():
	default:
		t.Error("the Net is not closed")
	}
	if _, _, err := pc.ReadFrom(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a packet conn: %v, want net.ErrClosed", err)
	}
	if err := a.Shutdown(testContext(t)); err != nil {
		t.Errorf("once more: %v", err)
	}
	closeNet(t, a)
}

func TestShutdownGivesUp(t *testing.T) {
	a, b := wgnettest.Pair(t)
	dialed, accepted := connect(t, b, a, "a")
	ctx, cancel := context.WithCancel(context.Background())
	got := shutDown(t, a, ctx)
	cancel()
	err := <-got
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "wgnet: Shutdown: connections left: 1 open, 0 closed") {
		t.Error(err)
	}
	if _, err := accepted.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("our end: %v", err)
	}
	isReset(t, "the other end", dialed)
	if err := a.Shutdown(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("again: %v, want net.ErrClosed", err)
	}
}

func TestCloseDuringShutdown(t *testing.T) {
	a, b := wgnettest.Pair(t)
	connect(t, b, a, "a")
	got := shutDown(t, a, context.Background())
	closeNet(t, a)
	if err := <-got; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}

// A handler that waits for Shutdown is waited for by it, until the context ends that.
func TestShutdownInHandler(t *testing.T) {
	a, b := wgnettest.Pair(t)
	l, port := listen(t, a, ":0")
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { result <- a.Shutdown(ctx) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends with l, by Shutdown
	client := &http.Client{Transport: &http.Transport{DialContext: b.DialContext}}
	got := make(chan error, 1)
	go func() { // ends with the Net
		resp, err := client.Get("http://a:" + port)
		if err == nil {
			_ = resp.Body.Close()
		}
		got <- err
	}()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v, want net.ErrClosed", err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v, want context.Canceled", err)
	}
	if err := <-got; err == nil {
		t.Error("the client has an answer")
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// A request that is being served when the server and then its Net are shut down is answered whole.
func TestShutdownServer(t *testing.T) {
	a, b := wgnettest.Pair(t)
	l, port := listen(t, a, ":0")
	data, want := randomBytes(1 << 20)
	began, shut := make(chan struct{}), make(chan error, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		for part := data; len(part) > 0; part = part[1<<16:] {
			if _, err := w.Write(part[:1<<16]); err != nil {
				return
			}
		}
	})}
	go func() { _ = server.Serve(l) }() // ends with server.Shutdown
	go func() {                         // ends with the answer
		<-began
		ctx := testContext(t)
		shut <- errors.Join(server.Shutdown(ctx), a.Shutdown(ctx))
	}()
	client := &http.Client{Transport: &http.Transport{DialContext: b.DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(fmt.Sprintf("http://10.0.0.1:%s", port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || sha256.Sum256(body) != want {
		t.Errorf("%d of %d bytes, %v", len(body), len(data), err)
	}
	if err := <-shut; err != nil {
		t.Error(err)
	}
}
