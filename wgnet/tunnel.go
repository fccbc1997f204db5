// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
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

// longPath is a round-trip time with which a silence of 500 ms is no sign of a restart.
const longPath = 250 * time.Millisecond

// greetings are the pauses after the first initiations before they are repeated to whom has not answered. The device
// itself waits for 5 s (WireGuard paper, section 6.4). But an initiation of a process that was restarted within some
// 20 ms is refused, since its coarse time stamp is not newer than the last one's; and the first datagram through a
// firewall or a NAT is easily lost.
var greetings = []time.Duration{300 * time.Millisecond, time.Second}

// sessionMargin is how long before its end no more is sent in a session: what is on its way then would be staged by the
// device, which keeps 64 KiB for each packet.
const sessionMargin = 2 * time.Second

// tunnel is the WireGuard device on the stack and the sockets, and what is known of its sessions.
type tunnel struct {
	dev     *device.Device
	stack   *netstack.Stack
	peers   *peerTable
	log     *slog.Logger
	begin   time.Time
	closing <-chan struct{} // the Net's: closed when its Close begins

	observer *observer
	limits   map[string]*outer.LogLimit // of the device's log; never changed
	accepted atomic.Uint64              // data messages that the device took, keepalives and wrong sources included

	byDevice atomic.Pointer[map[*device.Peer]*peer]
	// confirming counts the peers whose confirming is set: while there are none, the packet path looks no further.
	confirming atomic.Int32
	renewed    chan struct{} // holds one token when a peer's renewed is set
	stopped    atomic.Int32  // routines that have ended
	ended      chan struct{} // closed when all deviceRoutines have

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed, and replaced, when there are new sessions
}

func newTunnel(
	stack *netstack.Stack, sockets *outer.Sockets, peers *peerTable, log *slog.Logger, observer *observer,
	closing <-chan struct{},
) *tunnel {
	t := &tunnel{
		stack: stack, peers: peers, log: log, begin: time.Now(), closing: closing, observer: observer, limits: newLogLimits(),
		renewed: make(chan struct{}, 1), ended: make(chan struct{}), changed: make(chan struct{}),
	}
	t.byDevice.Store(&map[*device.Peer]*peer{})
	t.dev = device.NewDevice(&confirmingTUN{Device: stack.Device(), tunnel: t}, sockets.Bind(),
		&device.Logger{Verbosef: t.verbosef, Errorf: t.errorf})
	return t
}

// configure gives the device its key and its peers, and brings it up.
func (t *tunnel) configure(cfg *Config) error {
	// The key comes first: the device computes what it needs of it as a peer is made.
	if err := t.dev.IpcSet(uapiKey(cfg.PrivateKey)); err != nil {
		return fmt.Errorf("set the private key: %w", err)
	}
	byDevice := make(map[*device.Peer]*peer, len(t.peers.all))
	for _, p := range t.peers.all {
		dev, err := t.dev.NewPeer(device.NoisePublicKey(p.PublicKey))
		if err != nil {
			return fmt.Errorf("add peer %s: %w", p.label(), err)
		}
		p.dev.Store(dev)
		byDevice[dev] = p
	}
	t.byDevice.Store(&byDevice)
	if err := t.dev.IpcSet(uapiPeers(t.peers.all)); err != nil {
		return fmt.Errorf("set the peers: %w", err)
	}
	if err := t.dev.Up(); err != nil {
		return fmt.Errorf("bring the device up: %w", err)
	}
	return nil
}

// close ends the device, waits for the routines that the device leaves running, and lets go of the device's peers: their
// queues have finalizers that refer to the device, and so to us. In a circle with us they would never be collected.
func (t *tunnel) close() {
	t.dev.Close()
	<-t.ended
	t.byDevice.Store(&map[*device.Peer]*peer{})
	for _, p := range t.peers.all {
		p.dev.Store(nil)
	}
}

// now is the time since the tunnel began, on the monotonic clock, and never 0.
func (t *tunnel) now() int64 { return int64(time.Since(t.begin)) + 1 }

// sessionAge returns how old the peer's session is. It reports false when there is none, or it is too old to be used
// (Reject-After-Time of the WireGuard paper, section 6.2).
func (t *tunnel) sessionAge(p *peer) (time.Duration, bool) {
	session := p.session.Load()
	age := time.Duration(t.now() - session)
	return age, session != 0 && age < device.RejectAfterTime
}

// verbosef is the device's log. It may come with locks of the device held.
func (t *tunnel) verbosef(format string, args ...any) {
	switch format {
	case logInitiation, logResponse, logOurResponse, logPeerInitiation, logKeepalive, logGivingUp,
		logDisallowed4, logDisallowed6, logBadVersion:
		if dev, ok := args[0].(*device.Peer); ok {
			if p := (*t.byDevice.Load())[dev]; p != nil {
				t.note(p, format)
			}
		}
	case logBadResponse:
		if from, ok := args[0].(string); ok {
			t.observer.noticeUnread(from)
		}
	}
	t.translate(slog.LevelDebug, format, args)
	if strings.HasPrefix(format, logRoutine) && strings.HasSuffix(format, logStopped) && format != logReceive {
		if t.stopped.Add(1) == deviceRoutines() {
			close(t.ended)
		}
	}
}

func (t *tunnel) errorf(format string, args ...any) {
	level := slog.LevelWarn
	select {
	case <-t.closing:
		level = slog.LevelDebug // what the device meets now is our doing: the sockets and the stack go before it
	default:
	}
	t.translate(level, format, args)
}

func (t *tunnel) note(p *peer, format string) {
	switch format {
	case logInitiation:
		if p.reachable() { // else the device finds that out next
			p.attempts.Add(1)
		}
		p.initiated.Store(t.now())
		p.handshake.Store(t.now())
		p.observed.abandoned.Store(false)
	case logOurResponse:
		p.handshake.Store(t.now())
	case logResponse:
		p.heard.Store(true)
		t.up(p, p.initiated.Load())
	case logPeerInitiation:
		p.heard.Store(true)
		p.asked.Store(t.now())
		if _, ok := t.sessionAge(p); ok {
			p.lost.Store(true) // perhaps: a peer that was restarted has forgotten that session
		}
		if !p.confirming.Swap(true) {
			t.confirming.Add(1)
		}
	case logKeepalive:
		t.accepted.Add(1)
		t.confirm(p)
	case logDisallowed4, logDisallowed6, logBadVersion:
		t.accepted.Add(1)
		p.observed.disallowed.Add(1)
	case logGivingUp:
		p.observed.told.Store(false)
		p.observed.abandoned.Store(true)
		t.observer.notice()
	}
}

// confirm notes a packet of a peer whose initiation we have answered. Not before it is there a session for sure (key
// confirmation, WireGuard paper, section 5.4.6).
func (t *tunnel) confirm(p *peer) {
	if p.confirming.Swap(false) {
		t.confirming.Add(-1)
		t.up(p, p.asked.Load())
	}
}

// up notes a new session, whose handshake began at a time.
func (t *tunnel) up(p *peer, begin int64) {
	now := t.now()
	p.rtt.Store(now - begin)
	p.session.Store(now)
	t.stack.SetSession(p.id, time.Now().Add(device.RejectAfterTime-sessionMargin))
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

// watch does what a new session calls for and a callback must not, until ctx is done.
func (t *tunnel) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.renewed:
		}
		for _, p := range t.peers.all {
			if p.renewed.Swap(false) && p.lost.Swap(false) {
				t.stack.Resend(p.id)
			}
		}
		t.mu.Lock()
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}
}

// waitPeer waits for a session with p, and asks for one now and then.
func (t *tunnel) waitPeer(ctx context.Context, p *peer) error {
	again := time.NewTicker(device.RekeyTimeout)
	defer again.Stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-t.closing:
			return net.ErrClosed
		default:
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
	if t.now()-p.handshake.Load() < int64(device.RekeyTimeout) {
		p.session.Store(0)
		t.stack.SetSession(p.id, time.Time{})
		p.expire()
	}
	t.initiate(p)
	t.observer.notice()
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

// greet begins a handshake with each of the peers, and again with those that do not answer soon.
func (t *tunnel) greet(ctx context.Context, peers []*peer) {
	for _, p := range peers {
		if ctx.Err() != nil {
			return
		}
		t.initiate(p)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for _, pause := range greetings {
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for _, p := range peers {
			if !p.heard.Load() && ctx.Err() == nil {
				t.initiateNow(p)
			}
		}
	}
}

// confirmingTUN is the stack's facade, which sees a peer's first packet under new keys, and counts packets.
type confirmingTUN struct {
	*netstack.Device
	tunnel *tunnel
}

// Write implements tun.Device.
func (d *confirmingTUN) Write(bufs [][]byte, offset int) (int, error) {
	d.tunnel.accepted.Add(uint64(len(bufs)))
	// The packets of one call are of one peer, to whom the device has found their sources to belong.
	for _, buf := range bufs {
		if p := d.tunnel.sender(buf[offset:]); p != nil {
			p.observed.packetsReceived.Add(uint64(len(bufs)))
			if d.tunnel.confirming.Load() > 0 {
				d.tunnel.confirm(p)
			}
			break
		}
	}
	return d.Device.Write(bufs, offset)
}

// sender finds the peer that a packet is from, or nil.
func (t *tunnel) sender(packet []byte) *peer {
	if src, ok := netstack.Source(packet); ok {
		if id, ok := t.stack.PeerFor(src); ok {
			return t.peers.all[id]
		}
	}
	return nil
}
