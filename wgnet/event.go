// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// maxEvents bounds the events that wait for a slow reader. The oldest go first.
const maxEvents = 256

// An EventKind says what has happened.
type EventKind int

// The kinds of events.
const (
	// PeerUp: a session with the peer has begun, and there was none before. A session that replaces one is no event.
	PeerUp EventKind = iota + 1
	// PeerDown: the peer's session has ended, and there is no new one. An idle peer goes down three minutes after its
	// last handshake, and is up again with the next packet.
	PeerDown
	// HandshakeFailed: a handshake was given up, after 90 seconds of attempts. The next packet to the peer begins another.
	HandshakeFailed
	// EndpointChanged: the peer's datagrams go to another address, because it sends from there, or its name was resolved
	// to it.
	EndpointChanged
	// EndpointResolved: the host name in the peer's endpoint was resolved, for the first time or to something new.
	EndpointResolved
	// EndpointUnresolved: looking that name up has failed. It goes on, and the address that it had stays in use; there is
	// no other event of its kind before the name is resolved.
	EndpointUnresolved
	// SocketLost: the UDP socket has failed, because the network has gone or the system has taken it away. Another one is
	// being opened. This event and those that follow are about no peer.
	SocketLost
	// SocketReopened: another UDP socket is in the place of the one that was lost.
	SocketReopened
	// Woken: the machine or the process was asleep, or the clock was set forward. Sessions are made anew.
	Woken
	// ClockSetBack: the machine's clock was set back. Peers take no handshake that looks older than the last one that
	// they took (WireGuard paper, section 5.1): until the clock has caught up, or is set right, there are new sessions only
	// with those that begin a handshake themselves.
	ClockSetBack
	// ClockCaughtUp: the clock is where it was before it was set back.
	ClockCaughtUp
)

var eventKinds = []string{
	PeerUp: "peer up", PeerDown: "peer down", HandshakeFailed: "handshake failed", EndpointChanged: "endpoint changed",
	EndpointResolved: "endpoint resolved", EndpointUnresolved: "endpoint not resolved",
	SocketLost: "socket lost", SocketReopened: "socket reopened",
	Woken: "woken", ClockSetBack: "clock set back", ClockCaughtUp: "clock caught up",
}

// String returns the kind in words, such as "peer up".
func (k EventKind) String() string {
	if k <= 0 || int(k) >= len(eventKinds) {
		return "EventKind(" + strconv.Itoa(int(k)) + ")"
	}
	return eventKinds[k]
}

// MarshalText returns String.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText parses what MarshalText returns.
func (k *EventKind) UnmarshalText(text []byte) error {
	for i, s := range eventKinds {
		if i > 0 && s == string(text) {
			*k = EventKind(i)
			return nil
		}
	}
	return fmt.Errorf("wgnet: %s is no kind of event", show(string(text)))
}

// An Event is something that has happened, to a peer or to the host itself.
type Event struct {
	// Time is when it was noticed.
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`
	// Peer is the peer's name, or "" if it has none. PublicKey is the zero key if the event is about no peer.
	Peer      string    `json:"peer,omitempty"`
	PublicKey PublicKey `json:"public_key,omitzero"`
	// Endpoint is where the peer is in the outer network, as far as it is known.
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	// Text says in words what is known. It is for people, and may change.
	Text string `json:"text"`
	// Missed is how many events were lost right before this one, because the reader was too slow.
	Missed int `json:"missed,omitempty"`
}

// String returns one line for people.
func (e Event) String() string {
	return e.Time.Format(time.RFC3339) + " " + e.Kind.String() + ": " + e.Text
}

// Events returns what happens to the peers from now on, for one loop:
//
//	for e := range n.Events(ctx) {
//		fmt.Println(e)
//	}
//
// Events that come between the call and the loop are not lost. The sequence ends when ctx is done, when the loop is
// left, and when the Net is closed, after the events that are left. A reader that is more than 256 events behind loses
// the oldest, and finds their number in [Event.Missed]. [Net.Status], called after Events, is what they change. A
// call whose result is not used costs memory until ctx is done or the Net is closed.
func (n *Net) Events(ctx context.Context) iter.Seq[Event] {
	s := n.events.subscribe()
	stop := context.AfterFunc(ctx, func() { n.events.unsubscribe(s) }) // returns at once
	return func(yield func(Event) bool) {
		defer n.events.unsubscribe(s)
		defer stop()
		for {
			e, ok := s.next(ctx)
			if !ok || !yield(e) {
				return
			}
		}
	}
}

// eventHub passes events on to those who have subscribed. The zero value is ready.
type eventHub struct {
	mu            sync.Mutex // guards what follows. Lock order: eventHub.mu, subscription.mu.
	subscriptions map[*subscription]struct{}
	closed        bool
}

func (h *eventHub) subscribe() *subscription {
	s := &subscription{news: make(chan struct{}, 1), ended: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(s.ended)
		return s
	}
	if h.subscriptions == nil {
		h.subscriptions = map[*subscription]struct{}{}
	}
	h.subscriptions[s] = struct{}{}
	return s
}

// unsubscribe may be called again and again.
func (h *eventHub) unsubscribe(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subscriptions[s]; ok {
		delete(h.subscriptions, s)
		close(s.ended)
	}
}

// publish does not wait for anybody.
func (h *eventHub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscriptions {
		s.put(e)
	}
}

// close ends all subscriptions, those to come included.
func (h *eventHub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.subscriptions {
		close(s.ended)
	}
	h.subscriptions = nil
}

// subscription holds the events that one reader has not read yet.
type subscription struct {
	news  chan struct{} // holds one token when there may be an event
	ended chan struct{} // closed when no more events come

	mu     sync.Mutex // guards events and missed
	events []Event    // at most maxEvents
	missed int        // before the first of events
}

func (s *subscription) put(e Event) {
	s.mu.Lock()
	if len(s.events) == maxEvents {
		s.missed++
		s.events = append(s.events[:0], s.events[1:]...)
	}
	s.events = append(s.events, e)
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return Event{}, false
	}
	e := s.events[0]
	e.Missed, s.missed = s.missed, 0
	s.events = append(s.events[:0], s.events[1:]...)
	if len(s.events) == 0 {
		s.events = nil // a quiet subscription holds no memory
	}
	return e, true
}

// next waits for an event. It reports false when there will be none.
func (s *subscription) next(ctx context.Context) (Event, bool) {
	for {
		if ctx.Err() != nil {
			return Event{}, false
		}
		if e, ok := s.take(); ok {
			return e, true
		}
		select {
		case <-s.news:
		case <-ctx.Done():
		case <-s.ended:
			return s.take()
		}
	}
}
