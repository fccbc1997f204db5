// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"example.com/wgnet/wgnet"
)

// fault 70: of what waits for a dead peer the newest 16 packets stay, and status says how many did not.
func TestStatusDropped(t *testing.T) {
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "laptop", wgnet.NewPrivateKey().Public(), deaf(t), "10.0.0.2/32")
	n := newNet(t, cfg)
	if s := n.Status(); s.Dropped != (wgnet.DropStats{}) || strings.Contains(s.String(), "dropped") {
		t.Errorf("at first %+v, and\n%s", s.Dropped, s)
	}
	c, err := n.Dial("udp", "10.0.0.2:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 16 + 100 {
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "100 packets to be counted", func() bool { return n.Status().Dropped == wgnet.DropStats{Unsent: 100} })
	if s := n.Status().String(); !strings.Contains(s, "\n  dropped: 100 unsent\n") {
		t.Errorf("not in\n%s", s)
	}
}

func TestDropStats(t *testing.T) {
	s := wgnet.DropStats{Refused: 1, Incomplete: 2, Unsent: 3, Unaccepted: 4, Unread: 5, Overflowed: 6}
	const want = "1 refused, 2 incomplete, 3 unsent, 4 unaccepted, 5 unread, 6 overflowed"
	if got := s.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (wgnet.DropStats{}).String(); got != "none" {
		t.Errorf("%q for nothing", got)
	}
	text, err := json.Marshal(wgnet.Status{Dropped: s})
	const wantJSON = `"dropped":{"refused":1,"incomplete":2,"unsent":3,"unaccepted":4,"unread":5,"overflowed":6}`
	if err != nil || !strings.Contains(string(text), wantJSON) {
		t.Errorf("%s, %v, want %s in it", text, err, wantJSON)
	}
}
