// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/internal/outer"
	"example.com/wgnet/netstack"
	"golang.zx2c4.com/wireguard/device"
)

// What the device logs when something happens to a peer, which it tells in no other way. The callback gets these
// constants and, as the first argument, the *device.Peer itself. A test compares them with the device's source.
const (
	logInitiation     = "%v - Sending handshake initiation"
	logResponse       = "%v - Received handshake response"
	logOurResponse    = "%v - Sending handshake response"
	logPeerInitiation = "%v - Received handshake initiation"
	logKeepalive      = "%v - Receiving keepalive packet"
	logUnsent         = "%v - Failed to send handshake initiation: %v"
	logGivingUp       = "%s - Handshake did not complete after %d attempts, giving up"
	logDisallowed4    = "IPv4 packet with disallowed source address from %v"
	logDisallowed6    = "IPv6 packet with disallowed source address from %v"
	logBadVersion     = "Packet with invalid IP version from %v"
	// The argument is where it came from.
	logBadResponse = "Received invalid response message from %s"
	// A routine's last words begin and end so. Peers' routines, which the device waits for itself, begin otherwise.
	logRoutine = "Routine: "
	logStopped = " - stopped"
	logReceive = "Routine: receive incoming %s - stopped" // waited for too
)

// deviceRoutines are the goroutines that a device runs as long as it lives and does not all wait for in Close: three
// kinds of workers for each CPU, the TUN reader and the TUN event reader.
func deviceRoutines() int32 { return int32(3*runtime.NumCPU() + 2) }

// errPeerRemoved ends the wait for a peer that is one no more.
var errPeerRemoved = errors.New("the peer was removed")

// longPath is a round-trip time with which a silence of 500 ms is no sign of a restart.
const longPath = 250 * time.Millisecond

// greetings are the pauses after the first initiations before they are repeated to whom has not answered. The device
// itself waits for 5 s (WireGuard paper, section 6.4). But an initiation of a process that was restarted within some
// 20 ms is refused, since its coarse time stamp is not newer than the last one's; and the first datagram through a
// firewall or a NAT is easily lost.
var greetings = []time.Duration{300 * time.Millisecond, time.Second}

// greetingJitter is what may come to each of them.
const greetingJitter = 100 * time.Millisecond

// tunnel is the WireGuard device on the stack and the sockets, and what is known of its sessions.
type tunnel struct {
	engine  atomic.Pointer[engine] // stored by the Net, which orders its changes
	stack   *netstack.Stack
	sockets *outer.Sockets
	peers   func() *peerTable // the Net's
	log     *slog.Logger
	begin   time.Time
	closing <-chan struct{} // the Net's: closed when its Close begins

	observer *observer
	limits   map[string]*outer.LogLimit // of the device's log; never changed
	accepted atomic.Uint64              // data messages that the device took, keepalives and wrong sources included

	byDevice sync.Map // *device.Peer to *peer, of all engines
	// confirmations are what has to come before a session that a peer has asked for is one.
	confirmations confirmations
	renewed       chan struct{} // holds one token when a peer's renewed is set

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed, and replaced, when there are new sessions or other peers
}

func newTunnel(
	stack *netstack.Stack, sockets *outer.Sockets, peers func() *peerTable, log *slog.Logger, observer *observer,
	closing <-chan struct{},
) *tunnel {
	t := &tunnel{
		stack: stack, sockets: sockets, peers: peers, log: log, begin: time.Now(), closing: closing, observer: observer,
		limits:  newLogLimits(),
		renewed: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	t.engine.Store(newEngine(t, sockets))
	return t
}

// configure gives the device its key and its peers, and brings it up.
func (t *tunnel) configure(key PrivateKey, peers []*peer) error {
	devs, err := t.engine.Load().load(key, peers)
	if err != nil {
		return err
	}
	t.adopt(devs)
	if err := t.engine.Load().dev.IpcSet(uapiPeers(peers)); err != nil {
		return fmt.Errorf("set the peers: %w", err)
	}
	return t.engine.Load().up()
}

// adopt makes the device's peers known as ours.
func (t *tunnel) adopt(devs map[*peer]*device.Peer) {
	for p, dev := range devs {
		t.byDevice.Store(dev, p)
		if old := p.dev.Swap(dev); old != nil {
			t.byDevice.Delete(old)
		}
	}
}

// forget ends what is known of a peer that is removed.
func (t *tunnel) forget(p *peer) {
	p.removed.Store(true) // before confirming is looked at: see note
	t.reset(p.link)
	if dev := p.dev.Swap(nil); dev != nil {
		t.byDevice.Delete(dev)
	}
}

// close ends the device and lets go of its peers: their queues have finalizers that refer to the device, and so to us. In
// a circle with us they would never be collected.
func (t *tunnel) close() {
	t.engine.Load().close()
	t.byDevice.Clear()
	for _, p := range t.peers().all {
		p.dev.Store(nil)
	}
}

// now is the time since the tunnel began, on the monotonic clock, and never 0.
func (t *tunnel) now() int64 { return int64(time.Since(t.begin)) + 1 }

// verbosef is the device's log. It may come with locks of the device held.
func (t *tunnel) verbosef(format string, args ...any) {
	switch format {
	case logInitiation, logResponse, logOurResponse, logPeerInitiation, logKeepalive, logGivingUp,
		logDisallowed4, logDisallowed6, logBadVersion:
		if dev, ok := args[0].(*device.Peer); ok {
			if p, ok := t.byDevice.Load(dev); ok {
				t.note(p.(*peer), format)
			}
		}
	case logBadResponse:
		if from, ok := args[0].(string); ok {
			t.observer.noticeUnread(from)
		}
	}
	t.translate(slog.LevelDebug, format, args)
}

// errorf is the device's log of errors. closing says that the device is on its way out.
func (t *tunnel) errorf(closing bool, format string, args ...any) {
	level := slog.LevelWarn
	select {
	case <-t.closing:
		closing = true
	default:
	}
	if closing {
		level = slog.LevelDebug // what the device meets now is our doing: the sockets and the stack may go before it
	}
	if format == logUnsent {
		t.noteUnsent(args)
	}
	t.translate(level, format, args)
}

// noteUnsent notes that an initiation has not left this host.
func (t *tunnel) noteUnsent(args []any) {
	dev, ok := args[0].(*device.Peer)
	err, isError := args[1].(error)
	if p, known := t.byDevice.Load(dev); ok && isError && known {
		p.(*peer).unsent.Store(&err)
	}
}

func (t *tunnel) note(p *peer, format string) {
	switch format {
	case logInitiation:
		if p.reachable() { // else the device finds that out next
			p.attempts.Add(1)
		}
		p.initiated.Store(t.now())
		p.handshake.Store(t.now())
		p.unsent.Store(nil)
		p.observed.abandoned.Store(false)
	case logOurResponse:
		p.handshake.Store(t.now())
	case logResponse:
		p.heard.Store(true)
		p.reached()
		t.up(p, p.initiated.Load())
	case logPeerInitiation:
		p.heard.Store(true)
		p.asked.Store(t.now())
		if _, ok := t.sessionAge(p); ok {
			p.lost.Store(true) // perhaps: a peer that was restarted has forgotten that session
		}
		t.confirmations.begin(p)
		if p.removed.Load() { // in the same moment: forget may have looked before
			t.confirmations.end(p.link)
		}
	case logKeepalive:
		t.accepted.Add(1)
		p.observed.keepalives.Add(1)
		p.reached()
		if t.confirmations.confirmedByKeepalive(p.link) {
			t.up(p, p.asked.Load())
		}
	case logDisallowed4, logDisallowed6, logBadVersion:
		t.accepted.Add(1)
		p.observed.disallowed.Add(1)
	case logGivingUp:
		p.observed.told.Store(false)
		p.observed.abandoned.Store(true)
		t.observer.notice()
	}
}

// renew does what new sessions call for and a callback must not.
func (t *tunnel) renew() {
	for _, p := range t.peers().all {
		if p.renewed.Swap(false) && p.lost.Swap(false) {
			t.stack.Resend(p.id)
		}
	}
	t.wake()
}

// wake lets those look again who wait for a session or on behalf of a peer.
func (t *tunnel) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
}

// changes returns a channel that is closed with the next wake.
func (t *tunnel) changes() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// waitPeer waits for a session with p, and asks for one now and then.
func (t *tunnel) waitPeer(ctx context.Context, p *peer) error {
	again := time.NewTicker(device.RekeyTimeout)
	defer again.Stop()
	for {
		changed := t.changes()
		select {
		case <-t.closing:
			return net.ErrClosed
		default:
		}
		if p = t.peers().byID[p.id]; p == nil {
			return errPeerRemoved
		}
		if _, ok := t.sessionAge(p); ok {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		t.initiate(p)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
		case <-t.closing:
		}
	}
}

// initiate begins a handshake, unless one of the last 5 s is under way (Rekey-Timeout).
func (t *tunnel) initiate(p *peer) {
	dev := p.dev.Load()
	if dev == nil || !p.reachable() {
		return
	}
	if err := dev.SendHandshakeInitiation(false); err != nil {
		t.log.Debug("handshake initiation failed", "peer", p.label(), "err", err)
	}
}

// initiateNow begins a handshake even if there was one just now, whoever began it.
func (t *tunnel) initiateNow(p *peer) {
	defer t.observer.notice()
	if t.now()-p.handshake.Load() >= int64(device.RekeyTimeout) {
		t.initiate(p)
		return
	}
	for range 2 {
		p.expire()
		begin := t.down(p.link)
		t.initiate(p)
		if p.initiated.Load() > begin {
			return
		}
		// Between the two we have answered the peer, and the device's 5 s run again. That handshake counts as over too.
	}
}

// silent is called when a peer owes an answer for too long: it may have restarted and forgotten our session. What it
// was sent under that session is lost; without one, the packets still wait in the stack. On a path so long that answers
// may well be on their way, the session is kept until there is a new one, and the device's own 5 s between handshakes.
func (t *tunnel) silent(p *peer) {
	if _, ok := t.sessionAge(p); ok {
		p.lost.Store(true)
		if p.rtt.Load() > int64(longPath) {
			t.initiate(p)
			return
		}
	}
	t.initiateNow(p)
}

// greet begins a handshake with each of the peers, and again with those that there is no session with soon. A peer that was
// heard from may be one of them: when both begin at once, each forgets its own handshake for the other's, and both wait for
// the first packet under keys that neither uses. The pauses have some jitter, so that both do not begin at once again.
func (t *tunnel) greet(ctx context.Context, peers []*peer) {
	for _, p := range peers {
		if ctx.Err() != nil {
			return
		}
		if p := t.peers().byID[p.id]; p != nil {
			t.initiate(p)
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for _, pause := range greetings {
		timer.Reset(pause + rand.N(greetingJitter))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for _, p := range peers {
			if p := t.peers().byID[p.id]; p != nil && p.session.Load() == 0 && ctx.Err() == nil {
				t.initiateNow(p)
			}
		}
	}
}
