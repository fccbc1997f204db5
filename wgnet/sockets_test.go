// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"slices"
	"testing"
)

func TestSockets(t *testing.T) {
	a, b := newPair(t)
	texts := func() (list []string) {
		for _, s := range a.Sockets() {
			list = append(list, s.String())
		}
		slices.Sort(list)
		return list
	}
	if got := texts(); len(got) != 0 {
		t.Errorf("a new Net has %q", got)
	}
	l, port := listen(t, a, "10.0.0.1:80")
	all, allPort := listen(t, a, ":0")
	pc, udpPort := listenPacket(t, a, ":0")
	udp, err := a.Dial("udp", "[fd00::2]:53")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WaitPeer(testContext(t), a.PublicKey()); err != nil {
		t.Fatal(err)
	}
	tcp, err := b.Dial("tcp", "10.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"tcp 10.0.0.1:80 to " + tcp.LocalAddr().String(),
		"tcp listener 10.0.0.1:80",
		"tcp listener :" + allPort,
		"udp " + udp.LocalAddr().String() + " to [fd00::2]:53",
		"udp :" + udpPort,
	}
	slices.Sort(want)
	if got := texts(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []interface{ Close() error }{accepted, tcp, udp, pc, all, l} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := texts(); len(got) != 0 {
		t.Errorf("with everything closed: %q", got)
	}
	listen(t, a, ":80")
	closeNet(t, a)
	if got := texts(); len(got) != 0 {
		t.Errorf("a closed Net has %q", got)
	}
}
