// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// lan is what the gateways of these tests serve beyond themselves.
var lan = prefixes("192.168.1.0/24", "fd01::/64")

// gatewayPair makes two Nets, the second of which is the first one's way into the LAN.
func gatewayPair(t *testing.T) (client, gateway *wgnet.Net) {
	t.Helper()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"client", "gateway"}})
	p := &n.Nodes[0].Config.Peers[0]
	p.AllowedIPs = slices.Concat(p.AllowedIPs, lan)
	n.Start()
	return n.Nodes[0].Net, n.Nodes[1].Net
}

// handle sets a handler, and takes it away when the test ends.
func handle(t *testing.T, n *wgnet.Net, handler func(*wgnet.Flow)) {
	t.Helper()
	if err := n.HandleFlows(handler); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.HandleFlows(nil); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// echoBack accepts a flow and sends everything back.
func echoBack(t *testing.T) func(*wgnet.Flow) {
	return func(f *wgnet.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		defer c.Close()
		if f.Network() == "tcp" {
			if _, err := io.Copy(c, c); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("Copy: %v", err)
			}
			return
		}
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read: %v", err)
				}
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				t.Errorf("Write: %v", err)
			}
		}
	}
}

// A handler accepts a connection to an address that is not the Net's own.
func TestFlowAcceptTCP(t *testing.T) {
	client, gateway := gatewayPair(t)
	flows := make(chan *wgnet.Flow, 2)
	echo := echoBack(t)
	handle(t, gateway, func(f *wgnet.Flow) {
		flows <- f
		echo(f)
	})
	for _, target := range []string{"192.168.1.123:9090", "[fd01::123]:9090"} {
		t.Run(target, func(t *testing.T) {
			c, err := client.DialContext(testContext(t), "tcp", target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			f := <-flows
			if f.Network() != "tcp" || f.Destination().String() != target || f.Source().String() != c.LocalAddr().String() {
				t.Errorf("the flow is %s from %s to %s, the connection from %s", f.Network(), f.Source(), f.Destination(), c.LocalAddr())
			}
			if f.PeerKey() != client.PublicKey() || f.PeerName() != "client" {
				t.Errorf("the flow is of peer %q, %s", f.PeerName(), f.PeerKey())
			}
			if name, _, ok := f.Target(); ok {
				t.Errorf("the flow's target is peer %q", name)
			}
			checkEcho(t, c, "hello")
			if err := f.Forward(); !errors.Is(err, syscall.ENETUNREACH) {
				t.Errorf("Forward after Accept: %v", err)
			}
			if _, err := f.Accept(); !errors.Is(err, wgnet.ErrFlowDecided) {
				t.Errorf("second Accept: %v", err)
			}
			c.Close()
			<-f.Context().Done()
		})
	}
}

func checkEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("Read: %q, %v, want %q", b, err, text)
	}
}
