// SPDX-License-Identifier: MIT

package netstack_test

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

// fault 65: a flood of SYNs costs a bounded amount of memory and goroutines, whatever the handler does, and leaves nothing.
// fault 66: another peer does not notice.
func TestSYNFlood(t *testing.T) {
	for _, accepts := range []bool{false, true} {
		checkGoroutines(t)
		honest := make(chan *netstack.Flow, 1)
		s, w := newTransit(t, func(f *netstack.Flow) {
			switch {
			case f.Peer() == peerC:
				honest <- f
				f.Refuse(syscall.ECONNREFUSED)
			case accepts:
				if c, err := f.Accept(); err == nil {
					c.Close()
					t.Error("a connection that nobody completes is accepted")
				}
			default:
				<-f.Context().Done() // as a dial to a black hole
			}
		})
		s.SetFlowLimits(1000, 500, 200, 100, 8)
		before := runtime.NumGoroutine()
		syn := flowSYN
		for i := range 20_000 {
			syn.SrcPort, syn.DstPort = uint16(1+i%60_000), uint16(1+i/60_000)
			w.send(rawTCP(addrB4, addrLAN4, syn, nil))
			for len(w.out) > 0 {
				<-w.out // SYN-ACKs
			}
		}
		stats, _ := s.FlowStats()
		if stats.Undecided != 100 || stats.Capped != 20_000-100 {
			t.Errorf("%+v, want 100 undecided ones", stats)
		}
		if n := runtime.NumGoroutine(); n > before+3*100 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
		w.send(rawTCP(addrC4, addrLAN4, flowSYN, nil))
		<-honest
		s.ExpireFlows(netstack.UndecidedTimeout)
		if !eventually(func() bool { keys, _, undecided, buffered := s.FlowTable(); return keys+undecided+int(buffered) == 0 }) {
			t.Error("flows are left when they have timed out")
		}
		if !eventually(func() bool { return s.TransitEndpoints() == 0 }) {
			t.Errorf("%d endpoints are left", s.TransitEndpoints())
		}
		s.Close()
	}
}

// fault 67: more UDP flows than there may be: the one that was idle for longest goes.
func TestUDPFlowsAreBounded(t *testing.T) {
	conns := make(chan net.Conn, 1<<12)
	s, w := newTransit(t, func(f *netstack.Flow) {
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		conns <- c
		<-f.Context().Done()
	})
	const most, sent = 50, 1000
	s.SetFlowLimits(1000, most, 5000, 5000, 8)
	all := make([]net.Conn, 0, sent)
	for i := range sent {
		w.send(rawUDP(addrB4, addrLAN4, uint16(1000+i), 53, []byte("x")))
		all = append(all, <-conns) // none of them is evicted undecided
	}
	stats, peers := s.FlowStats()
	if stats.Open != most || stats.Evicted != sent-most || peers[peerB] != stats {
		t.Errorf("%+v, of the peer %+v, want %d open and %d evicted", stats, peers[peerB], most, sent-most)
	}
	b := make([]byte, 10)
	for i, c := range all {
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		n, err := c.Read(b)
		if evicted := i < sent-most; evicted && !errors.Is(err, syscall.ECONNABORTED) || !evicted && (err != nil || n != 1) {
			t.Errorf("flow %d: %d bytes, %v", i, n, err)
		}
	}
	if keys, idle, _, _ := s.FlowTable(); keys != most || idle != most {
		t.Errorf("%d flows in the table, %d in the list, want %d", keys, idle, most)
	}
	s.Close()
	if !eventually(func() bool {
		keys, idle, undecided, buffered := s.FlowTable()
		return keys+idle+undecided+int(buffered) == 0
	}) {
		t.Error("flows are left after Close")
	}
}

// What is in use is not what was idle for longest.
func TestFlowInUseIsNotEvicted(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	s.SetFlowLimits(100, 3, 100, 100, 8)
	var all []*netstack.Flow
	begin := func(port uint16) {
		t.Helper()
		w.send(rawUDP(addrB4, addrC4, port, 53, nil))
		f := <-flows
		if err := f.Forward(); err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	for port := range uint16(3) {
		begin(1 + port)
	}
	for range 4 { // in steps that are shorter than what is noticed at once
		s.AgeFlows(600 * time.Millisecond)
		w.send(rawUDP(addrB4, addrC4, 1, 53, nil), rawUDP(addrC4, addrB4, 53, 2, nil))
	}
	begin(4)
	for i, f := range all {
		if evicted := f.Context().Err() != nil; evicted != (i == 2) {
			t.Errorf("flow %d is evicted: %v", i, evicted)
		}
	}
}

// fault 24, for flows: nothing of a peer that has gone is kept but its counters' sum.
func TestGonePeersLeaveNothing(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	for i := range 50 {
		s.SetRoutes(append(routes(netstack.PeerID(10+i), "10.0.0.2/32"), routes(peerC, "10.0.0.3/32")...))
		w.send(rawUDP(addrB4, addrLAN4, 9, 53, nil), rawUDP(addrB4, addrC4, 9, 53, nil))
		for range 2 {
			if err := (<-flows).Forward(); err != nil && !errors.Is(err, syscall.ENETUNREACH) {
				t.Fatal(err)
			}
		}
	}
	s.SetRoutes(nil)
	stats, peers := s.FlowStats()
	if stats.Forwarded != 50 || stats.Open+stats.Undecided != 0 || len(peers) != 0 {
		t.Errorf("%+v, of peers %+v", stats, peers)
	}
	if keys, idle, _, buffered := s.FlowTable(); keys+idle+int(buffered) != 0 {
		t.Errorf("%d keys, %d in the list, %d bytes", keys, idle, buffered)
	}
}

// A peer that has taken up all flows pays with its own for another peer's.
func TestFlowsAreShared(t *testing.T) {
	s, w := newTransit(t, func(f *netstack.Flow) {
		if err := f.Forward(); err != nil {
			t.Error(err)
		}
	})
	s.SetFlowLimits(10, 10, 100, 100, 2)
	forwarded := func(n uint64) {
		t.Helper()
		if !eventually(func() bool { stats, _ := s.FlowStats(); return stats.Forwarded == n }) {
			t.Fatal("flows are not forwarded")
		}
	}
	w.send(rawUDP(addrC4, addrB4, 1, 53, nil)) // the oldest of all
	forwarded(1)
	for i := range 20 {
		w.send(rawUDP(addrB4, addrC4, uint16(1000+i), 53, nil))
		forwarded(uint64(2 + i))
	}
	_, peers := s.FlowStats()
	if peers[peerC].Open != 1 || peers[peerC].Evicted != 0 || peers[peerB].Open != 9 {
		t.Errorf("%+v: the flow of the second peer, or of the first one, has gone", peers)
	}
}

// The peer that has most flows pays, in use as they are, and not one that has few and lets them rest.
func TestPeerWithMostFlowsPays(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	s.SetFlowLimits(10, 10, 100, 100, 2)
	begin := func(src, dst netip.Addr, port uint16) *netstack.Flow {
		t.Helper()
		w.send(rawUDP(src, dst, port, 53, nil))
		select {
		case f := <-flows:
			return f
		case <-time.After(10 * time.Second):
			t.Fatal("the flow is not begun")
			return nil
		}
	}
	forward := func(f *netstack.Flow) {
		t.Helper()
		if err := f.Forward(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, b, c int, evictedB, evictedC uint64) {
		t.Helper()
		_, peers := s.FlowStats()
		if b != peers[peerB].Open || c != peers[peerC].Open || evictedB != peers[peerB].Evicted || evictedC != peers[peerC].Evicted {
			t.Errorf("%s: %+v, want %d and %d open flows, of which %d and %d were evicted", what, peers, b, c, evictedB, evictedC)
		}
	}
	forward(begin(addrC4, addrB4, 1)) // the oldest of all
	for i := range uint16(9) {
		forward(begin(addrB4, addrC4, 1000+i))
	}
	s.AgeFlows(time.Minute)
	for i := range uint16(9) {
		w.send(rawUDP(addrB4, addrC4, 1000+i, 53, nil))
	}
	for i := range uint16(4) {
		forward(begin(addrC4, addrB4, 2+i))
		want("one with fewer begins", 8-int(i), 2+int(i), 1+uint64(i), 0)
	}
	forward(begin(addrC4, addrB4, 6))
	want("one with as many begins", 5, 5, 4, 1)

	// What cannot be evicted counts all the same.
	if err := s.HandleFlows(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.HandleFlows(handler); err != nil {
		t.Fatal(err)
	}
	for i := range uint16(3) {
		forward(begin(addrC4, addrB4, 20+i))
	}
	for i := range uint16(7) {
		begin(addrB4, addrC4, 2000+i)
	}
	w.send(rawUDP(addrB4, addrC4, 3000, 53, nil))
	want("one with undecided ones begins", 0, 3, 4, 1)
	if stats, _ := s.FlowStats(); stats.Capped != 1 {
		t.Errorf("%+v, want a packet that begins no flow", stats)
	}
}

// fault 18, for flows: Close, an end of the handler and another's beginning come at any moment under a flood of every kind.
func TestCloseUnderFloodOfFlows(t *testing.T) {
	checkGoroutines(t)
	for round := range 30 {
		decide := func(f *netstack.Flow) {
			switch f.Source().Port() % 4 {
			case 0:
				f.Refuse(syscall.EHOSTUNREACH)
			case 1:
				_ = f.Forward() // which has nobody to forward to, or may come too late
			default:
				if c, err := f.Accept(); err == nil {
					_, _ = c.Read(make([]byte, 10))
					_, _ = c.Write([]byte("abc"))
					c.Close()
				}
			}
		}
		s, err := netstack.New(netstack.Config{Addresses: testTransitAddresses})
		if err != nil {
			t.Fatal(err)
		}
		s.SetRoutes(append(routes(peerB, "10.0.0.2/32"), routes(peerC, "10.0.0.3/32")...))
		if err := s.HandleFlows(decide); err != nil {
			t.Fatal(err)
		}
		d := s.Device()
		halfway, ended := make(chan struct{}), make(chan struct{}, 2)
		go func() { // ends with the stack
			bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
			for {
				if _, err := d.Read(bufs, sizes, 0); err != nil {
					ended <- struct{}{}
					return
				}
			}
		}()
		go func() { // ends with the stack
			for i := 0; ; i++ {
				if i == 10*round {
					close(halfway)
				}
				port, dst := uint16(1+i%1000), []netip.Addr{addrLAN4, addrC4}[i/3%2]
				syn := flowSYN
				syn.SrcPort = port
				packets := [][]byte{rawTCP(addrB4, dst, syn, nil), rawUDP(addrB4, dst, port, 53, []byte("x")), echoRequest(addrB4, dst, port, 1, "x")}
				if _, err := d.Write([][]byte{packets[i%3]}, 0); err != nil {
					ended <- struct{}{}
					return
				}
			}
		}()
		<-halfway
		if round%2 == 0 {
			for _, handler := range []func(*netstack.Flow){nil, decide, nil} {
				if err := s.HandleFlows(handler); err != nil {
					t.Error(err)
				}
			}
		}
		if round%3 == 0 {
			s.SetRoutes(routes(peerC, "10.0.0.2/32"))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		<-ended
		if keys, idle, _, buffered := s.FlowTable(); keys+idle+int(buffered) != 0 {
			t.Errorf("%d keys, %d in the list, %d bytes are left", keys, idle, buffered)
		}
	}
}

// What waits in all flows of a peer is bounded too, before the decision and after it, and what does not fit is counted.
func TestPeerBufferIsBounded(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	const most, sent, size = 100_000, 100, 10_000
	s.SetPeerBuffered(most)
	for i := range uint16(sent) {
		w.send(rawUDP(addrB4, addrLAN4, 1000+i, 53, make([]byte, size)))
		c := must[net.Conn](t)((<-flows).Accept())
		defer c.Close()
		w.send(rawUDP(addrB4, addrLAN4, 1000+i, 53, make([]byte, size)))
	}
	_, _, _, buffered := s.FlowTable()
	if buffered > most || buffered < most-2*size {
		t.Errorf("%d bytes wait, want about %d", buffered, most)
	}
	if got := s.Drops().Unread; got < 2*sent-most/size-5 {
		t.Errorf("%d of %d are counted as dropped", got, 2*sent)
	}
	w.send(rawUDP(addrC4, addrLAN4, 1, 53, []byte("x")))
	c := must[net.Conn](t)((<-flows).Accept()) // another peer has its own
	defer c.Close()
	if n, err := c.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("another peer's datagram: %d, %v", n, err)
	}
}

// What undecided flows hold is bounded for each peer, their first packets included. A flow without its packet is decided as
// any other is, and a SYN always has room, if it is none that is huge.
func TestHeldPacketsOfAPeerAreBounded(t *testing.T) {
	flows, handler := flowsOf()
	s, w := newTransit(t, handler)
	const most, sent, size = 100_000, 100, 10_000
	s.SetPeerBuffered(most)
	all := make([]*netstack.Flow, 0, sent)
	for i := range uint16(sent) {
		packet := rawUDP(addrB4, addrC4, 1000+i, 53, make([]byte, size))
		if i%2 == 0 {
			packet = echoRequest(addrB4, addrC4, 1000+i, 1, string(make([]byte, size)))
		}
		w.send(packet)
		all = append(all, <-flows)
	}
	const fit = most / (size + 28)
	if _, _, _, buffered := s.FlowTable(); buffered != fit*(size+28) {
		t.Errorf("%d bytes are held, want %d packets of %d", buffered, fit, size+28)
	}
	if got := s.Drops().Unread; got != sent-fit {
		t.Errorf("%d packets are counted as dropped, want %d", got, sent-fit)
	}
	accepted, forwarded, refused := all[sent-1], all[sent-2], all[sent-3]
	c := must[net.Conn](t)(accepted.Accept())
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := forwarded.Forward(); err != nil {
		t.Error(err)
	}
	refused.Refuse(syscall.ECONNREFUSED)
	if refused.Context().Err() == nil {
		t.Error("a flow that holds nothing is not refused")
	}
	w.quiet(t) // nothing to answer, nor to forward

	huge := flowSYN
	huge.SrcPort++
	w.send(rawTCP(addrB4, addrLAN4, huge, make([]byte, 2000)), rawTCP(addrB4, addrLAN4, flowSYN, []byte("early")))
	f := <-flows
	if f.Source().Port() != flowSYN.SrcPort {
		t.Error("a huge SYN begins a flow")
	}
	f.Refuse(syscall.ECONNREFUSED)
	if _, _, proto, _ := dissect(w.next()); proto != header.TCPProtocolNumber {
		t.Errorf("a packet of protocol %d, want a reset for the SYN", proto)
	}
	w.quiet(t)
	for _, f := range all {
		f.Drop()
	}
	if _, _, _, buffered := s.FlowTable(); buffered != 0 {
		t.Errorf("%d bytes are held by flows that have ended", buffered)
	}
}
