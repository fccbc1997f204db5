// SPDX-License-Identifier: MIT

package wgnet

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/device"
)

// Where our index of a session is in the messages of the WireGuard paper, section 5.4: we are the sender of the response
// (5.4.3) and the receiver of data (5.4.6).
const (
	senderOffset   = 4
	receiverOffset = 4
)

// confirmations are the handshakes that we have answered, until the first packet under the new keys: there is no session
// before (key confirmation, WireGuard paper, section 5.4.6). Until then the peer may go on under the old keys, which
// confirms nothing: the other side may never have got our answer.
//
// Which keys a packet came under is told by our index in its message, which we choose: it is on the wire in our answer.
// The device writes the packet with its message's header still before it. It tells of a keepalive without a word about
// its keys; that one was under the new ones is taken from two things: the peer has sent a keepalive, and a message of that
// form with the new index came in. A stranger on the path can forge the second for an honest keepalive under the old keys.
// All that he gets is that the gate opens a moment early: the device sends under the old keys then, or lets wait.
type confirmations struct {
	pending atomic.Int32 // how many there are: the packet path looks no further while there are none

	mu       sync.Mutex // guards what follows, and the fields of each confirmation that say so
	begun    []*confirmation
	answered map[uint32]*confirmation // by our index
}

// confirmation is one of them. A link has one at most.
type confirmation struct {
	link *link
	key  PublicKey

	index     uint32 // ours, once it is among those answered; guarded by confirmations.mu
	keepalive bool   // a message with that index and without content has come; guarded by confirmations.mu
}

// begin notes an initiation of a peer. It ends what there was to confirm.
func (c *confirmations) begin(p *peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(p.link)
	pending := &confirmation{link: p.link, key: p.PublicKey}
	p.confirming.Store(pending)
	c.begun = append(c.begun, pending)
	c.pending.Add(1)
}

// end forgets what is to be confirmed.
func (c *confirmations) end(l *link) {
	if l.confirming.Load() == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(l)
}

// endLocked is end. The caller holds c.mu.
func (c *confirmations) endLocked(l *link) {
	pending := l.confirming.Swap(nil)
	if pending == nil {
		return
	}
	c.pending.Add(-1)
	if c.answered[pending.index] == pending {
		delete(c.answered, pending.index)
	}
	c.begun = slices.DeleteFunc(c.begun, func(other *confirmation) bool { return other == pending })
}

// answer learns our index from a handshake response that is about to be sent. Whom it is for is told by its first MAC,
// which is keyed with the recipient's public key (WireGuard paper, section 5.4.4).
func (c *confirmations) answer(response []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, pending := range c.begun {
		var mac device.CookieChecker
		mac.Init(device.NoisePublicKey(pending.key))
		if !mac.CheckMAC1(response) {
			continue
		}
		pending.index = binary.LittleEndian.Uint32(response[senderOffset:])
		if c.answered == nil {
			c.answered = map[uint32]*confirmation{}
		}
		c.answered[pending.index] = pending
		c.begun = slices.Delete(c.begun, i, i+1)
		return
	}
}

// arrived notes a message without content that came from the network, from whomever.
func (c *confirmations) arrived(keepalive []byte) {
	if c.pending.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if pending := c.answered[binary.LittleEndian.Uint32(keepalive[receiverOffset:])]; pending != nil {
		pending.keepalive = true
	}
}

// confirmedBy says whether one of a peer's authentic messages is the first under the new keys.
func (c *confirmations) confirmedBy(l *link, messages [][]byte) bool {
	return c.confirm(l, func(pending *confirmation) bool {
		return slices.ContainsFunc(messages, func(m []byte) bool {
			return binary.LittleEndian.Uint32(m[receiverOffset:]) == pending.index
		})
	})
}

// confirmedByKeepalive is confirmedBy for a keepalive.
func (c *confirmations) confirmedByKeepalive(l *link) bool {
	return c.confirm(l, func(pending *confirmation) bool { return pending.keepalive })
}

func (c *confirmations) confirm(l *link, by func(*confirmation) bool) bool {
	if l.confirming.Load() == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pending := l.confirming.Load()
	if pending == nil || c.answered[pending.index] != pending || !by(pending) {
		return false
	}
	c.endLocked(l)
	return true
}
