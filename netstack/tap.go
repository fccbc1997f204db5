// SPDX-License-Identifier: MIT

package netstack

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxTaps is how many taps a [Stack] has at most: each one costs every packet something.
const MaxTaps = 8

// TappedPacket is a packet between a [Stack] and the device.
type TappedPacket struct {
	// Data begins with the IP header. It is complete, no larger than the device takes, and valid during the call only.
	Data []byte
	// Peer serves the address on the packet's other side, if Known; what comes may be from an address that is nobody's now.
	Peer     PeerID
	Known    bool
	Outbound bool
}

// AddTap has f called with each packet that [Device.Read] returns and [Device.Write] is given, as it is on the wire: after
// segments are cut, and before they are put together, checked or dropped. f is called from several goroutines at once and
// must not block, nor call the stack. It may still be called for a moment after remove, which does not wait and may be
// called again. The error is that there are MaxTaps.
func (s *Stack) AddTap(f func(TappedPacket)) (remove func(), err error) {
	t := &tap{f}
	if !s.taps.add(t) {
		return nil, fmt.Errorf("netstack: there are %d taps already: remove one", MaxTaps)
	}
	return func() { s.taps.remove(t) }, nil
}

// tap has an identity, which a function has not.
type tap struct{ see func(TappedPacket) }

// tapList are the taps of a stack. The packet path pays one atomic load for a list that is empty. The zero value is ready.
type tapList struct {
	mu   sync.Mutex             // orders changes of taps
	taps atomic.Pointer[[]*tap] // nil if there are none. What it points to never changes.
}

func (l *tapList) load() []*tap {
	if taps := l.taps.Load(); taps != nil {
		return *taps
	}
	return nil
}

func (l *tapList) add(t *tap) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	taps := append(slices.Clone(l.load()), t)
	if len(taps) > MaxTaps {
		return false
	}
	l.taps.Store(&taps)
	return true
}

func (l *tapList) remove(t *tap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	taps := slices.DeleteFunc(slices.Clone(l.load()), func(other *tap) bool { return other == t })
	if len(taps) == 0 {
		l.taps.Store(nil)
	} else {
		l.taps.Store(&taps)
	}
}

// tapInbound shows what the device hands over. It has checked the lengths of addresses, and nothing else.
func (s *Stack) tapInbound(bufs [][]byte, offset int) {
	taps := s.taps.load()
	if taps == nil {
		return
	}
	routes := s.routes.Load()
	for _, buf := range bufs {
		if len(buf) <= offset {
			continue
		}
		p := TappedPacket{Data: buf[offset:]}
		if src, ok := rawSource(p.Data); ok {
			p.Peer, p.Known = routes.lookup(src)
		}
		showTo(taps, p)
	}
}

func showTo(taps []*tap, p TappedPacket) {
	for _, t := range taps {
		t.see(p)
	}
}

// rawSource is the source address by which the device has found the peer, also of a packet that is not well-formed.
func rawSource(packet []byte) (netip.Addr, bool) {
	switch {
	case packet[0]>>4 == 4 && len(packet) >= 20:
		return netip.AddrFrom4([4]byte(packet[12:16])), true
	case packet[0]>>4 == 6 && len(packet) >= 40:
		return netip.AddrFrom16([16]byte(packet[8:24])), true
	}
	return netip.Addr{}, false
}
