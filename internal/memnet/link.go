// SPDX-License-Identifier: MIT

package memnet

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	defaultQueue = 256 << 10
	// defaultReorderDepth is the least at which TCP takes reordering for a loss (RFC 5681 section 3.2).
	defaultReorderDepth = 3
	defaultHold         = 10 * time.Millisecond

	maxCopies       = 100
	maxReorderDepth = 1 << 20
)

// A Link is the weather in one direction between two addresses. The zero value is perfect: it delivers everything at
// once and in order. Sizes are those of IP packets: a payload and 28 bytes of headers over IPv4, 48 over IPv6.
type Link struct {
	// Latency is how long a datagram is under way once it has been transmitted. 0 is no time.
	Latency time.Duration
	// Jitter is the most that is added to Latency, uniformly from 0. It does not reorder.
	Jitter time.Duration
	// Bandwidth is in bits per second. 0 has no limit.
	Bandwidth int64
	// Queue is the most that waits for Bandwidth, in bytes, the rest of what is being transmitted included. A datagram
	// that would make it longer is dropped, unless the queue is empty. 0 means 256 KiB. Without Bandwidth nothing
	// waits.
	Queue int

	// Loss, Corrupt, Duplicate and Reorder are probabilities from 0 to 1, each drawn for each datagram by itself.
	Loss float64
	// Corrupt flips one bit of the payload. Empty payloads stay as they are.
	Corrupt float64
	// Duplicate delivers Copies more, right behind the datagram.
	Duplicate float64
	// Copies is from 0 to 100. 0 means 1.
	Copies int
	// Reorder holds a datagram back until ReorderDepth others that are not held have gone by, or for Hold if too few
	// come.
	Reorder float64
	// ReorderDepth is from 0 to 1<<20. 0 means 3, the least at which TCP takes reordering for a loss.
	ReorderDepth int
	// Hold is the most that a datagram is held back for reordering. 0 means 10 ms.
	Hold time.Duration

	// MTU is the size of the largest packet that passes; larger ones are dropped, as by a path that sends no ICMP. 0
	// means no limit but UDP's own.
	MTU int
	// RefuseTooBig makes writes beyond the MTU fail with [syscall.EMSGSIZE], as when it is that of the sender's own
	// interface.
	RefuseTooBig bool

	// Down drops everything. See also [Network.Cut], which leaves the Link as it is.
	Down bool
}

// validate says what is wrong with a Link.
func (w *Link) validate() error {
	for _, p := range []struct {
		name  string
		value float64
	}{{"Loss", w.Loss}, {"Corrupt", w.Corrupt}, {"Duplicate", w.Duplicate}, {"Reorder", w.Reorder}} {
		if !(p.value >= 0 && p.value <= 1) { // so that NaN is refused
			return fmt.Errorf("%s is %v, it must be from 0 to 1", p.name, p.value)
		}
	}
	for _, p := range []struct {
		name       string
		value, max int64
	}{
		{"Latency", int64(w.Latency), int64(time.Hour)},
		{"Jitter", int64(w.Jitter), int64(time.Hour)},
		{"Hold", int64(w.Hold), int64(time.Hour)},
		{"Bandwidth", w.Bandwidth, 1 << 60},
		{"Queue", int64(w.Queue), 1 << 30},
		{"Copies", int64(w.Copies), maxCopies},
		{"ReorderDepth", int64(w.ReorderDepth), maxReorderDepth},
		{"MTU", int64(w.MTU), 1 << 30},
	} {
		if p.value < 0 || p.value > p.max {
			return fmt.Errorf("%s is %d, it must be from 0 to %d", p.name, p.value, p.max)
		}
	}
	return nil
}

// resolve fills in the defaults.
func (w Link) resolve() Link {
	setDefault(&w.Queue, defaultQueue)
	setDefault(&w.Copies, 1)
	setDefault(&w.ReorderDepth, defaultReorderDepth)
	setDefault(&w.Hold, defaultHold)
	return w
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// A pair names a link.
type pair struct{ from, to netip.Addr }

// A link is one direction between two addresses. Times are those of Network.now.
type link struct {
	net *Network
	key uint64 // seeds its fates

	mu       sync.Mutex // guards the rest
	weather  Link       // resolved
	explicit bool       // weather is the link's own, not the default
	cut      bool
	stats    Stats
	idle     time.Duration // when everything queued will have been transmitted
	last     time.Duration // the arrival of the last datagram that was put into pipe
	passed   uint64        // how many were put into pipe and had not been held
	held     queue         // held back for reordering, in the order of until and of after
	pipe     queue         // under way, in the order of arrival
	timer    *time.Timer   // runs fire; nil until it is first needed
	armed    time.Duration // when it fires, 0 if it is not pending
}

// write takes the payloads in, in their order, and delivers what is due. The caller holds net.mu for reading. It
// returns how many were taken before the first that was refused.
func (l *link) write(bufs [][]byte, from, to netip.AddrPort) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.net.now()
	l.release(now)
	defer l.deliver(now)
	for i, b := range bufs {
		if len(b) > maxPayload(to.Addr()) {
			return i, os.NewSyscallError("sendto", syscall.EMSGSIZE)
		}
		if err := l.transmit(now, b, from, to); err != nil {
			return i, err
		}
	}
	return len(bufs), nil
}

// filter accounts for payloads that the sender's NAT drops.
func (l *link) filter(bufs [][]byte, to netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range bufs {
		l.count(len(b) + overhead(to))
	}
	l.stats.Filtered += uint64(len(bufs))
}

// count gives the next datagram its number.
func (l *link) count(size int) (number uint64) {
	number = l.stats.Sent
	l.stats.Sent++
	l.stats.SentBytes += uint64(size)
	return number
}

// transmit puts one payload through the weather, into pipe or held.
func (l *link) transmit(now time.Duration, b []byte, from, to netip.AddrPort) error {
	w := &l.weather
	size := len(b) + overhead(to.Addr())
	number := l.count(size)
	switch {
	case l.cut || w.Down:
		l.stats.Cut++
		return nil
	case w.MTU > 0 && size > w.MTU:
		l.stats.TooBig++
		if w.RefuseTooBig {
			return os.NewSyscallError("sendto", syscall.EMSGSIZE)
		}
		return nil
	}
	departure := now
	if w.Bandwidth > 0 {
		start := max(now, l.idle)
		waiting := float64(start-now) * float64(w.Bandwidth) / 8e9
		if waiting > 0 && waiting+float64(size) > float64(w.Queue) {
			l.stats.QueueDrops++
			return nil
		}
		l.idle = start + time.Duration(float64(size)*8e9/float64(w.Bandwidth))
		departure = l.idle
	}
	f := fateOf(l.key, number, w)
	if f.lose {
		l.stats.Lost++
		return nil
	}
	delay := w.Latency + time.Duration(f.jitter*float64(w.Jitter))
	copies := 1
	if f.duplicate {
		copies += w.Copies
	}
	// What is due now is delivered before write returns, so it is under way for no time.
	waits := f.reorder || max(departure+delay, l.last) > now
	if waits && !l.net.charge(copies<<sizeClass(len(b))) {
		l.stats.QueueDrops++
		return nil
	}
	corrupt := f.corrupt && len(b) > 0
	for range copies {
		d := newDatagram(b, from, to)
		d.charged, d.delay = waits, delay
		if corrupt {
			bit := f.bit % (8 * uint64(len(b)))
			d.buf[bit/8] ^= 1 << (bit % 8)
		}
		if f.reorder {
			d.after, d.until = l.passed+uint64(w.ReorderDepth), departure+w.Hold
			l.held.push(d)
		} else {
			l.launch(d, departure)
		}
	}
	l.stats.InFlight += uint64(copies)
	l.stats.Duplicated += uint64(copies - 1)
	if corrupt {
		l.stats.Corrupted++
	}
	if f.reorder {
		l.stats.Reordered++
		return nil
	}
	l.passed++
	for l.held.head != nil && l.held.head.after <= l.passed {
		l.launch(l.held.pop(), departure)
	}
	return nil
}

// launch puts d into pipe, behind all that are there.
func (l *link) launch(d *datagram, departure time.Duration) {
	l.last = max(l.last, departure+d.delay)
	d.arrival = l.last
	l.pipe.push(d)
}

// release launches what has been held for long enough.
func (l *link) release(now time.Duration) {
	for l.held.head != nil && l.held.head.until <= now {
		d := l.held.pop()
		l.launch(d, d.until)
	}
}

// deliver delivers what has arrived, and sets the timer for the rest. The caller holds net.mu for reading.
func (l *link) deliver(now time.Duration) {
	for l.pipe.head != nil && l.pipe.head.arrival <= now {
		var run queue // of one sender to one receiver
		for first := l.pipe.head; l.pipe.head != nil && l.pipe.head.arrival <= now &&
			l.pipe.head.to == first.to && l.pipe.head.from == first.from; {
			run.push(l.take(&l.pipe))
		}
		l.hand(&run)
	}
	l.arm(now)
}

// take takes the first datagram out of pipe or held: it is under way no more.
func (l *link) take(q *queue) *datagram {
	d := q.pop()
	if d.charged {
		l.net.refund(d.memory())
		d.charged = false
	}
	l.stats.InFlight--
	return d
}

// hand gives a run to its receiver.
func (l *link) hand(run *queue) {
	c, filtered := l.net.receiver(run.head.from, run.head.to)
	count := uint64(run.len)
	switch {
	case c != nil:
		dropped := c.receive(run)
		l.stats.ReceiveDrops += dropped
		l.stats.Delivered += count - dropped
		return
	case filtered:
		l.stats.Filtered += count
	default:
		l.stats.Unreachable += count
	}
	run.clear()
}

// arm sets the timer for whatever is due next.
func (l *link) arm(now time.Duration) {
	var next time.Duration
	if d := l.pipe.head; d != nil {
		next = d.arrival
	}
	if d := l.held.head; d != nil && (next == 0 || d.until < next) {
		next = d.until
	}
	switch {
	case next == 0 || l.armed != 0 && l.armed <= next:
		return // nothing to wait for, or the timer comes by anyway
	case l.armed != 0 && !l.timer.Stop():
		return // fire is on its way and sets the timer
	case l.armed == 0:
		l.net.timers.Add(1)
	}
	l.armed = next
	if l.timer == nil {
		l.timer = time.AfterFunc(next-now, l.fire)
	} else {
		l.timer.Reset(next - now)
	}
}

// fire runs when the timer fires, in a goroutine that Network.Close waits for.
func (l *link) fire() {
	defer l.net.timers.Done()
	l.net.mu.RLock()
	defer l.net.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = 0
	if l.net.closed {
		return
	}
	now := l.net.now()
	l.release(now)
	l.deliver(now)
}

// set changes the weather, unless w is the default and the link has one of its own. What is under way arrives as it
// was to, and what is held goes on now. The caller holds net.mu for reading. w is valid.
func (l *link) set(w Link, explicit bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.explicit && !explicit {
		return
	}
	l.weather, l.explicit = w.resolve(), explicit
	now := l.net.now()
	for l.held.head != nil {
		l.launch(l.held.pop(), now)
	}
	l.deliver(now)
}

// stop drops what is under way. The caller holds net.mu for writing and has set net.closed.
func (l *link) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.armed != 0 && l.timer.Stop() {
		l.armed = 0
		l.net.timers.Done()
	}
	for _, q := range []*queue{&l.held, &l.pipe} {
		for q.head != nil {
			l.stats.Cut++
			l.take(q).free()
		}
	}
}
