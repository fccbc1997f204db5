// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// keepPause is how often the keeper looks around.
const keepPause = time.Second

// rebuildings are the pauses after which handshakes are repeated, when sessions are rebuilt: a machine that wakes may be
// without its network for a while. After them the device repeats them by itself.
var rebuildings = []time.Duration{time.Second, 2 * time.Second}

// keeper keeps the tunnel going while sessions, names, sockets and clocks change under it, in one goroutine that wakes
// once a second.
type keeper struct {
	net      *Net
	finder   *finder
	clock    *clock
	reopened chan struct{}   // holds one token when another socket is in use
	renewed  <-chan struct{} // the tunnel's
}

func newKeeper(n *Net, now func() (time.Time, time.Duration)) *keeper {
	return &keeper{net: n, finder: newNetFinder(n), clock: newClock(now), reopened: make(chan struct{}, 1)}
}

// run ends when ctx is done.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(keepPause)
	defer ticker.Stop()
	defer k.finder.wait()
	k.finder.round(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.watchClock(ctx)
			k.finder.round(ctx)
		case <-k.finder.news:
			k.finder.round(ctx)
		case r := <-k.finder.results:
			k.finder.take(ctx, r)
		case <-k.renewed:
			k.net.tunnel.renew()
		case <-k.reopened:
			k.resume(ctx)
		}
	}
}

// watchClock does what a sleep or a step of the clock calls for.
func (k *keeper) watchClock(ctx context.Context) {
	news := k.clock.look(keepPause)
	if news.setBack > 0 {
		k.net.tellHost(slog.LevelWarn, ClockSetBack, k.clock.problem())
		for _, p := range k.inSession(0) {
			// Those with whom no handshake has begun for so long have seen no younger time stamp. The others keep the
			// session that there is.
			if time.Duration(k.net.tunnel.now()-p.initiated.Load()) > news.setBack+stepTime {
				k.net.tunnel.initiate(p)
			}
		}
	}
	if news.caughtUp {
		k.net.tellHost(slog.LevelInfo, ClockCaughtUp, "this machine's clock is where it was before it was set back")
		k.rebuild(ctx, k.unanswered())
	}
	if news.slept > 0 {
		k.net.tellHost(slog.LevelInfo, Woken, fmt.Sprintf("this machine or process has slept for %s, or its clock was set forward",
			news.slept.Round(time.Second)))
		k.rebuild(ctx, k.inSession(news.elapsed))
		k.finder.hurry()
	}
}

// resume does what another socket calls for. Peers learn of its port by a packet from it.
func (k *keeper) resume(ctx context.Context) {
	k.net.tunnel.engine.Load().dev.SendKeepalivesToPeersWithCurrentKeypair()
	k.rebuild(ctx, k.unanswered())
}

// inSession are the peers with whom there was a session some time ago.
func (k *keeper) inSession(ago time.Duration) (peers []*peer) {
	for _, p := range k.net.peers().all {
		session := p.session.Load()
		if session != 0 && time.Duration(k.net.tunnel.now()-session)-ago < device.RejectAfterTime {
			peers = append(peers, p)
		}
	}
	return peers
}

// unanswered are the peers that do not answer our handshakes.
func (k *keeper) unanswered() (peers []*peer) {
	for _, p := range k.net.peers().all {
		if p.attempts.Load() > 0 {
			peers = append(peers, p)
		}
	}
	return peers
}

// rebuild ends what sessions there are with peers, and makes new ones.
func (k *keeper) rebuild(ctx context.Context, peers []*peer) {
	if len(peers) > 0 {
		k.net.background.Go(func() { k.net.tunnel.rebuild(ctx, peers) }) // ctx, which is the Net's, ends it
	}
}

// rebuild ends what sessions there are with peers: the other sides may have forgotten them. What is sent to them waits for
// the new ones.
func (t *tunnel) rebuild(ctx context.Context, peers []*peer) {
	begin := t.now()
	for _, p := range peers {
		if p = t.peers().byID[p.id]; p != nil && ctx.Err() == nil {
			p.lost.Store(true)
			t.reset(p.link)
			p.expire()
			t.initiate(p)
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for _, pause := range rebuildings {
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for _, p := range peers {
			if p = t.peers().byID[p.id]; p != nil && p.session.Load() < begin && p.confirming.Load() == nil && ctx.Err() == nil {
				t.initiateNow(p)
			}
		}
	}
}

// socketLost and socketReopened are called by the sockets, which wait for them.
func (n *Net) socketLost(why error) {
	n.tellHost(slog.LevelWarn, SocketLost, fmt.Sprintf("the UDP socket on port %d is lost, opening another: %v", n.ListenPort(), why))
}

func (n *Net) socketReopened() {
	n.tellHost(slog.LevelInfo, SocketReopened, fmt.Sprintf("another UDP socket is open on port %d", n.ListenPort()))
	select {
	case n.keeper.reopened <- struct{}{}:
	default:
	}
}

// tellHost publishes an event that is about no peer, and logs it.
func (n *Net) tellHost(level slog.Level, kind EventKind, text string) {
	n.events.publish(Event{Time: time.Now(), Kind: kind, Text: text})
	n.log.Log(context.Background(), level, kind.String(), "text", text)
}

// problems are what is wrong with this host, in words.
func (n *Net) problems() (texts []string) {
	if err := n.sockets.Lost(); err != nil {
		texts = append(texts, err.Error()+"; another is being opened")
	}
	if text := n.keeper.clock.problem(); text != "" {
		texts = append(texts, text)
	}
	return texts
}
