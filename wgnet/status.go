// SPDX-License-Identifier: MIT

package wgnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// A SessionState says how things stand between this host and a peer.
type SessionState int

// The states of a session.
const (
	// SessionNever: no handshake has completed since New, and none is under way.
	SessionNever SessionState = iota
	// SessionConnecting: a handshake is under way, and there is no session meanwhile.
	SessionConnecting
	// SessionUp: a handshake has completed within the last three minutes. That the peer is still there is not said.
	SessionUp
	// SessionStale: there was a session and it has ended. The next packet to the peer begins another handshake.
	SessionStale
)

var sessionStates = []string{
	SessionNever: "never", SessionConnecting: "connecting", SessionUp: "up", SessionStale: "stale",
}

// String returns "never", "connecting", "up" or "stale".
func (s SessionState) String() string {
	if s < 0 || int(s) >= len(sessionStates) {
		return "SessionState(" + strconv.Itoa(int(s)) + ")"
	}
	return sessionStates[s]
}

// MarshalText returns String.
func (s SessionState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses what MarshalText returns.
func (s *SessionState) UnmarshalText(text []byte) error {
	i := slices.Index(sessionStates, string(text))
	if i < 0 {
		return fmt.Errorf("wgnet: %s is no state of a session", show(string(text)))
	}
	*s = SessionState(i)
	return nil
}

// Status is how things stand at a moment. It has no secret in it. It prints as `wg show` prints an interface, with a
// few lines more.
type Status struct {
	// Time is the moment, Started that of [New].
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`
	// The host's own: see [Net.PublicKey], [Net.Addresses], [Net.ListenPort] and [Net.MTU].
	PublicKey  PublicKey      `json:"public_key"`
	Addresses  []netip.Prefix `json:"addresses"`
	ListenPort uint16         `json:"listen_port"`
	MTU        int            `json:"mtu"`
	// NotAccepted counts the data messages that came to our port and were not accepted: they were not authentic, were
	// replayed, belonged to an old session or carried a malformed packet, which cannot be told apart. Strangers can
	// inflate it. It lags by two seconds, and while traffic flows by as much as was received in those.
	NotAccepted uint64 `json:"not_accepted"`
	// Dropped counts what this host has dropped, by reason.
	Dropped DropStats `json:"dropped"`
	// Flows counts what peers have begun with other addresses than the host's own: see [Net.HandleFlows].
	Flows FlowStats `json:"flows"`
	// Problems say in words what is wrong with this host itself: its UDP socket is lost, its clock was set back. They are
	// for people, and may change. It is nil if nothing is wrong.
	Problems []string `json:"problems,omitempty"`
	// Peers are in the order of the config.
	Peers []PeerStatus `json:"peers"`
}

// PeerStatus is how things stand with one peer. Counters begin when the peer is added, and go on when its config changes.
type PeerStatus struct {
	// Name is the peer's name, or "" if it has none.
	Name      string    `json:"name,omitempty"`
	PublicKey PublicKey `json:"public_key"`
	// HasPresharedKey says whether a preshared key is configured.
	HasPresharedKey bool `json:"has_preshared_key"`
	// ConfiguredEndpoint is [PeerConfig.Endpoint]. Endpoint is where the peer's datagrams go now: what that was resolved
	// to, or where the peer was last heard from. It is the zero AddrPort as long as neither is known.
	ConfiguredEndpoint string         `json:"configured_endpoint,omitempty"`
	Endpoint           netip.AddrPort `json:"endpoint,omitzero"`
	AllowedIPs         []netip.Prefix `json:"allowed_ips"`
	// PersistentKeepalive is [PeerConfig.PersistentKeepalive]. In JSON it is persistent_keepalive_seconds.
	PersistentKeepalive time.Duration `json:"-"`
	// LastHandshake is when the last handshake completed, by the clock of the machine. Zero means never.
	LastHandshake time.Time `json:"last_handshake,omitzero"`
	// BytesReceived and BytesSent count what was authentic outside the tunnel: data messages, keepalives and handshakes,
	// without the headers of UDP and IP. These are the numbers of `wg show`.
	BytesReceived uint64 `json:"bytes_received"`
	BytesSent     uint64 `json:"bytes_sent"`
	// PacketsReceived and PacketsSent count packets inside the tunnel. Of those sent some may have been lost on the way
	// to the network.
	PacketsReceived uint64 `json:"packets_received"`
	PacketsSent     uint64 `json:"packets_sent"`
	// Disallowed counts packets of the peer that were dropped since their source is not in AllowedIPs.
	Disallowed uint64 `json:"disallowed"`
	// Flows counts what the peer has begun with other addresses than the host's own.
	Flows FlowStats `json:"flows"`
	// UnansweredHandshakes is how many handshakes were begun by us since the last one that completed. Whether they
	// arrived cannot be known.
	UnansweredHandshakes int          `json:"unanswered_handshakes"`
	Session              SessionState `json:"session"`
	// Text says in words what is known. It is for people, and may change.
	Text string `json:"text"`
}

// Status returns how things stand. It asks nobody but this process, and waits for nothing but a change of peers that is under way. After [Net.Close] no session
// is up, and what the device has counted is gone: endpoints, handshake times and bytes.
func (n *Net) Status() Status { return n.status(n.state.Load()) }

// status is that of a state, whose peers are in the same order.
func (n *Net) status(now *state) Status {
	peers := now.peers
	measured := n.tunnel.engine.Load().measurements(peers)
	s := Status{
		Time: time.Now(), Started: n.started, PublicKey: now.config.PrivateKey.Public(),
		Addresses: slices.Clone(now.config.Addresses), ListenPort: n.ListenPort(), MTU: now.config.mtu(),
		NotAccepted: n.rejected.update(n.sockets.Received, n.tunnel.accepted.Load),
		Dropped:     n.drops(),
		Peers:       make([]PeerStatus, len(peers.all)),
	}
	flows, flowsOf := n.stack.FlowStats()
	s.Flows = FlowStats(flows)
	closed := n.ctx.Err() != nil
	if !closed {
		s.Problems = n.problems()
	}
	for i, p := range peers.all {
		m := measured[p.link]
		s.Peers[i] = PeerStatus{
			Name: p.Name, PublicKey: p.PublicKey, HasPresharedKey: !p.PresharedKey.IsZero(), ConfiguredEndpoint: p.Endpoint,
			Endpoint: m.endpoint, AllowedIPs: slices.Clone(p.AllowedIPs), PersistentKeepalive: p.PersistentKeepalive,
			LastHandshake: m.handshake, BytesReceived: m.received, BytesSent: m.sent,
			PacketsReceived: p.observed.packetsReceived.Load(), PacketsSent: p.observed.packetsSent.Load(),
			Disallowed: p.observed.disallowed.Load(), Flows: FlowStats(flowsOf[p.id]),
			UnansweredHandshakes: int(p.attempts.Load()),
			Session:              n.tunnel.state(p), Text: n.noAnswer(p, netip.Addr{}),
		}
		if closed {
			s.Peers[i].Text = "the Net is closed"
		}
	}
	return s
}

// state says how things stand with a peer.
func (t *tunnel) state(p *peer) SessionState {
	closed := false
	select {
	case <-t.closing:
		closed = true
	default:
	}
	_, up := t.sessionAge(p)
	// The device repeats an initiation after Rekey-Timeout, and a moment.
	trying := (p.attempts.Load() > 0 || p.confirming.Load() != nil) && !p.observed.abandoned.Load() &&
		t.now()-p.handshake.Load() < int64(2*device.RekeyTimeout)
	switch {
	case up && !closed:
		return SessionUp
	case trying && !closed:
		return SessionConnecting
	case p.observed.completed.Load() != 0:
		return SessionStale
	}
	return SessionNever
}

// rejectedCount is how many data messages were received and not accepted. A message is on its way through the device for
// a while, so those received are counted with a delay, and the difference is too small while more are coming; the largest
// one that was seen is the best that can be said.
type rejectedCount struct {
	mu   sync.Mutex // guards most
	most uint64
}

func (c *rejectedCount) update(received, accepted func() uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	// In this order: a message that is accepted in between makes the difference too small, not too large.
	in := received()
	if ok := accepted(); in > ok {
		c.most = max(c.most, in-ok)
	}
	return c.most
}

// MarshalJSON writes the fields under the names in their tags, and PersistentKeepalive in seconds.
func (p PeerStatus) MarshalJSON() ([]byte, error) {
	type plain PeerStatus // without this method
	return json.Marshal(struct {
		plain
		Keepalive int64 `json:"persistent_keepalive_seconds,omitempty"`
	}{plain(p), int64(p.PersistentKeepalive / time.Second)})
}

// String prints s as `wg show` prints an interface. Peers with the latest handshakes come first.
func (s Status) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) { fmt.Fprintf(&b, "  "+name+": "+format+"\n", args...) }
	fmt.Fprintf(&b, "interface: wgnet\n")
	line("public key", "%s", s.PublicKey)
	line("private key", "(hidden)")
	line("listening port", "%d", s.ListenPort)
	line("addresses", "%s", joinPrefixes(s.Addresses))
	line("mtu", "%d", s.MTU)
	line("uptime", "%s", longDuration(s.Time.Sub(s.Started)))
	if s.NotAccepted > 0 {
		line("not accepted", "%d (authentication, replay or old session)", s.NotAccepted)
	}
	if s.Dropped != (DropStats{}) {
		line("dropped", "%s", s.Dropped)
	}
	for _, text := range s.Problems {
		line("problem", "%s", text)
	}
	peers := slices.Clone(s.Peers)
	slices.SortStableFunc(peers, func(p, q PeerStatus) int { return q.LastHandshake.Compare(p.LastHandshake) })
	for _, p := range peers {
		fmt.Fprintf(&b, "\npeer: %s\n", p.PublicKey)
		if p.Name != "" {
			line("name", "%s", p.Name)
		}
		if p.HasPresharedKey {
			line("preshared key", "(hidden)")
		}
		if p.Endpoint.IsValid() {
			line("endpoint", "%s", p.Endpoint)
		}
		line("allowed ips", "%s", joinPrefixes(p.AllowedIPs))
		if !p.LastHandshake.IsZero() {
			line("latest handshake", "%s", ago(s.Time.Sub(p.LastHandshake)))
		}
		if p.BytesReceived > 0 || p.BytesSent > 0 {
			line("transfer", "%s received, %s sent", showBytes(p.BytesReceived), showBytes(p.BytesSent))
			line("packets", "%d received, %d sent", p.PacketsReceived, p.PacketsSent)
		}
		if p.Disallowed > 0 {
			line("disallowed", "%d (source not in allowed ips)", p.Disallowed)
		}
		if p.Flows != (FlowStats{}) {
			line("flows", "%s", p.Flows)
		}
		if p.PersistentKeepalive > 0 {
			line("persistent keepalive", "every %s", longDuration(p.PersistentKeepalive))
		}
		line("session", "%s (%s)", p.Session, p.Text)
	}
	return b.String()
}

func joinPrefixes(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 {
		return "(none)"
	}
	texts := make([]string, len(prefixes))
	for i, p := range prefixes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// ago is what wg(8) prints of a time that lies so far back.
func ago(d time.Duration) string {
	switch {
	case d <= -time.Second:
		return "in the future: the machine's clock was set back"
	case d < time.Second:
		return "Now"
	}
	return longDuration(d) + " ago"
}

// longDuration is a duration in whole seconds, in wg(8)'s words.
func longDuration(d time.Duration) string {
	const day = 24 * time.Hour
	var parts []string
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{365 * day, "year"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch count := d / unit.size; {
		case count == 1:
			parts = append(parts, "1 "+unit.name)
		case count > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", count, unit.name))
		}
		d %= unit.size
	}
	if len(parts) == 0 {
		return "0 seconds"
	}
	return strings.Join(parts, ", ")
}

// showBytes is a number of bytes in wg(8)'s units.
func showBytes(n uint64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size := float64(n) / 1024
	for len(units) > 1 && size >= 1024 {
		size /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%.2f %s", size, units[0])
}
