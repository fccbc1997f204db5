// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// tcpClient is a TCP client made by hand, at one end of a wire.
type tcpClient struct {
	*wire
	src, dst netip.Addr
	port     uint16
	seq, ack uint32
}

// begin sends a SYN.
func (c *tcpClient) begin() {
	c.wire.send(rawTCP(c.src, c.dst, header.TCPFields{
		SrcPort: c.port, DstPort: 80, Flags: header.TCPFlagSyn, SeqNum: c.seq, WindowSize: 60_000,
	}, nil))
	c.seq++
}

// send sends a segment, and data with it.
func (c *tcpClient) send(flags header.TCPFlags, data string) {
	c.wire.send(rawTCP(c.src, c.dst, header.TCPFields{
		SrcPort: c.port, DstPort: 80, Flags: flags, SeqNum: c.seq, AckNum: c.ack, WindowSize: 60_000,
	}, []byte(data)))
	c.seq += uint32(len(data))
	if flags.Contains(header.TCPFlagFin) {
		c.seq++
	}
}

// receive returns the next segment, and notes what it acknowledges.
func (c *tcpClient) receive(t *testing.T) header.TCP {
	t.Helper()
	_, dst, proto, p := dissect(c.next())
	h := header.TCP(p)
	if proto != header.TCPProtocolNumber || dst != c.src || h.DestinationPort() != c.port {
		t.Fatalf("a packet of protocol %d to %s, want a TCP segment", proto, dst)
	}
	c.ack = h.SequenceNumber() + uint32(len(h.Payload()))
	if h.Flags()&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
		c.ack++
	}
	return h
}

// expect receives a segment with the flags given.
func (c *tcpClient) expect(t *testing.T, flags header.TCPFlags) header.TCP {
	t.Helper()
	h := c.receive(t)
	if h.Flags() != flags {
		t.Fatalf("a segment with flags %s, want %s", h.Flags(), flags)
	}
	return h
}

const (
	flagSyn, flagAck = header.TCPFlagSyn, header.TCPFlagAck
	flagFin, flagRst = header.TCPFlagFin, header.TCPFlagRst
)

type accepted struct {
	c   net.Conn
	err error
}

// accepting is a handler that accepts, once the test has let it.
func accepting() (flows chan *netstack.Flow, results chan accepted, handler func(*netstack.Flow)) {
	flows, results = make(chan *netstack.Flow, 10), make(chan accepted, 10)
	return flows, results, func(f *netstack.Flow) {
		flows <- f
		c, err := f.Accept()
		results <- accepted{c, err}
	}
}

// A client that gives up is noticed at each stage: before the decision, in the handshake, and after it.
func TestClientGivesUp(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for _, family := range families {
		c := &tcpClient{wire: w, src: transitAddrs[family][1], dst: transitAddrs[family][3], port: 1000, seq: 77}
		c.begin()
		f := <-flows
		c.send(flagRst, "")
		<-f.Context().Done()
		if cause := context.Cause(f.Context()); !errors.Is(cause, syscall.ECONNRESET) {
			t.Errorf("before the decision: %v, want ECONNRESET", cause)
		}
		if _, err := f.Accept(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Accept: %v, want ECONNRESET", err)
		}

		c = &tcpClient{wire: w, src: c.src, dst: c.dst, port: 1001, seq: 77}
		c.begin()
		f = <-flows
		failed := make(chan error, 1)
		go func() { // ends with the reset
			_, err := f.Accept()
			failed <- err
		}()
		c.expect(t, flagSyn|flagAck)
		c.send(flagRst, "")
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("in the handshake: %v, want ECONNRESET", err)
		}
		<-f.Context().Done()
	}
	if stats, _ := s.FlowStats(); stats.Open+stats.Undecided != 0 {
		t.Errorf("%+v: flows are left", stats)
	}
	if n := s.TransitEndpoints(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

// A client begins anew with the port of a connection that we still remember: in TIME_WAIT, or that it has forgotten.
func TestTransitPortIsUsedAgain(t *testing.T) {
	flows, results, handler := accepting()
	_, w := newTransit(t, handler)
	for round := range 3 {
		c := &tcpClient{wire: w, src: addrB4, dst: addrLAN4, port: 1000, seq: uint32(1000 * (1 + round))}
		c.begin()
		h := c.receive(t)
		if round > 0 && h.Flags() == flagRst|flagAck && h.AckNumber() != c.seq {
			h = c.receive(t) // the old connection's end, which a client that has sent a SYN drops (RFC 9293, section 3.10.7.3)
		}
		if h.Flags() != flagSyn|flagAck || h.AckNumber() != c.seq {
			t.Fatalf("round %d: flags %s, ACK %d, want %d", round, h.Flags(), h.AckNumber(), c.seq)
		}
		<-flows
		c.send(flagAck, "")
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.c.Close()
		c.expect(t, flagFin|flagAck)
		if round == 0 {
			c.send(flagFin|flagAck, "")
			c.expect(t, flagAck) // and it is in TIME_WAIT
		}
		for len(w.out) > 0 {
			<-w.out
		}
	}
}

// A SYN that comes again begins nothing new, and the newest one is answered.
func TestTransitSYNRepeated(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	c := &tcpClient{wire: w, src: addrB6, dst: addrLAN6, port: 1000, seq: 5}
	c.begin()
	f := <-flows
	for range 3 {
		c.seq = 5
		c.begin()
	}
	c.seq = 99 // the client has given up and begun anew
	c.begin()
	if stats, _ := s.FlowStats(); stats.Undecided != 1 {
		t.Errorf("%+v, want one flow", stats)
	}
	results := make(chan accepted, 1)
	go func() { // ends with the handshake
		c, err := f.Accept()
		results <- accepted{c, err}
	}()
	if h := c.expect(t, flagSyn|flagAck); h.AckNumber() != 100 {
		t.Errorf("SYN %d is acknowledged, want 100", h.AckNumber())
	}
	c.send(flagAck, "hello")
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	b := make([]byte, 10)
	if n, err := r.c.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("Read: %q, %v", b[:n], err)
	}
	r.c.Close()
}

// fault 67: an accepted connection heeds what the path says of its MTU.
func TestTransitPathMTU(t *testing.T) {
	_, results, handler := accepting()
	_, w := newTransit(t, handler)
	for _, family := range families {
		c := &tcpClient{wire: w, src: transitAddrs[family][1], dst: transitAddrs[family][3], port: 1000, seq: 5}
		c.wire.send(synWithMSS(c.src, c.dst, c.port, c.seq, 1360))
		c.seq++
		c.expect(t, flagSyn|flagAck)
		c.send(flagAck, "")
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		const mtu = 1300
		data := bytes.Repeat([]byte("0123456789"), 136)
		if _, err := r.c.Write(data); err != nil {
			t.Fatal(err)
		}
		full := c.next()
		if len(full) <= mtu {
			t.Fatalf("a packet of %d bytes, want more than %d", len(full), mtu)
		}
		if family == "IPv4" {
			w.send(rawICMP(c.src, c.dst, 3, 4, [4]byte{2: mtu >> 8, 3: mtu & 0xff}, full[:28]))
		} else {
			w.send(rawICMP(c.src, c.dst, 2, 0, [4]byte{2: mtu >> 8, 3: mtu & 0xff}, full[:1232]))
		}
		var got []byte
		for len(got) < len(data) {
			p := c.next()
			if len(p) > mtu {
				t.Fatalf("a packet of %d bytes for a path of %d", len(p), mtu)
			}
			_, _, _, segment := dissect(p)
			got = append(got, header.TCP(segment).Payload()...)
		}
		if !bytes.Equal(got, data) {
			t.Error("the data has changed")
		}
		_ = r.c.(*netstack.TCPConn).SetLinger(0)
		r.c.Close()
		c.expect(t, flagRst|flagAck)
	}
}

// synWithMSS makes a SYN that says which segments its sender takes.
func synWithMSS(src, dst netip.Addr, port uint16, seq uint32, mss uint16) []byte {
	p := rawTCP(src, dst, header.TCPFields{SrcPort: port, DstPort: 80, SeqNum: seq, Flags: flagSyn, WindowSize: 60_000},
		[]byte{header.TCPOptionMSS, header.TCPOptionMSSLength, byte(mss >> 8), byte(mss)})
	ipLen := len(p) - header.TCPMinimumSize - header.TCPOptionMSSLength
	h := header.TCP(p[ipLen:])
	h[header.TCPDataOffset] = byte(len(h)/4) << 4
	h.SetChecksum(0)
	h.SetChecksum(^checksum.Checksum(h, header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpipAddr(src), tcpipAddr(dst), uint16(len(h)))))
	return p
}

// An address of a flow's becomes the stack's own: the flow ends, and what follows is the stack's.
func TestTransitAddressBecomesOwn(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	w.send(rawUDP(addrB4, addrLAN4, 9, 53, nil))
	f := <-flows
	if err := s.SetAddresses(append(testTransitAddresses, netip.PrefixFrom(addrLAN4, 32))); err != nil {
		t.Fatal(err)
	}
	<-f.Context().Done()
	w.send(echoRequest(addrB4, addrLAN4, 1, 1, "ping"))
	if src, kind, _, _, _ := asMessage(t, w.next()); src != addrLAN4 || kind != 0 {
		t.Errorf("ICMP %d from %s, want an echo reply from our new address", kind, src)
	}
}
