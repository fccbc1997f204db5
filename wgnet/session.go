// SPDX-License-Identifier: MIT

package wgnet

import (
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// sessionMargin is how long before its end no more is sent in a session: what is on its way then would be staged by the
// device, which keeps 64 KiB for each packet.
const sessionMargin = 2 * time.Second

// sessionAge returns how old the peer's session is. It reports false when there is none, or it is too old to be used
// (Reject-After-Time of the WireGuard paper, section 6.2).
func (t *tunnel) sessionAge(p *peer) (time.Duration, bool) {
	session := p.session.Load()
	age := time.Duration(t.now() - session)
	return age, session != 0 && age < device.RejectAfterTime
}

// up notes a new session, whose handshake began at a time. It is void if it began before the last down, even if it is
// told of after that: the device has no keys for it any more.
func (t *tunnel) up(p *peer, begin int64) {
	now := t.now()
	p.mu.Lock()
	void := begin <= p.void
	if !void {
		p.session.Store(now)
		t.tellLocked(p.link)
	}
	p.mu.Unlock()
	if void {
		return
	}
	t.confirmations.end(p.link)
	p.rtt.Store(now - begin)
	p.attempts.Store(0)
	p.observed.abandoned.Store(false)
	p.observed.unreadable.Store(0)
	p.observed.completed.Store(now)
	p.observed.began.Store(true)
	t.observer.notice()
	p.renewed.Store(true)
	select {
	case t.renewed <- struct{}{}:
	default:
	}
}

// reset notes that a peer begins anew: without a session, and with no handshake under way.
func (t *tunnel) reset(l *link) {
	t.down(l)
	t.confirmations.end(l)
	l.attempts.Store(0)
	t.observer.notice()
}

// down notes that there is no session with a peer: its packets wait in the stack then. Call it after the device was told to
// forget its keys. Handshakes that have begun before the time that it returns are over.
func (t *tunnel) down(l *link) (void int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.void = t.now()
	l.session.Store(0)
	t.tellLocked(l)
	return l.void
}

// tell tells the stack of a peer's session again: it forgets it while it has no route to the peer.
func (t *tunnel) tell(l *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.tellLocked(l)
}

// tellLocked lets the stack send to the peer as long as the session lasts. The caller holds l.mu, so that the stack hears
// the last word last.
func (t *tunnel) tellLocked(l *link) {
	var until time.Time
	if session := l.session.Load(); session != 0 {
		until = t.begin.Add(time.Duration(session) + device.RejectAfterTime - sessionMargin)
	}
	t.stack.SetSession(l.id, until)
}
