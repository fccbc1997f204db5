// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// TestFlowForGateway has what package gateway asks of a flow beyond its own methods: who the peer is, whether another one
// serves the destination, and messages one by one without a buffer of ours.
func TestFlowForGateway(t *testing.T) {
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"hub", "a", "b"}, Topology: wgnettest.Star})
	n.Nodes[1].Config.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	n.Start()
	hub, a, b := n.Nodes[0], n.Nodes[1], n.Nodes[2]
	type asked struct {
		id       string
		toPeer   bool
		messages []string
		err      error
	}
	flows := make(chan asked, 2)
	enough := errors.New("enough")
	err := hub.Net.HandleFlows(func(f *wgnet.Flow) {
		result := asked{id: f.PeerID(), toPeer: f.ToPeer()}
		defer func() { flows <- result }()
		if result.toPeer {
			f.Drop()
			return
		}
		conn, err := f.Accept()
		if err != nil {
			result.err = err
			return
		}
		defer conn.Close()
		_, result.err = conn.(io.WriterTo).WriteTo(writer(func(b []byte) error {
			result.messages = append(result.messages, string(b))
			if len(result.messages) == 3 {
				return enough
			}
			return nil
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	send := func(to netip.Addr, messages ...string) net.Conn {
		c, err := a.Net.Dial("udp", netip.AddrPortFrom(to, 9).String())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if _, err := c.Write([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	long := strings.Repeat("x", 9000)
	defer send(netip.MustParseAddr("192.168.1.1"), "one", "", long).Close()
	got := <-flows
	if got.id != a.Net.PublicKey().String() || got.toPeer || got.err != enough ||
		strings.Join(got.messages, "|") != "one||"+long {
		t.Errorf("to a host: %.200v", got)
	}
	defer send(b.Addr(), "x").Close()
	if got := <-flows; got.id != a.Net.PublicKey().String() || !got.toPeer {
		t.Errorf("to a peer: %+v", got)
	}
}

type writer func([]byte) error

func (w writer) Write(b []byte) (int, error) { return len(b), w(b) }
