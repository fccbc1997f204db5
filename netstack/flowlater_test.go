// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// Drop during Accept ends that call, though the client never completes its handshake.
func TestDropDuringAccept(t *testing.T) {
	flows, results, handler := accepting()
	s, w := newTransit(t, handler)
	for _, family := range families {
		c := &tcpClient{wire: w, src: transitAddrs[family][1], dst: transitAddrs[family][3], port: 1000, seq: 77}
		c.begin()
		f := <-flows
		c.expect(t, flagSyn|flagAck)
		f.Drop()
		if r := <-results; r.err == nil || !errors.Is(r.err, context.Cause(f.Context())) {
			t.Errorf("Accept: %v, want the cause, %v", r.err, context.Cause(f.Context()))
		}
		f.Drop()
		c.send(flagAck, "") // who takes the connection for one is told
		c.expect(t, flagRst)
	}
	if stats, _ := s.FlowStats(); stats.Dropped != 2 || stats.Open+stats.Undecided != 0 {
		t.Errorf("%+v, want two dropped flows", stats)
	}
	if n := s.TransitEndpoints(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

// Drop after Forward ends the flow: what still comes of it begins another one, or is a stray segment.
func TestDropAfterForward(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for _, family := range families {
		client, other := transitAddrs[family][1], transitAddrs[family][2]
		for _, packet := range [][]byte{
			rawTCP(client, other, flowSYN, nil), rawUDP(client, other, 9, 53, []byte("x")), echoRequest(client, other, 1, 1, "x"),
		} {
			w.send(packet)
			f := <-flows
			if err := f.Forward(); err != nil {
				t.Fatal(err)
			}
			if src, dst, _, _ := dissect(w.next()); src != client || dst != other {
				t.Fatalf("a packet from %s to %s, want the forwarded one", src, dst)
			}
			f.Drop()
			<-f.Context().Done()
			if f.Network() == "tcp" {
				w.send(rawTCP(client, other, header.TCPFields{SrcPort: 99, DstPort: 80, Flags: flagAck, SeqNum: 6, AckNum: 77}, nil))
				if src, dst, _, p := dissect(w.next()); src != other || dst != client || header.TCP(p).Flags() != flagRst {
					t.Errorf("from %s to %s: %x, want a reset", src, dst, p)
				}
				continue
			}
			w.send(packet)
			(<-flows).Drop()
		}
	}
	w.quiet(t)
	if stats, _ := s.FlowStats(); stats.Forwarded != 6 || stats.Open+stats.Undecided != 0 {
		t.Errorf("%+v, want six forwarded flows, and none open", stats)
	}
}

// After Accept has returned, Drop means nothing.
func TestDropAfterAccept(t *testing.T) {
	flows, handler := flowsOf()
	_, w := newTransit(t, handler)
	w.send(rawUDP(addrB4, addrLAN4, 99, 53, []byte("one")))
	f := <-flows
	c, err := f.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.Drop()
	b := make([]byte, 10)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "one" {
		t.Errorf("Read: %q, %v", b[:n], err)
	}
}

// fault 68: a datagram that was accepted, and then refused by whom the program has asked.
func TestRefuseAfterAccept(t *testing.T) {
	tests := []struct {
		name                       string
		reason                     error
		kind4, code4, kind6, code6 uint8
	}{
		{"refused", syscall.ECONNREFUSED, 3, 3, 1, 4},
		{"no host", syscall.EHOSTUNREACH, 3, 1, 1, 3},
		{"forbidden", syscall.EACCES, 3, 13, 1, 1},
	}
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for _, family := range families {
		client, lan := transitAddrs[family][1], transitAddrs[family][3]
		headers := 28
		if family == "IPv6" {
			headers = 48
		}
		for _, network := range []string{"udp", "ping"} {
			packet := func(data string) []byte {
				if network == "ping" {
					return echoRequest(client, lan, 1, 1, data)
				}
				return rawUDP(client, lan, 99, 53, []byte(data))
			}
			w.send(packet("the first one"))
			f := <-flows
			c, err := f.Accept()
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range tests {
				kind, code := test.kind4, test.code4
				if family == "IPv6" {
					kind, code = test.kind6, test.code6
				}
				if network == "ping" && test.reason == syscall.ECONNREFUSED {
					code-- // what would be refused is unreachable: 1 and 3, for 3 and 4
					if family == "IPv4" {
						code--
					}
				}
				last := packet(test.name)
				w.send(last)
				f.Refuse(test.reason)
				_, gotKind, gotCode, _, inner := asMessage(t, w.next())
				if gotKind != kind || gotCode != code || len(inner) < headers || !bytes.HasPrefix(last, inner) {
					t.Errorf("%s over %s, %s: ICMP %d, %d about %x, want %d, %d about %x",
						network, family, test.name, gotKind, gotCode, inner, kind, code, last)
				}
			}
			b := make([]byte, 100)
			if n, err := c.Read(b); err != nil || !bytes.HasSuffix(b[:n], []byte("the first one")) { // it goes on
				t.Errorf("Read: %q, %v", b[:n], err)
			}
			c.Close()
			f.Refuse(syscall.ECONNREFUSED)
		}
	}
	w.quiet(t)
	if stats, _ := s.FlowStats(); stats.Accepted != 4 || stats.Refused != 0 || stats.Open != 0 {
		t.Errorf("%+v, want four accepted flows", stats)
	}
}

// fault 36: a client begins anew with the port of a connection in TIME_WAIT that the program has not closed yet.
func TestTransitTimeWaitIsOver(t *testing.T) {
	flows, results, handler := accepting()
	_, w := newTransit(t, handler)
	c := &tcpClient{wire: w, src: addrB4, dst: addrLAN4, port: 1000, seq: 5000}
	begin := func() (*netstack.Flow, net.Conn) {
		c.begin()
		var f *netstack.Flow
		again := time.NewTicker(100 * time.Millisecond) // as clients do: the old connection may be a moment from TIME_WAIT
		defer again.Stop()
		for f == nil {
			select {
			case f = <-flows:
			case <-again.C:
				c.seq--
				c.begin()
			}
		}
		h := c.receive(t)
		if h.Flags() == flagRst|flagAck && h.AckNumber() != c.seq {
			h = c.receive(t) // the old connection's end, which a client that has sent a SYN drops (RFC 9293, section 3.10.7.3)
		}
		if h.Flags() != flagSyn|flagAck || h.AckNumber() != c.seq {
			t.Fatalf("flags %s, ACK %d, want a SYN taken at %d", h.Flags(), h.AckNumber(), c.seq)
		}
		c.send(flagAck, "")
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		return f, r.c
	}
	f, old := begin()
	if err := old.(*netstack.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.expect(t, flagFin|flagAck)
	c.send(flagFin|flagAck, "")
	c.expect(t, flagAck)
	c.seq = 1000 // older than what was: gVisor alone would be silent
	again, conn := begin()
	<-f.Context().Done()
	old.Close()
	c.send(flagAck, "hello")
	b := make([]byte, 10)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "hello" || again == f {
		t.Errorf("Read: %q, %v", b[:n], err)
	}
	conn.Close()
}

// The end of a connection in TIME_WAIT waits for gVisor, and nobody else waits for that.
func TestTransitTimeWaitHoldsNobodyUp(t *testing.T) {
	flows, results, handler := accepting()
	s, w := newTransit(t, handler)
	c := &tcpClient{wire: w, src: addrB4, dst: addrLAN4, port: 1000, seq: 5000}
	c.begin()
	<-flows
	c.expect(t, flagSyn|flagAck)
	c.send(flagAck, "")
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	conn := r.c.(*netstack.TCPConn)
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.expect(t, flagFin|flagAck)
	c.send(flagFin|flagAck, "")
	c.expect(t, flagAck)
	var unlock func()
	if !eventually(func() (ok bool) { unlock, ok = conn.LockEndpoint(); return ok }) {
		t.Fatal("the connection is not in TIME_WAIT")
	}
	unlock = sync.OnceFunc(unlock)
	defer unlock()
	sent := make(chan struct{})
	go func() { // ends when the endpoint is unlocked; it is waited for
		defer close(sent)
		c.begin()
	}()
	if !eventually(func() bool {
		stacks := make([]byte, 1<<20)
		return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("netstack.abortTimeWait("))
	}) {
		t.Error("the SYN does not end the old connection")
	}
	told := make(chan struct{})
	go func() { // ends with the lock, or the endpoint's
		defer close(told)
		s.FlowStats()
	}()
	select {
	case <-told:
	case <-time.After(5 * time.Second):
		t.Error("transit waits for gVisor's endpoint")
	}
	unlock()
	<-sent
	<-told
	<-flows // the SYN has begun another
}
