// SPDX-License-Identifier: MIT

package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// silenceLimit is how long a peer may leave packets that demand an answer unanswered before it is reported:
	// long for a round trip, short for a person.
	silenceLimit = 500 * time.Millisecond
	// maxSilenceLimit bounds the back-off of further reports about the same silence.
	maxSilenceLimit = 64 * time.Second
	// maxHeld bounds the packets held for each silent peer.
	maxHeld = 16
)

// silenceWatch notices peers that do not answer, which WireGuard itself does after 15 s only (WireGuard paper,
// section 6.5). A restarted peer has forgotten the session and says nothing to packets under the old key; the
// sooner we begin a handshake, the sooner it is back.
//
// Only packets that demand an answer count: TCP segments with SYN, FIN or data, and echo requests. One-way UDP is
// silent by nature. The first packets of a conversation (SYN, echo request) are held until the peer is heard, so
// that they can be sent again under the new session; TCP itself repeats the rest.
type silenceWatch struct {
	routes *atomic.Pointer[routeTable]
	// report is called, without a lock held, from a timer's goroutine. Nil turns the watch off.
	report func(PeerID)
	// reports counts the calls of report that run, for close to wait for.
	reports sync.WaitGroup

	mu     sync.Mutex // guards what follows
	peers  map[PeerID]*silence
	closed bool
}

// silence is what is known of one peer that owes an answer. Peers that owe none have no entry.
type silence struct {
	timer *time.Timer
	armed bool          // the timer runs
	limit time.Duration // how long it runs this time
	again bool          // something was sent since the timer was set
	held  []*stack.PacketBuffer
	last  time.Time // when the last of held was sent
}

func newSilenceWatch(routes *atomic.Pointer[routeTable], report func(PeerID)) *silenceWatch {
	return &silenceWatch{routes: routes, report: report, peers: map[PeerID]*silence{}}
}

// sent notes a packet on its way out. It is called for every packet and keeps no lock while it waits for none.
func (w *silenceWatch) sent(pkt *stack.PacketBuffer) {
	if w.report == nil {
		return
	}
	demands, first := demandsAnswer(pkt)
	if !demands {
		return
	}
	peer, ok := w.routes.Load().lookup(netipAddr(pkt.Network().DestinationAddress()))
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	s := w.peers[peer]
	switch {
	case s == nil:
		s = &silence{limit: silenceLimit, armed: true}
		s.timer = time.AfterFunc(s.limit, func() { w.expire(peer, s) }) // stopped by dropLocked
		w.peers[peer] = s
	case s.armed:
		s.again = true
	default:
		s.armed = true
		s.timer.Reset(s.limit)
	}
	if first && len(s.held) < maxHeld {
		s.held = append(s.held, pkt.IncRef())
		s.last = time.Now()
	}
}

// heard notes a packet that came in from src, which the device has authenticated. It pays every debt but that of first
// packets that it does not answer: it may have been on its way when the peer died, and they came after that. They stay,
// and the peer gets a new limit, until it is heard so late that it must have lost them otherwise.
func (w *silenceWatch) heard(src netip.Addr, packet []byte) {
	if w.report == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.peers) == 0 {
		return
	}
	peer, ok := w.routes.Load().lookup(src)
	if !ok {
		return
	}
	s := w.peers[peer]
	if s == nil {
		return
	}
	s.held = slices.DeleteFunc(s.held, func(pkt *stack.PacketBuffer) bool {
		answered := answers(packet, pkt)
		if answered {
			pkt.DecRef()
		}
		return answered
	})
	if len(s.held) == 0 || time.Since(s.last) >= silenceLimit {
		w.dropLocked(peer)
		return
	}
	s.limit, s.armed, s.again = silenceLimit, true, false
	s.timer.Reset(s.limit)
}

// take returns the packets held for a peer, whose references go to the caller.
func (w *silenceWatch) take(peer PeerID) []*stack.PacketBuffer {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.peers[peer]
	if s == nil {
		return nil
	}
	held := s.held
	s.held = nil
	return held
}

func (w *silenceWatch) expire(peer PeerID, s *silence) {
	w.mu.Lock()
	if w.closed || w.peers[peer] != s {
		w.mu.Unlock()
		return
	}
	s.limit = min(2*s.limit, maxSilenceLimit)
	s.armed, s.again = s.again, false
	if s.armed {
		s.timer.Reset(s.limit)
	}
	w.reports.Add(1)
	w.mu.Unlock()
	defer w.reports.Done()
	w.report(peer)
}

// The caller holds w.mu.
func (w *silenceWatch) dropLocked(peer PeerID) {
	s := w.peers[peer]
	if s == nil {
		return
	}
	s.timer.Stop()
	for _, pkt := range s.held {
		pkt.DecRef()
	}
	delete(w.peers, peer)
}

// retain drops what is known of peers that no route names any more.
func (w *silenceWatch) retain(routes []Route) {
	keep := make(map[PeerID]bool, len(routes))
	for _, r := range routes {
		keep[r.Peer] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for peer := range w.peers {
		if !keep[peer] {
			w.dropLocked(peer)
		}
	}
}

// close ends the watch and waits for reports that run.
func (w *silenceWatch) close() {
	w.mu.Lock()
	w.closed = true
	for peer := range w.peers {
		w.dropLocked(peer)
	}
	w.mu.Unlock()
	w.reports.Wait()
}

// demandsAnswer says whether the other side has to answer a packet, and whether it begins a conversation.
func demandsAnswer(pkt *stack.PacketBuffer) (demands, first bool) {
	switch pkt.TransportProtocolNumber {
	case header.TCPProtocolNumber:
		h := header.TCP(pkt.TransportHeader().Slice())
		if len(h) < header.TCPMinimumSize {
			return false, false
		}
		flags := h.Flags()
		if flags.Contains(header.TCPFlagRst) {
			return false, false
		}
		syn := flags.Contains(header.TCPFlagSyn)
		return syn || flags.Contains(header.TCPFlagFin) || pkt.Data().Size() > 0, syn
	case header.ICMPv4ProtocolNumber, header.ICMPv6ProtocolNumber:
		echo := isEchoRequest(pkt)
		return echo, echo
	}
	return false, false
}

// answers says whether an inbound packet may answer a held one, a SYN or an echo request. ICMP errors may answer each:
// what they are about is not looked into.
func answers(packet []byte, held *stack.PacketBuffer) bool {
	var proto tcpip.TransportProtocolNumber
	var payload []byte
	switch header.IPVersion(packet) {
	case header.IPv4Version:
		h := header.IPv4(packet)
		proto, payload = h.TransportProtocol(), packet[h.HeaderLength():]
	case header.IPv6Version:
		h := header.IPv6(packet)
		proto, payload = tcpip.TransportProtocolNumber(h.NextHeader()), packet[header.IPv6MinimumSize:]
	}
	if len(payload) < header.ICMPv4MinimumSize { // that of ICMPv6 is the same, and TCP's is larger
		return false
	}
	sent := held.TransportHeader().Slice()
	switch proto {
	case header.TCPProtocolNumber:
		if held.TransportProtocolNumber != proto || len(payload) < header.TCPMinimumSize {
			return false
		}
		in, out := header.TCP(payload), header.TCP(sent)
		return in.SourcePort() == out.DestinationPort() && in.DestinationPort() == out.SourcePort()
	case header.ICMPv4ProtocolNumber:
		switch header.ICMPv4(payload).Type() {
		case header.ICMPv4Echo:
			return false
		case header.ICMPv4EchoReply:
			return held.TransportProtocolNumber == proto && header.ICMPv4(payload).Ident() == header.ICMPv4(sent).Ident()
		}
		return true
	case header.ICMPv6ProtocolNumber:
		switch header.ICMPv6(payload).Type() {
		case header.ICMPv6EchoRequest:
			return false
		case header.ICMPv6EchoReply:
			return held.TransportProtocolNumber == proto && header.ICMPv6(payload).Ident() == header.ICMPv6(sent).Ident()
		}
		return true
	}
	return false
}

func netipAddr(addr tcpip.Address) netip.Addr {
	a, _ := netip.AddrFromSlice(addr.AsSlice())
	return a
}
