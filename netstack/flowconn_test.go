// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/netstack"
)

// What comes before the decision waits for it, within bounds.
func TestHeldPackets(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for i := range 3 * netstack.HeldPackets {
		w.send(rawUDP(addrB4, addrLAN4, 99, 53, []byte{byte(i)}))
	}
	c, err := (<-flows).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.send(rawUDP(addrB4, addrLAN4, 99, 53, []byte("later")))
	b := make([]byte, 100)
	for i := range netstack.HeldPackets {
		if n, err := c.Read(b); err != nil || n != 1 || b[0] != byte(i) {
			t.Errorf("message %d: %x, %v", i, b[:n], err)
		}
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "later" {
		t.Errorf("%q, %v, want the one that came later", b[:n], err)
	}
	if _, _, _, buffered := s.FlowTable(); buffered != 0 {
		t.Errorf("%d bytes are still accounted for", buffered)
	}
	if got := s.Drops().Unread; got != 2*netstack.HeldPackets {
		t.Errorf("%d packets are counted as dropped, want %d", got, 2*netstack.HeldPackets)
	}
}

// A program that does not read costs a bounded amount of memory.
func TestUnreadFlow(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	big := rawUDP(addrB4, addrLAN4, 99, 53, make([]byte, 60_000))
	w.send(big)
	c, err := (<-flows).Accept()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		w.send(big)
	}
	if _, _, _, buffered := s.FlowTable(); buffered > netstack.MaxFlowBuffered || buffered < netstack.MaxFlowBuffered/2 {
		t.Errorf("%d bytes wait, want at most %d", buffered, netstack.MaxFlowBuffered)
	}
	if got := s.Drops().Unread; got < 80 || got > 90 { // 17 fit
		t.Errorf("%d datagrams are counted as dropped", got)
	}
	c.Close()
	if _, _, _, buffered := s.FlowTable(); buffered != 0 {
		t.Errorf("%d bytes wait after Close", buffered)
	}
}

// faults 27 to 29, for the conns of datagram flows.
func TestFlowConn(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for _, network := range []string{"udp", "ping"} {
		packet := rawUDP(addrB4, addrLAN4, 99, 53, []byte("xyz"))
		if network == "ping" {
			packet = echoRequest(addrB4, addrLAN4, 99, 0x7879, "z")
		}
		w.send(packet)
		f := <-flows
		c, err := f.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := c.LocalAddr().Network(), map[string]string{"udp": "udp", "ping": "ip"}[network]; got != want {
			t.Errorf("the network of the address is %q, want %q", got, want)
		}
		b := make([]byte, 10)
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("empty Read: %d, %v", n, err)
		}
		if n, err := c.Read(b); string(b[:n]) != "xyz" || err != nil {
			t.Errorf("Read: %q, %v", b[:n], err)
		}
		if _, err := c.Write([]byte("abc")); err != nil {
			t.Error(err)
		}
		src, dst, _, p := dissect(w.next())
		if src != addrLAN4 || dst != addrB4 || !bytes.HasSuffix(p, []byte("abc")) {
			t.Errorf("from %s to %s: %x", src, dst, p)
		}
		if _, err := c.Write(make([]byte, 65_535)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("too large a Write: %v", err)
		}
		if network == "ping" {
			if _, err := c.Write([]byte{1}); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("Write without a sequence number: %v", err)
			}
		}
		if err := c.SetDeadline(time.Now().Add(-time.Second)); err != nil {
			t.Error(err)
		}
		var ne net.Error
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Read past the deadline: %v", err)
		}
		if _, err := c.Write([]byte("abc")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write past the deadline: %v", err)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		for _, end := range []func() error{c.Close, s.Close} {
			if network == "udp" { // the stack ends with the last one only
				end = c.Close
			}
			reading := make(chan error, 1)
			go func() { // ends with the conn
				_, err := c.Read(b)
				reading <- err
			}()
			if err := end(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if err := <-reading; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read after the end: %v", err)
			}
		}
		for what, err := range map[string]error{
			"Close": c.Close(), "SetDeadline": c.SetDeadline(time.Time{}), "Write": second(c.Write([]byte("abc"))),
		} {
			if oe := new(net.OpError); !errors.Is(err, net.ErrClosed) || !errors.As(err, &oe) {
				t.Errorf("%s after Close: %v", what, err)
			}
		}
		<-f.Context().Done()
	}
}

func second(_ int, err error) error { return err }

// An ICMP error of the peer's reaches the conn that it is about.
func TestFlowConnLearnsOfErrors(t *testing.T) {
	flows, handler := flowsOf()
	_, w := newTransit(t, handler)
	for _, family := range families {
		client, lan := transitAddrs[family][1], transitAddrs[family][3]
		w.send(rawUDP(client, lan, 99, 53, []byte("x")))
		c, err := (<-flows).Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		answer := w.next()
		if family == "IPv4" {
			w.send(rawICMP(client, lan, 3, 3, [4]byte{}, answer))
		} else {
			w.send(rawICMP(client, lan, 1, 4, [4]byte{}, answer))
		}
		if _, err := c.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Read: %v, want ECONNREFUSED", err)
		}
		w.send(rawUDP(client, lan, 99, 53, []byte("again")))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "again" {
			t.Errorf("Read after the error: %q, %v", b[:n], err)
		}
		c.Close()
	}
}
