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

	begin time.Time // where the watch's time begins

	mu     sync.Mutex // guards what follows
	peers  map[PeerID]*silence
	owing  int // peers that owe
	closed bool
}

// silence is what is known of one peer. It is kept when the peer has paid, and its timer left to run into nothing: both
// are too dear to be made for each round trip.
type silence struct {
	owes  bool          // something was sent, and nothing heard since
	due   time.Duration // when that is reported, in the watch's time; 0 if nothing was sent since the last report
	limit time.Duration // how long after the sending
	again bool          // something was sent since due was set
	held  []*stack.PacketBuffer
	last  time.Duration // when the last of held was sent

	timer *time.Timer
	fires time.Duration // when the timer does; 0 if it does not run
}

func newSilenceWatch(routes *atomic.Pointer[routeTable], report func(PeerID)) *silenceWatch {
	return &silenceWatch{routes: routes, report: report, begin: time.Now(), peers: map[PeerID]*silence{}}
}

// now is never 0.
func (w *silenceWatch) now() time.Duration { return time.Since(w.begin) + 1 }

// sent notes a packet on its way out. It is called for every packet.
func (w *silenceWatch) sent(pkt *stack.PacketBuffer) {
	if w.report == nil {
		return
	}
	demands, first := demandsAnswer(pkt)
	if !demands {
		return
	}
	if peer, ok := w.routes.Load().lookup(destination(pkt)); ok {
		w.owe(peer, first, pkt)
	}
}

// owe notes that a peer owes an answer to pkt. first says that pkt begins a conversation.
func (w *silenceWatch) owe(peer PeerID, first bool, pkt *stack.PacketBuffer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	s := w.peers[peer]
	if s == nil {
		if !w.routes.Load().serves(peer) {
			return // retain has just forgotten it
		}
		s = &silence{limit: silenceLimit}
		w.peers[peer] = s
	}
	if !s.owes {
		s.owes = true
		w.owing++
	}
	now := time.Duration(0)
	if s.due == 0 || first {
		now = w.now()
	}
	if s.due == 0 {
		s.due = now + s.limit
		w.armLocked(peer, s)
	} else {
		s.again = true
	}
	if !first {
		return
	}
	if len(s.held) == maxHeld {
		// The oldest is the one whose sender has most likely given up.
		s.held[0].DecRef()
		s.held = append(s.held[:0], s.held[1:]...)
	}
	s.held = append(s.held, pkt.IncRef())
	s.last = now
}

// armLocked makes sure that the timer fires in time. One that fires too early sets itself again. The caller holds w.mu,
// as for all methods that end in Locked.
func (w *silenceWatch) armLocked(peer PeerID, s *silence) {
	if s.fires != 0 && s.fires <= s.due {
		return
	}
	s.fires = s.due
	if s.timer == nil {
		s.timer = time.AfterFunc(s.due-w.now(), func() { w.expire(peer, s) }) // stopped by forgetLocked
		return
	}
	s.timer.Reset(s.due - w.now())
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
	if w.owing == 0 {
		return
	}
	peer, ok := w.routes.Load().lookup(src)
	if !ok {
		return
	}
	s := w.peers[peer]
	if s == nil || !s.owes {
		return
	}
	s.held = slices.DeleteFunc(s.held, func(pkt *stack.PacketBuffer) bool {
		answered := answers(packet, pkt)
		if answered {
			pkt.DecRef()
		}
		return answered
	})
	s.limit = silenceLimit
	if len(s.held) == 0 || w.now()-s.last >= silenceLimit {
		w.paidLocked(s)
		return
	}
	s.due, s.again = w.now()+s.limit, false
	w.armLocked(peer, s)
}

// paidLocked notes that a peer owes nothing any more.
func (w *silenceWatch) paidLocked(s *silence) {
	if s.owes {
		s.owes = false
		w.owing--
	}
	s.due, s.again = 0, false
	for i, pkt := range s.held {
		pkt.DecRef()
		s.held[i] = nil
	}
	s.held = s.held[:0]
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
	s.fires = 0
	now := w.now()
	if s.due == 0 || now < s.due {
		if s.due != 0 {
			w.armLocked(peer, s)
		}
		w.mu.Unlock()
		return
	}
	s.limit = min(2*s.limit, maxSilenceLimit)
	s.due = 0
	if s.again {
		s.due, s.again = now+s.limit, false
		w.armLocked(peer, s)
	}
	w.reports.Add(1)
	w.mu.Unlock()
	defer w.reports.Done()
	w.report(peer)
}

func (w *silenceWatch) forgetLocked(peer PeerID) {
	s := w.peers[peer]
	if s == nil {
		return
	}
	w.paidLocked(s)
	if s.timer != nil {
		s.timer.Stop()
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
			w.forgetLocked(peer)
		}
	}
}

// close ends the watch and waits for reports that run.
func (w *silenceWatch) close() {
	w.mu.Lock()
	w.closed = true
	for peer := range w.peers {
		w.forgetLocked(peer)
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
