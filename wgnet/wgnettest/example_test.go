// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// tb stands for the test's *testing.T, which an example does not have. In a test, t takes its place.
type tb struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (t *tb) Helper()          {}
func (t *tb) Failed() bool     { return t.failed }
func (t *tb) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *tb) Errorf(format string, args ...any) {
	t.failed = true
	fmt.Printf(format+"\n", args...)
}
func (t *tb) Logf(format string, args ...any)   { fmt.Printf(format+"\n", args...) }
func (t *tb) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (t *tb) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

// client is an HTTP client on a Net.
func client(n *wgnet.Net, timeout time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}, Timeout: timeout}
}

// handle serves HTTP on a Net, and returns what ends it.
func handle(n *wgnet.Net, answer func() (string, error)) (end func()) {
	l, err := n.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := answer()
		if err != nil {
			http.Error(w, "the database is away", http.StatusBadGateway)
			return
		}
		io.WriteString(w, text)
	})}
	done := make(chan struct{})
	go func() { // ends with server.Close
		defer close(done)
		_ = server.Serve(l) // says that it was closed
	}()
	return func() {
		_ = server.Close()
		<-done
	}
}

// fetch gets a page.
func fetch(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.Status + ": " + strings.TrimSpace(string(body)), err
}

// Two services talk through the VPN, and a third one behind them is cut off and comes back.
func ExampleNewNetwork() {
	t := new(tb)
	defer t.end()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"web", "api", "db"}})
	web, api, db := n.Nodes[0], n.Nodes[1], n.Nodes[2]
	defer handle(db.Net, func() (string, error) { return "42 rows", nil })()
	defer handle(api.Net, func() (string, error) { return fetch(client(api.Net, 300*time.Millisecond), "http://db/") })()

	ask := func(when string) {
		answer, err := fetch(client(web.Net, 10*time.Second), "http://api/")
		fmt.Println(when, "-", answer, err)
	}
	ask("all is well")
	n.Cut(db)
	ask("db is cut off")
	n.Heal(db)
	ask("db is back")
	// Output:
	// all is well - 200 OK: 200 OK: 42 rows <nil>
	// db is cut off - 502 Bad Gateway: the database is away <nil>
	// db is back - 200 OK: 200 OK: 42 rows <nil>
}

// A client tries again until it gets through, on a path that loses a fifth of all packets.
func ExampleNetwork_SetLinks() {
	t := new(tb)
	defer t.end()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"client", "server"}, Seed: 1})
	sender, receiver := n.Nodes[0].Net, n.Nodes[1].Net
	pc, err := receiver.ListenPacket("udp", ":9")
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan struct{})
	defer func() {
		pc.Close()
		<-done
	}()
	go func() { // answers each datagram; ends with pc
		defer close(done)
		buf := make([]byte, 100)
		for {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:size], from)
		}
	}()
	n.SetLinks(wgnettest.Link{Loss: 0.2})

	conn, err := sender.Dial("udp", "server:9")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	answered, tries := 0, 0
	for i := range 20 {
		for answer := ""; answer != fmt.Sprint(i); tries++ { // the code under test: a client's retry
			buf := make([]byte, 100)
			fmt.Fprint(conn, i)
			conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			size, _ := conn.Read(buf)
			answer = string(buf[:size])
		}
		answered++
	}
	fmt.Println(answered, "questions answered, more tries than questions:", tries > answered)
	// Output: 20 questions answered, more tries than questions: true
}

// Two hosts, a ping.
func ExamplePair() {
	t := new(tb)
	defer t.end()
	a, _ := wgnettest.Pair(t) // in a test, t is its *testing.T
	reply, err := a.Ping(context.Background(), "b")
	fmt.Println(reply.Addr, err)
	// Output: 10.0.0.2 <nil>
}

// A benchmark of a server, on a path with 1 ms each way. In a test file, the function is a Benchmark of its own.
func Example_benchmark() {
	result := testing.Benchmark(func(b *testing.B) {
		n := wgnettest.NewNetwork(b, wgnettest.Config{Names: []string{"client", "server"}})
		defer handle(n.Nodes[1].Net, func() (string, error) { return "hello", nil })()
		n.SetLinks(wgnettest.Link{Latency: time.Millisecond})
		c := client(n.Nodes[0].Net, 10*time.Second)
		for b.Loop() {
			if answer, err := fetch(c, "http://server/"); answer != "200 OK: hello" {
				b.Fatal(answer, err)
			}
		}
	})
	perOp := time.Duration(result.NsPerOp())
	fmt.Println("a connection and a request take at least two round trips:", perOp >= 4*time.Millisecond)
	// Output: a connection and a request take at least two round trips: true
}
