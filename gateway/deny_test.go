// SPDX-License-Identifier: MIT

package gateway

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
)

// A gateway without rules lets nothing through, whatever it is and wherever to, the host and other peers included; nor does
// one whose rules are taken away.
func TestDefaultDeny(t *testing.T) {
	reached := make(chan struct{}, 1)
	l := listenTCP(t, "127.0.0.1:0", func(*net.TCPConn) { reached <- struct{}{} })
	zero, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	emptied := newGateway(t, Config{}, "allow\nallow to 127.0.0.0/8 special")
	if err := emptied.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*Gateway{"zero config": zero, "rules taken away": emptied} {
		for _, network := range []string{"tcp", "udp", "ping"} {
			for _, dst := range []string{
				l.Addr().String(), "[::1]:80", "0.0.0.0:80", "192.168.1.1:80", "8.8.8.8:53", "[2001:4860:4860::8888]:53", "169.254.169.254:80",
				"10.0.0.3:80", "[fe80::1]:80", "[::ffff:127.0.0.1]:80", "[64:ff9b::7f00:1]:80", "224.0.0.1:80", "255.255.255.255:80",
			} {
				for _, toPeer := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s %s, peer %v", name, network, dst, toPeer), func(t *testing.T) {
						f := newFlow(t, "laptop", network, dst)
						f.toPeer = toPeer
						ended := serve(g, f)
						if err := f.wait(t); !errors.Is(err, syscall.EACCES) {
							t.Errorf("%v, want it refused", err)
						}
						waitFor(t, "the flow's end", ended)
					})
				}
			}
		}
	}
	select {
	case <-reached:
		t.Error("the host was reached")
	default:
	}
}
