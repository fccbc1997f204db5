// SPDX-License-Identifier: MIT

package netstack

import (
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	// senderPause is the time between two looks at the connections, while there is data under way.
	senderPause = 500 * time.Millisecond
	// segmentsInWindow is how many segments a congestion window is to have. A segment is acknowledged, or taken for lost,
	// as a whole: what gVisor knows of a window's losses is no finer.
	segmentsInWindow = 8
	// firstSegment is how many packets the first segments of a connection have.
	firstSegment = 8
	// maxSegment is the most that a segment can have, in bytes with its headers: what the IPv4 total length can say.
	maxSegment = 65_535
	// segmentHeaders is what gVisor takes off a segment's greatest size for headers (sendData in tcp/snd.go), in bytes.
	segmentHeaders = header.TCPTotalHeaderMaximumSize + 1
)

// senderWatch does for TCP senders what gVisor's do not: it sees to it that data under way has a timer, it has a recovery
// that lasts end by other means, and it fits the size of segments to the path. There is no public way to any of it. This file is the only one that looks into gVisor's
// private fields, each time with the endpoint's lock; if they are not what it knows, the stack does without RACK, with
// which a timer can be missing, and segments keep their first size.
//
// The timer: a sender has to have one for as long as data is unacknowledged (RFC 6298, section 5.1). gVisor's arms one
// only if it believes that packets are in flight (sender.Outstanding and postXmit in tcp/snd.go). It loses count of them in
// RACK's recovery: what it sends again (rackControl.DoRecovery in tcp/rack.go) is above the highest retransmission that
// SetPipe knows of, so it is not added, and its acknowledgment takes it off all the same. With the count at zero, the timer
// gives way to a tail loss probe (RFC 8985, section 7), and is not armed after it. So where the end of a transfer is lost
// after a recovery, the probe is the last that is ever sent, and if that does not fill the only gap the connection stands
// still for ever. What is done then is RFC 6298's: gVisor's own handler of the timer is called as if it had expired.
//
// The recovery: when a queue on the path overflows, all of a window's end is lost. RACK finds that out when something that
// was sent again is acknowledged, but SetPipe goes by the rules of RFC 6675, for which data is lost only if later data has
// arrived: so it takes the end of the window for packets in flight, which are more than the window allows, and nothing
// more is sent until the retransmission timer. After that it begins anew, two packets a time-out, for minutes. So RACK has
// until the second look at a recovery; then it is switched off for that connection until it has recovered. Recovery is
// RFC 6675's meanwhile, and after a time-out slow start over what is not acknowledged (RFC 5681, section 3.1).
//
// The size: large segments cost the least, 64 KiB a fifth less than eight packets. But gVisor fills the window with one if
// it can, and where packets are lost windows are small: all that is in flight is one segment, no part of which can be found
// lost, and only time-outs repair it. So segments are a part of the congestion window, as they are in Linux.
type senderWatch struct {
	endpoints func() []stack.TransportEndpoint // nil turns the watch off

	armed   atomic.Bool
	timer   *time.Timer
	revived atomic.Uint64 // how often a timer was missing

	// mu guards what follows, and is held by a round, for which close waits. Lock order: mu, transit.mu, gVisor's locks,
	// link.mu.
	mu     sync.Mutex
	closed bool
	last   map[*tcp.Endpoint]glance // what the last round has found out of the ordinary
}

// glance is what a round has found out of the ordinary about a connection.
type glance struct {
	recovering bool
	recoverTo  uint32 // the last sequence number that the recovery is about
	untimed    bool   // data is under way, and there is no timer
	unacked    uint32 // the first of that data
}

func newSenderWatch(endpoints func() []stack.TransportEndpoint) *senderWatch {
	w := &senderWatch{endpoints: endpoints}
	w.timer = time.AfterFunc(time.Hour, w.round) // stopped by close
	w.timer.Stop()
	return w
}

// sent notes that a connection has sent data. It is called for every segment, with the link's lock held.
func (w *senderWatch) sent() {
	if w.endpoints != nil && !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(senderPause)
	}
}

// round looks at all connections, and comes again while one has data under way.
func (w *senderWatch) round() {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := senderFields()
	if w.closed || at == nil {
		return
	}
	w.armed.Store(false)
	found := map[*tcp.Endpoint]glance{}
	for _, ep := range w.endpoints() {
		ep, ok := ep.(*tcp.Endpoint)
		if !ok {
			continue
		}
		now, underWay, expire := at.look(ep, w.last[ep])
		if now != (glance{}) {
			found[ep] = now
		}
		if expire != nil {
			w.revived.Add(1)
			expire()
		}
		if underWay {
			w.sent()
		}
	}
	w.last = found
}

// close ends the watch. Nothing is sent any more when it is called.
func (w *senderWatch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.timer.Stop()
}

// look sets the size of a connection's segments, and how it recovers, and says whether data is under way. If there is no
// timer for it since the last round, when before was found, expire is the handler of the retransmission timer, which wants
// the endpoint's lock itself. A single look tells too little: an acknowledgment may be on its way, which arms the timer.
func (at *senderOffsets) look(ep *tcp.Endpoint, before glance) (now glance, underWay bool, expire func()) {
	ep.LockUser()
	defer ep.UnlockUser()
	endpoint := unsafe.Pointer(ep)
	sender := *field[unsafe.Pointer](endpoint, at.sender)
	if sender == nil {
		return now, false, nil
	}
	switch *field[tcpip.CongestionControlState](sender, at.congestion) {
	case tcpip.RTORecovery, tcpip.FastRecovery, tcpip.SACKRecovery:
		now.recovering, now.recoverTo = true, *field[uint32](sender, at.recoverTo)
		if before.recovering && before.recoverTo == now.recoverTo {
			*field[tcpip.TCPRecovery](endpoint, at.recovery) = 0
		}
	default:
		*field[tcpip.TCPRecovery](endpoint, at.recovery) = recoveryOption()
	}
	if *field[uint32](sender, at.unacked) == *field[uint32](sender, at.next) {
		return now, false, nil
	}
	packets := *field[int](sender, at.window) / segmentsInWindow
	*field[uint32](endpoint, at.segment) = segmentSize(packets, *field[int](sender, at.payload))
	for _, timer := range at.timers {
		if *field[int](sender, timer+at.state) == timerEnabled {
			return now, true, nil
		}
	}
	now.untimed, now.unacked = true, *field[uint32](sender, at.unacked)
	if !before.untimed || before.unacked != now.unacked {
		return now, true, nil
	}
	// Once the connection has ended it is nil, or finds nothing to send. A timer that was disabled and still runs has to be
	// called twice; the next round is soon enough.
	return now, true, *field[func()](sender, at.timers[0]+at.callback)
}

// segmentSize is what gVisor has to be told for segments of some packets, each with as much payload.
func segmentSize(packets, payload int) uint32 {
	return uint32(min(max(1, packets)*payload+segmentHeaders, maxSegment))
}

// timerEnabled is timerStateEnabled of tcp/timer.go.
const timerEnabled = 2

// senderOffsets are where gVisor has what look looks at.
type senderOffsets struct {
	sender, segment, recovery      uintptr    // in an endpoint
	unacked, next, window, payload uintptr    // in a sender: what is under way, and cwnd in packets of some payload
	congestion, recoverTo          uintptr    // in a sender: its state, and what is to be acknowledged for that to end
	timers                         [3]uintptr // in a sender, that for retransmission first
	state, callback                uintptr    // in a timer
}

// senderFields is nil if gVisor's fields are not what this file knows.
var senderFields = sync.OnceValue(func() *senderOffsets {
	missing := false
	// find returns the type of a field of a field, and where it is.
	find := func(in reflect.Type, kind reflect.Kind, names ...string) (reflect.Type, uintptr) {
		offset := uintptr(0)
		for _, name := range names {
			f, ok := reflect.StructField{}, false
			if in.Kind() == reflect.Struct {
				f, ok = in.FieldByName(name)
			}
			if !ok || len(f.Index) != 1 {
				missing = true
				return in, 0
			}
			in, offset = f.Type, offset+f.Offset
		}
		missing = missing || in.Kind() != kind
		return in, offset
	}
	endpoint := reflect.TypeFor[tcp.Endpoint]()
	var at senderOffsets
	var sender, timer reflect.Type
	sender, at.sender = find(endpoint, reflect.Pointer, "snd")
	if missing {
		return nil
	}
	sender = sender.Elem()
	_, at.segment = find(endpoint, reflect.Uint32, "gso", "MaxSize")
	_, at.recovery = find(endpoint, reflect.TypeFor[tcpip.TCPRecovery]().Kind(), "tcpRecovery")
	_, at.congestion = find(sender, reflect.TypeFor[tcpip.CongestionControlState]().Kind(), "state")
	_, at.recoverTo = find(sender, reflect.Uint32, "TCPSenderState", "FastRecovery", "Last")
	_, at.unacked = find(sender, reflect.Uint32, "TCPSenderState", "SndUna")
	_, at.next = find(sender, reflect.Uint32, "TCPSenderState", "SndNxt")
	_, at.window = find(sender, reflect.Int, "TCPSenderState", "SndCwnd")
	_, at.payload = find(sender, reflect.Int, "TCPSenderState", "MaxPayloadSize")
	for i, name := range []string{"resendTimer", "probeTimer", "reorderTimer"} {
		timer, at.timers[i] = find(sender, reflect.Struct, name)
	}
	_, at.state = find(timer, reflect.Int, "state")
	_, at.callback = find(timer, reflect.Func, "callback")
	if missing {
		return nil
	}
	return &at
})

// field is what lies at an offset of a struct.
func field[T any](base unsafe.Pointer, offset uintptr) *T { return (*T)(unsafe.Add(base, offset)) }
