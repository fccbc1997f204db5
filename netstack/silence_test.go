// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The watch by itself needs no gVisor stack, which would hang a synctest bubble.

var (
	peer1 = netip.MustParseAddr("10.0.1.1")
	peer2 = netip.MustParseAddr("fd00:2::1")
)

type report struct {
	peer PeerID
	at   time.Duration
}

// watched is a silence watch with two peers that notes its reports.
type watched struct {
	*silenceWatch
	start   time.Time
	mu      sync.Mutex // guards reports
	reports []report
}

var twoPeers = []Route{{netip.MustParsePrefix("10.0.1.0/24"), 1}, {netip.MustParsePrefix("fd00:2::/64"), 2}}

func newWatched() *watched {
	w := &watched{start: time.Now()}
	routes := new(atomic.Pointer[routeTable])
	routes.Store(newRouteTable(twoPeers))
	w.silenceWatch = newSilenceWatch(routes, func(p PeerID) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reports = append(w.reports, report{p, time.Since(w.start)})
	})
	return w
}

func (w *watched) want(t *testing.T, want ...report) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.reports, want) {
		t.Errorf("reports %v, want %v", w.reports, want)
	}
	w.reports = nil
}

// send tells the watch of a packet; build makes its transport header and payload.
func (w *watched) send(dst netip.Addr, build func(*stack.PacketBuffer)) *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: header.IPv6MinimumSize + header.TCPMinimumSize, Payload: buffer.Buffer{},
	})
	build(pkt)
	if dst.Is4() {
		h := header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize))
		h.Encode(&header.IPv4Fields{DstAddr: tcpip.AddrFromSlice(dst.AsSlice())})
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	} else {
		h := header.IPv6(pkt.NetworkHeader().Push(header.IPv6MinimumSize))
		h.Encode(&header.IPv6Fields{DstAddr: tcpip.AddrFromSlice(dst.AsSlice())})
		pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	}
	w.sent(pkt)
	return pkt
}

func segment(flags header.TCPFlags, size int) func(*stack.PacketBuffer) {
	return func(pkt *stack.PacketBuffer) {
		pkt.Data().AppendView(buffer.NewViewSize(size))
		h := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
		h.Encode(&header.TCPFields{DataOffset: header.TCPMinimumSize, Flags: flags})
		pkt.TransportProtocolNumber = header.TCPProtocolNumber
	}
}

func icmpMessage(proto tcpip.TransportProtocolNumber, kind byte) func(*stack.PacketBuffer) {
	return func(pkt *stack.PacketBuffer) {
		pkt.TransportHeader().Push(8)[0] = kind
		pkt.TransportProtocolNumber = proto
	}
}

func datagram(pkt *stack.PacketBuffer) {
	pkt.TransportHeader().Push(header.UDPMinimumSize)
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
}

var (
	syn  = segment(header.TCPFlagSyn, 0)
	data = segment(header.TCPFlagAck, 10)
)

const ms = time.Millisecond

// fault 25: what demands an answer, and what does not.
func TestSilenceDemands(t *testing.T) {
	tests := []struct {
		name  string
		build func(*stack.PacketBuffer)
		want  bool // it is reported after 500 ms
		held  int
	}{
		{"SYN", syn, true, 1},
		{"SYN-ACK", segment(header.TCPFlagSyn|header.TCPFlagAck, 0), true, 1},
		{"data", data, true, 0},
		{"FIN", segment(header.TCPFlagFin|header.TCPFlagAck, 0), true, 0},
		{"ACK", segment(header.TCPFlagAck, 0), false, 0},
		{"RST", segment(header.TCPFlagRst, 0), false, 0},
		{"one-way UDP", datagram, false, 0},
		{"echo request", icmpMessage(header.ICMPv4ProtocolNumber, 8), true, 1},
		{"echo reply", icmpMessage(header.ICMPv4ProtocolNumber, 0), false, 0},
		{"unreachable", icmpMessage(header.ICMPv4ProtocolNumber, 3), false, 0},
		{"echo request, IPv6", icmpMessage(header.ICMPv6ProtocolNumber, 128), true, 1},
		{"echo reply, IPv6", icmpMessage(header.ICMPv6ProtocolNumber, 129), false, 0},
		{"a fragment", func(*stack.PacketBuffer) {}, false, 0},
		{"a torn TCP header", func(p *stack.PacketBuffer) { p.TransportProtocolNumber = header.TCPProtocolNumber }, false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched()
				defer w.close()
				pkt := w.send(peer2, test.build)
				time.Sleep(499 * ms) // the bubble's clock
				w.want(t)
				time.Sleep(time.Hour)
				if test.want {
					w.want(t, report{2, 500 * ms})
				} else {
					w.want(t)
				}
				if held := w.take(2); len(held) != test.held || test.held == 1 && held[0] != pkt {
					t.Errorf("%d packets held, want %d", len(held), test.held)
				}
				if len(w.take(2)) != 0 {
					t.Error("a packet is held twice")
				}
			})
		})
	}
}

// fault 25: reports go on with growing pauses, as long as packets do.
func TestSilenceBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		defer w.close()
		for range 3000 {
			w.send(peer1, data)
			time.Sleep(100 * ms) // the bubble's clock
		}
		var want []report
		at, pause := time.Duration(0), 500*ms
		for {
			if at += pause; at > 300*time.Second {
				break
			}
			want = append(want, report{1, at})
			pause = min(2*pause, 64*time.Second)
		}
		w.want(t, want...)
	})
}

// After the packets have stopped and begun again, the pause is not forgotten; after an answer it is.
func TestSilenceBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		defer w.close()
		w.send(peer1, data)
		time.Sleep(time.Hour) // the bubble's clock, here and below
		w.want(t, report{1, 500 * ms})
		w.send(peer1, data)
		time.Sleep(time.Minute)
		w.want(t, report{1, time.Hour + 1000*ms})
		w.heard(peer1, nil)
		at := time.Since(w.start)
		w.send(peer1, data)
		time.Sleep(time.Minute)
		w.want(t, report{1, at + 500*ms})
	})
}

func TestSilenceHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		defer w.close()
		w.send(peer1, data)
		w.send(peer2, data)
		time.Sleep(400 * ms)                           // the bubble's clock
		w.heard(netip.MustParseAddr("10.0.1.77"), nil) // any address of the peer's does
		w.heard(netip.MustParseAddr("192.168.9.9"), nil)
		time.Sleep(time.Hour)
		w.want(t, report{2, 500 * ms})
		if w.owing != 1 {
			t.Errorf("%d peers owe, want 1", w.owing)
		}
	})
}

// A packet that was on its way when the peer died does not pay for a SYN that came after that; the SYN's answer does, and
// so does whatever comes so late that the peer must be alive.
func TestSilenceHeardOtherwise(t *testing.T) {
	answer := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	header.IPv4(answer).Encode(&header.IPv4Fields{
		TotalLength: uint16(len(answer)), Protocol: uint8(header.TCPProtocolNumber), TTL: 64,
	})
	header.TCP(answer[header.IPv4MinimumSize:]).Encode(&header.TCPFields{
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn | header.TCPFlagAck,
	})
	tests := []struct {
		name    string
		after   time.Duration
		packet  []byte
		reports []report
		held    int
	}{
		{"another packet, soon", 400 * ms, nil, []report{{1, 900 * ms}}, 1},
		{"another packet, late", 600 * ms, nil, []report{{1, 500 * ms}}, 0},
		{"the answer", 400 * ms, answer, nil, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWatched()
				defer w.close()
				w.send(peer1, syn)
				time.Sleep(test.after) // the bubble's clock
				w.heard(peer1, test.packet)
				time.Sleep(time.Hour)
				w.want(t, test.reports...)
				if held := w.take(1); len(held) != test.held {
					t.Errorf("%d packets held, want %d", len(held), test.held)
				}
			})
		})
	}
}

// fault 70: what is held is bounded, and is the newest.
func TestSilenceHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		defer w.close()
		var sent []*stack.PacketBuffer
		for range 3*maxHeld + 1 {
			sent = append(sent, w.send(peer1, syn))
		}
		for range 100 {
			w.send(peer1, data)
		}
		if held := w.take(1); !slices.Equal(held, sent[len(sent)-maxHeld:]) {
			t.Errorf("%d packets are held, or not the last %d", len(held), maxHeld)
		}
		for i, pkt := range sent {
			want := int64(1)
			if i >= len(sent)-maxHeld {
				want = 2
			}
			if got := pkt.ReadRefs(); got != want {
				t.Errorf("packet %d of %d has %d references, want %d", i, len(sent), got, want)
			}
		}
	})
}

func TestSilenceForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		first, second := w.send(peer1, syn), w.send(peer2, syn)
		w.send(netip.MustParseAddr("192.168.1.1"), syn) // no peer's
		w.retain(twoPeers[1:])
		time.Sleep(time.Second) // the bubble's clock
		w.want(t, report{2, 500 * ms})
		if first.ReadRefs() != 1 || second.ReadRefs() != 2 || len(w.peers) != 1 {
			t.Errorf("%d and %d references, %d peers", first.ReadRefs(), second.ReadRefs(), len(w.peers))
		}
		w.close()
		w.send(peer2, syn)
		w.heard(peer2, nil)
		time.Sleep(time.Hour)
		w.want(t)
		if second.ReadRefs() != 1 || len(w.peers) != 0 {
			t.Errorf("after close: %d references, %d peers", second.ReadRefs(), len(w.peers))
		}
	})
}

// Close waits for a report that runs, and lets no other begin.
func TestSilenceCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		release := make(chan struct{})
		entered := 0
		w.report = func(PeerID) { entered++; <-release }
		w.send(peer1, data)
		time.Sleep(500 * ms) // the bubble's clock
		synctest.Wait()
		closed := false
		done := make(chan struct{})
		go func() { // ended by release
			defer close(done)
			w.close()
			closed = true
		}()
		synctest.Wait()
		if closed || entered != 1 {
			t.Errorf("closed %v with %d reports running", closed, entered)
		}
		close(release)
		<-done
		if !closed {
			t.Error("close has not returned")
		}
	})
}

// Without a callback the watch keeps nothing.
func TestSilenceOff(t *testing.T) {
	w := newWatched()
	w.report = nil
	w.send(peer1, syn)
	w.heard(peer1, nil)
	if len(w.peers) != 0 {
		t.Error("a peer is watched")
	}
	w.close()
}
