// SPDX-License-Identifier: MIT

package outer

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fault 70: what is lost in the socket, because it comes faster than it is read, is counted; also when another socket takes
// its place.
func TestOverflowed(t *testing.T) {
	const sent = 100
	s := openSystem(t, Config{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) }); e != nil {
			return e
		}
		return err
	}})
	p := openBind(t, s.Bind())
	// The datagram by which the kernel tells comes after the others were read.
	flood := func() (got int) {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(s.Port())})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range sent {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		before := s.Overflowed()
		for s.Overflowed() == before {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			n, err := p.receive(p.bufs, p.sizes, p.eps)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range p.sizes[:n] {
				if size == 1000 {
					got++
				}
			}
		}
		return got
	}
	got := flood()
	once := s.Overflowed()
	if got == 0 || once < uint64(sent-got) {
		t.Errorf("%d of %d received, %d lost", got, sent, once)
	}
	spare, err := s.Prepare(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := spare.Use(); err != nil {
		t.Fatal(err)
	}
	if n := s.Overflowed(); n != once {
		t.Errorf("%d lost after a change of port, %d before", n, once)
	}
	if got = flood(); s.Overflowed() < once+uint64(sent-got) {
		t.Errorf("%d of %d received on another port, %d lost, %d of them before", got, sent, s.Overflowed(), once)
	}
}
