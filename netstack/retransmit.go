// SPDX-License-Identifier: MIT

package netstack

import (
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// retransmitPause is the time between two looks at the connections, while there is data under way.
const retransmitPause = 500 * time.Millisecond

// retransmitWatch sends again for TCP connections that have data under way and no timer at all, which gVisor brings about
// with RACK. Without it such a connection stands still for ever: neither side has anything to say.
//
// A sender has to have a timer for as long as data is unacknowledged (RFC 6298, section 5.1). gVisor's arms one only if it
// believes that packets are in flight (sender.Outstanding in tcp/snd.go, postXmit). It loses count of them in RACK's
// recovery: what it sends again (rackControl.DoRecovery in tcp/rack.go) is above the highest retransmission that SetPipe
// knows of, so it is not added, and its acknowledgment takes it off all the same. With the count at zero, the timer gives
// way to a tail loss probe (RFC 8985, section 7), and is not armed after it. So where the end of a transfer is lost after
// a recovery, its probe is all that is ever sent, and one that is lost or does not fill the only gap is the last.
//
// What to do then is RFC 6298's: gVisor's own handler of the timer is called as if it had expired. There is no public way
// to that; this file is the only one that looks into gVisor's private fields, and if they are not what it knows, the
// stack does without RACK, and so without the fault.
type retransmitWatch struct {
	endpoints func() []stack.TransportEndpoint // nil turns the watch off

	armed   atomic.Bool
	timer   *time.Timer
	revived atomic.Uint64 // how often a timer was missing

	mu     sync.Mutex // guards closed, and is held by a round, for which close waits. Lock order: mu, gVisor's, the link's.
	closed bool
}

func newRetransmitWatch(endpoints func() []stack.TransportEndpoint) *retransmitWatch {
	w := &retransmitWatch{endpoints: endpoints}
	w.timer = time.AfterFunc(time.Hour, w.round) // stopped by close
	w.timer.Stop()
	return w
}

// sent notes that a connection has sent data. It is called for every segment, with the link's lock held.
func (w *retransmitWatch) sent() {
	if w.endpoints != nil && !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(retransmitPause)
	}
}

// round looks at all connections, and comes again while one has data under way.
func (w *retransmitWatch) round() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.armed.Store(false)
	for _, ep := range w.endpoints() {
		ep, ok := ep.(*tcp.Endpoint)
		if !ok {
			continue
		}
		unacked, expire := retransmission(ep)
		if expire != nil {
			w.revived.Add(1)
			expire()
		}
		if unacked {
			w.sent()
		}
	}
}

// close ends the watch. Nothing is sent any more when it is called.
func (w *retransmitWatch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.timer.Stop()
}

// retransmission says whether a connection has unacknowledged data. If it has no timer for it, expire is the handler of
// its retransmission timer. It waits for the endpoint's lock, and returns without it.
func retransmission(ep *tcp.Endpoint) (unacked bool, expire func()) {
	at := senderFields()
	if at == nil {
		return false, nil
	}
	ep.LockUser()
	defer ep.UnlockUser()
	sender := *field[unsafe.Pointer](unsafe.Pointer(ep), at.sender)
	if sender == nil || *field[uint32](sender, at.una) == *field[uint32](sender, at.next) {
		return false, nil
	}
	for _, timer := range at.timers {
		if *field[int](sender, timer+at.state) == timerEnabled {
			return true, nil
		}
	}
	// It is nil once the connection has ended. A timer that was disabled and still runs has to be called twice; the next
	// round is soon enough.
	return true, *field[func()](sender, at.timers[0]+at.callback)
}

// timerEnabled is timerStateEnabled of tcp/timer.go.
const timerEnabled = 2

// senderOffsets are where gVisor has what retransmission looks at: the sender in an endpoint, the rest in the sender.
type senderOffsets struct {
	sender, una, next uintptr
	timers            [3]uintptr // the retransmission timer is the first
	state, callback   uintptr    // in a timer
}

// senderFields is nil if gVisor's fields are not what this file knows.
var senderFields = sync.OnceValue(func() *senderOffsets {
	missing := false
	// find returns a field of a struct, also of one embedded in it.
	find := func(in reflect.Type, kind reflect.Kind, names ...string) (reflect.Type, uintptr) {
		offset := uintptr(0)
		for i, name := range names {
			want := reflect.Struct
			if i == len(names)-1 {
				want = kind
			}
			f, ok := reflect.StructField{}, false
			if in.Kind() == reflect.Struct {
				f, ok = in.FieldByName(name)
			}
			if !ok || len(f.Index) != 1 || f.Type.Kind() != want {
				missing = true
				return reflect.TypeFor[*struct{}](), 0
			}
			in, offset = f.Type, offset+f.Offset
		}
		return in, offset
	}
	var at senderOffsets
	ref, offset := find(reflect.TypeFor[tcp.Endpoint](), reflect.Pointer, "snd")
	sender := ref.Elem()
	at.sender = offset
	_, at.una = find(sender, reflect.Uint32, "TCPSenderState", "SndUna")
	_, at.next = find(sender, reflect.Uint32, "TCPSenderState", "SndNxt")
	var timer reflect.Type
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
