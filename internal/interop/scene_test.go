// SPDX-License-Identifier: MIT

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"example.com/wgnet/internal/netns"
	"example.com/wgnet/internal/testpeer"
)

var kinds = []string{"wgnet", "upstream", "wireguard-go"}

// eachKind runs a test with each kind of other side.
func eachKind(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { test(t, kind) })
	}
}

// setting says how a scene is set.
type setting struct {
	them   string // a kind
	ipv6   bool   // outside; else IPv4
	starts string // whose file has an endpoint: "we", "they" or "both"
}

// scene is a tunnel between us and another side. The one that starts is peer 1 (10.0.0.1, fd00::1), the other one
// peer 2 (10.0.0.2, fd00::2).
type scene struct {
	ns             *netns.Namespace // where they are; nil: in this process
	ourNode        *node
	theirNode      *node
	us             *ours
	them           side
	peer1, peer2   side
	addrs1, addrs2 []string
}

func newScene(t *testing.T, set setting) *scene {
	t.Helper()
	s := &scene{}
	loopback := "127.0.0.1"
	if set.ipv6 {
		loopback = "::1"
	}
	s.ourNode = &node{key: testpeer.GenerateKey(), host: loopback, port: freePort(t)}
	s.theirNode = &node{key: testpeer.GenerateKey(), host: loopback, port: freePort(t)}
	if set.them == "wireguard-go" {
		s.ns = netns.New(t, "curl", "ping")
		s.theirNode.port = 51820
		s.ourNode.host, s.theirNode.host = s.ns.Outside4.String(), s.ns.Inside4.String()
		if set.ipv6 {
			s.ourNode.host, s.theirNode.host = s.ns.Outside6.String(), s.ns.Inside6.String()
		}
	}
	s.ourNode.others, s.theirNode.others = []*node{s.theirNode}, []*node{s.ourNode}
	s.ourNode.passive, s.theirNode.passive = set.starts == "they", set.starts == "we"

	s.addrs1, s.addrs2 = []string{"10.0.0.1", "fd00::1"}, []string{"10.0.0.2", "fd00::2"}
	if set.starts == "they" {
		s.theirNode.addresses, s.ourNode.addresses = s.addrs1, s.addrs2
		s.us = startOurs(t, s.ourNode, nil)
		s.them = startSide(t, set.them, s.theirNode, s.ns)
		s.peer1, s.peer2 = s.them, s.us
	} else {
		s.ourNode.addresses, s.theirNode.addresses = s.addrs1, s.addrs2
		s.them = startSide(t, set.them, s.theirNode, s.ns)
		s.us = startOurs(t, s.ourNode, nil)
		s.peer1, s.peer2 = s.us, s.them
	}
	return s
}

// freePort is a UDP port that nobody uses now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp", ":0")
	must(t, err)
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testContext bounds what would hang otherwise.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// get fetches a path from an HTTP server, over a connection of its own.
func get(ctx context.Context, from side, host, path string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: from.dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, httpPort)+path, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// getHello fetches scene 1's page.
func getHello(ctx context.Context, from side, host string) error {
	body, err := get(ctx, from, host, "/")
	if err == nil && body != hello {
		err = fmt.Errorf("got %q", body)
	}
	if err != nil {
		return fmt.Errorf("GET / of %s: %w", host, err)
	}
	return nil
}

// echoDatagram sends a datagram to an echo server and waits for its return. UDP may lose it, so it is repeated.
func echoDatagram(c net.Conn, size int) error {
	const tries, patience = 10, time.Second
	sent, got := make([]byte, size), make([]byte, 1<<16)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	for range tries {
		if _, err := c.Write(sent); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := c.Read(got)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			if bytes.Equal(got[:n], sent) {
				return nil
			}
		}
	}
	return fmt.Errorf("%d datagrams of %d bytes, and none came back", tries, size)
}
