// SPDX-License-Identifier: MIT

package netstack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A link alone has no gVisor goroutines, so these tests may run in synctest's time, which costs nothing and is exact.

// queueTest is a link with peers 1 to 9, who serve 10.0.N.0/24, and a reader's buffers.
type queueTest struct {
	*link
	tb       testing.TB
	released atomic.Int32
	made     int32

	askedMu sync.Mutex // guards asked
	asked   []PeerID   // by the reader
}

func newQueueTest(tb testing.TB, gated bool, maxInFlight int) *queueTest {
	s := &Stack{done: make(chan struct{})}
	s.silence, s.senders = newSilenceWatch(&s.routes, nil), newSenderWatch(nil)
	q := &queueTest{tb: tb}
	cfg := Config{MTU: DefaultMTU, MaxInFlight: maxInFlight}
	if gated {
		cfg.NeedSession = func(p PeerID) {
			q.wait(p) // takes the link's lock
			q.askedMu.Lock()
			defer q.askedMu.Unlock()
			q.asked = append(q.asked, p)
		}
	}
	s.routes.Store(newRouteTable(testRoutes(1, 9)))
	q.link = newLink(s, cfg)
	return q
}

// requests are the peers that a session was asked for with.
func (q *queueTest) requests() []PeerID {
	q.askedMu.Lock()
	defer q.askedMu.Unlock()
	return slices.Clone(q.asked)
}

func testRoutes(first, last PeerID) (routes []Route) {
	for p := first; p <= last; p++ {
		routes = append(routes, Route{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(p), 0}), 24), p})
	}
	return routes
}

// packet makes a packet of a flow to a peer; what is to be read of it is number.
func (q *queueTest) packet(class packetClass, peer PeerID, flow uint16, number, size int) *stack.PacketBuffer {
	q.made++
	p := base4()
	p.dst, p.sport, p.options = netip.AddrFrom4([4]byte{10, 0, byte(peer), 1}), flow, nil
	p.seq = uint32(number)
	p.payload = nil
	switch class {
	case classStream:
		p.payload = make([]byte, size)
	case classControl:
		p.flags |= rst
	}
	pkt := p.buffered(1380, &q.released)
	if class == classDatagram {
		// The same bytes: only the mark is looked at.
		pkt.TransportProtocolNumber = header.UDPProtocolNumber
	}
	if class != classStream {
		pkt.GSOOptions = stack.GSO{}
	}
	return pkt
}

func (q *queueTest) write(pkts ...*stack.PacketBuffer) {
	var list stack.PacketBufferList
	for _, pkt := range pkts {
		list.PushBack(pkt)
	}
	if _, err := q.WritePackets(list); err != nil {
		q.tb.Errorf("WritePackets: %v", err)
	}
	list.Reset()
}

// datagrams writes n datagrams of one flow, with numbers from first.
func (q *queueTest) datagrams(peer PeerID, flow uint16, first, n int) {
	for i := range n {
		q.write(q.packet(classDatagram, peer, flow, first+i, 0))
	}
}

// got is a packet that was read.
type got struct {
	peer   PeerID
	flow   uint16
	number int
}

// reader reads as a device does, a batch at a time.
type reader struct {
	q      *queueTest
	bufs   [][]byte
	sizes  []int
	timer  *time.Timer
	closed chan struct{}
}

func (q *queueTest) reader() *reader {
	r := &reader{q: q, bufs: make([][]byte, batchSize), sizes: make([]int, batchSize), closed: make(chan struct{})}
	for i := range r.bufs {
		r.bufs[i] = make([]byte, DefaultMTU)
	}
	r.timer = time.NewTimer(0)
	r.timer.Stop()
	return r
}

// read waits for packets.
func (r *reader) read() ([]got, error) {
	n, err := r.q.read(r.bufs, r.sizes, 0, r.closed, r.timer)
	return r.parse(n), err
}

// poll does not wait for packets.
func (r *reader) poll() []got {
	n, _ := r.q.take(r.bufs, r.sizes, 0)
	r.q.askForSessions()
	return r.parse(n)
}

// all polls until there is nothing more.
func (r *reader) all() (all []got) {
	for {
		list := r.poll()
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
}

func (r *reader) parse(n int) (list []got) {
	for _, b := range r.bufs[:n] {
		list = append(list, got{PeerID(b[18]), binary.BigEndian.Uint16(b[20:]), int(binary.BigEndian.Uint32(b[24:]))})
	}
	return list
}

// runs writes a list as peers with how many packets of each came in a row.
func runs(list []got) (s string) {
	for i := 0; i < len(list); {
		n := 1
		for i+n < len(list) && list[i+n].peer == list[i].peer {
			n++
		}
		s += fmt.Sprintf("%d x%d ", list[i].peer, n)
		i += n
	}
	return s
}

func numbers(list []got) (n []int) {
	for _, g := range list {
		n = append(n, g.number)
	}
	return n
}

func sequence(first, n int) (list []int) {
	for i := range n {
		list = append(list, first+i)
	}
	return list
}

// Peers take turns, a batch each.
func TestPeersTakeTurns(t *testing.T) {
	q := newQueueTest(t, false, 0)
	q.datagrams(1, 5, 0, 100)
	q.datagrams(2, 5, 0, 20)
	q.datagrams(3, 5, 0, 1)
	want := "1 x16 2 x16 3 x1 1 x15 2 x4 1 x69 "
	if s := runs(q.reader().all()); s != want {
		t.Errorf("served %s, want %s", s, want)
	}
}

// A segment that is cut into several batches is one turn: the others do not wait for more than one.
func TestSegmentsTakeTurns(t *testing.T) {
	q := newQueueTest(t, false, 0)
	for i := range 3 {
		q.write(q.packet(classStream, 1, 5, i, 45*1380), q.packet(classStream, 2, 5, i, 45*1380))
	}
	q.datagrams(3, 5, 0, 1)
	list := q.reader().all()
	at := slices.IndexFunc(list, func(g got) bool { return g.peer == 3 })
	if at < 0 || at > 2*45+batchSize {
		t.Errorf("peer 3 was served after %d packets: %s", at, runs(list))
	}
	if n := len(list); n != 6*45+1 {
		t.Errorf("%d packets, want %d", n, 6*45+1)
	}
	for _, g := range list[:45] {
		if g.peer != 1 {
			t.Fatalf("the first segment was mixed with others: %s", runs(list))
		}
	}
}

// A ping, or another connection, does not wait for all that a bulk transfer to the same peer has put before it.
func TestFlowsTakeTurns(t *testing.T) {
	q := newQueueTest(t, false, 0)
	for i := range 50 {
		q.write(q.packet(classStream, 1, 5, i, 45*1380))
	}
	other := uint16(6) // a port with another lane
	for laneOf(q.packet(classAck, 1, other, 0, 0)) == laneOf(q.packet(classAck, 1, 5, 0, 0)) {
		other++
	}
	q.write(q.packet(classAck, 1, other, 1000, 0))
	list := q.reader().all()
	if at := slices.IndexFunc(list, func(g got) bool { return g.flow == other }); at < 0 || at > 3*45 {
		t.Errorf("the other flow's packet came after %d packets, want at most three segments", at)
	}
}

// Lanes share by packets on the wire, not by what the stack calls a packet: datagrams beside a bulk transfer get half.
func TestFlowsShareEqually(t *testing.T) {
	q := newQueueTest(t, false, 0)
	for i := range 50 {
		q.write(q.packet(classStream, 1, 5, i, 45*1380))
	}
	q.datagrams(1, 6, 0, 900)
	datagrams := 0
	list := q.reader().all()
	for _, g := range list[:1000] {
		if g.flow == 6 {
			datagrams++
		}
	}
	if datagrams < 400 || datagrams > 600 {
		t.Errorf("%d of the first 1,000 packets were datagrams, want about half", datagrams)
	}
}

// The packets of a flow stay in order, and none is lost, whatever else waits.
func TestFlowsStayInOrder(t *testing.T) {
	q := newQueueTest(t, false, 0)
	r, rng := q.reader(), rand.New(rand.NewPCG(1, 2))
	type flow struct {
		peer PeerID
		port uint16
	}
	sent, received := map[flow]int{}, map[flow]int{}
	check := func(list []got) {
		for _, g := range list {
			f := flow{g.peer, g.flow}
			if g.number != received[f] {
				t.Fatalf("flow %v: number %d, want %d", f, g.number, received[f])
			}
			received[f]++
		}
	}
	for range 5000 {
		f := flow{PeerID(1 + rng.IntN(3)), uint16(1 + rng.IntN(20))}
		class := classDatagram
		if f.port%2 == 0 {
			class = classAck
		}
		q.write(q.packet(class, f.peer, f.port, sent[f], 0))
		sent[f]++
		if rng.IntN(20) == 0 {
			check(r.poll())
		}
	}
	check(r.all())
	for f, n := range sent {
		if received[f] != n {
			t.Errorf("flow %v: %d packets, want %d", f, received[f], n)
		}
	}
}

// The bounds on what nobody waits for are each peer's own: one that is flooded does not cost others their resets.
func TestControlBoundsArePerPeer(t *testing.T) {
	q := newQueueTest(t, false, 0)
	for i := range maxControlPackets + 10 {
		q.write(q.packet(classControl, 1, 5, i, 0))
	}
	q.write(q.packet(classControl, 2, 5, 0, 0))
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.queues[1].size; n != maxControlPackets || q.dropped != 10 {
		t.Errorf("%d packets wait and %d were dropped, want %d and 10", n, q.dropped, maxControlPackets)
	}
	if n := q.queues[2].size; n != 1 {
		t.Errorf("%d packets for the other peer, want 1", n)
	}
}

// fault 70: without a session the newest 16 packets wait, and nothing goes out.
func TestGateKeepsTheNewest(t *testing.T) {
	q := newQueueTest(t, true, 0)
	r := q.reader()
	for i := range 5_000 {
		if q.wait(1) != nil {
			t.Fatalf("the writer of datagram %d has to wait for a dead peer", i)
		}
		q.datagrams(1, uint16(i%50), i, 1)
	}
	if list := r.poll(); len(list) > 0 {
		t.Fatalf("read %v without a session", list)
	}
	if waiting := q.made - q.released.Load(); waiting != maxWaiting {
		t.Errorf("%d packets are held, want %d", waiting, maxWaiting)
	}
	q.setSession(1, q.now()+time.Minute)
	list := numbers(r.all())
	slices.Sort(list) // flows may have overtaken one another
	if want := sequence(5_000-maxWaiting, maxWaiting); !slices.Equal(list, want) {
		t.Errorf("with a session came %v, want %v", list, want)
	}
	if held := q.made - q.released.Load(); held != 0 {
		t.Errorf("%d packets are still held", held)
	}
}

// A session is asked for once a second for as long as packets wait, and they wait for 90 s; never with a lock held, which
// the test's NeedSession would stop at.
func TestGateAsksAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueTest(t, true, 0)
		r := q.reader()
		var wg sync.WaitGroup
		wg.Go(func() { // ended by close
			if list, err := r.read(); len(list) > 0 || err == nil {
				t.Errorf("read %v, %v", list, err)
			}
		})
		begin := time.Now()
		for i := range 100 {
			q.datagrams(1, 5, i, 1)
			q.datagrams(2, 5, i, 1)
			synctest.Wait()
		}
		if !slices.Equal(q.requests(), []PeerID{1, 2}) {
			t.Fatalf("asked for %v at once, want 1 and 2", q.requests())
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if len(q.requests()) != 2*11 {
			t.Fatalf("asked %d times in 10 s, want 11 for each peer", len(q.requests()))
		}
		time.Sleep(200 * time.Second)
		synctest.Wait()
		if n := len(q.requests()); n != 2*90 {
			t.Errorf("asked %d times in all, want 90 for each peer", n)
		}
		if held := q.made - q.released.Load(); held != 0 {
			t.Errorf("%d packets wait after %v", held, time.Since(begin))
		}
		q.close()
		wg.Wait()
	})
}

// The gate closes when the session's time is over and when it is taken back, whether the reader sleeps or is held up by
// packets in flight; the reader then asks for another session at once, and opens with it.
func TestGateCloses(t *testing.T) {
	tests := []struct {
		name string
		end  func(q *queueTest)
	}{
		{"its time is over", func(*queueTest) { time.Sleep(time.Second) }},
		{"taken back", func(q *queueTest) { q.setSession(1, time.Time{}.Sub(q.begin)) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueueTest(t, true, batchSize)
				r := q.reader()
				q.setSession(1, q.now()+time.Second)
				q.datagrams(1, 5, 0, 100)
				if list, err := r.read(); len(list) != batchSize || err != nil {
					t.Fatalf("read %d packets, %v", len(list), err)
				}
				var wg sync.WaitGroup
				q.beginSend(1) // the device's, which takes its time
				wg.Go(func() {
					list, err := r.read() // the session ends while this waits for the batch to be sent
					if want := sequence(100-maxWaiting, maxWaiting); !slices.Equal(numbers(list), want) || err != nil {
						t.Errorf("read %v, %v, want %v", numbers(list), err, want)
					}
				})
				synctest.Wait()
				test.end(q)
				q.sent(1, batchSize)
				synctest.Wait()
				if !slices.Equal(q.requests(), []PeerID{1}) {
					t.Errorf("asked for %v, want for 1", q.requests())
				}
				if held := q.made - q.released.Load(); held != maxWaiting {
					t.Errorf("%d packets wait, want %d", held, maxWaiting)
				}
				q.setSession(1, q.now()+time.Second)
				wg.Wait()
				q.close()
			})
		})
	}
}

// A queue that nobody reads is cut down when its session ends, though it has its turn.
func TestGateClosesOnAQueueInTurn(t *testing.T) {
	q := newQueueTest(t, true, 0)
	q.setSession(1, q.now()+time.Minute)
	q.datagrams(1, 5, 0, 100)
	q.setSession(1, 0)
	q.datagrams(1, 5, 100, 1)
	if held := q.made - q.released.Load(); held != maxWaiting {
		t.Errorf("%d packets wait, want %d", held, maxWaiting)
	}
	if list := q.reader().all(); len(list) != 0 || len(q.requests()) != 1 {
		t.Errorf("read %d packets and asked for %v", len(list), q.requests())
	}
}

// A writer to a live peer waits for its reader; those to others, and to peers without a session, do not.
func TestRoomIsPerPeer(t *testing.T) {
	q := newQueueTest(t, true, 0)
	for p := PeerID(1); p <= 2; p++ {
		q.setSession(p, q.now()+time.Minute)
	}
	q.datagrams(1, 5, 0, maxDatagramPackets)
	q.datagrams(3, 5, 0, maxDatagramPackets)
	room := q.wait(1)
	if room == nil || q.wait(2) != nil || q.wait(3) != nil || q.wait(4) != nil {
		t.Fatalf("want a wait for peer 1 alone: %v %v %v %v", room, q.wait(2), q.wait(3), q.wait(4))
	}
	r := q.reader()
	for !isClosed(room) {
		if len(r.poll()) == 0 {
			t.Fatal("everything was read and there is no room")
		}
	}
	if q.wait(1) != nil {
		t.Error("no room after a wait for it")
	}
	// A session that ends, a route that goes and the end let the writers go.
	for name, end := range map[string]func(){
		"session": func() { q.setSession(1, 0) },
		"route":   func() { q.retain(testRoutes(2, 9)) },
		"end":     q.close,
	} {
		q.setSession(1, q.now()+time.Minute)
		q.datagrams(1, 5, 0, maxDatagramPackets)
		if room = q.wait(1); room == nil {
			t.Fatalf("%s: no wait", name)
		}
		if end(); !isClosed(room) {
			t.Errorf("%s: the writer still waits", name)
		}
		if name == "end" {
			break
		}
	}
}

// What is in flight is bounded, and what is told as sent makes room, never more than there is.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueTest(t, false, 2*batchSize)
		r := q.reader()
		q.datagrams(1, 5, 0, 200)
		if n := len(r.all()); n != 2*batchSize {
			t.Fatalf("read %d packets with nothing sent, want %d", n, 2*batchSize)
		}
		read := make(chan []got)
		go func() { list, _ := r.read(); read <- list }() // ends with the send
		synctest.Wait()
		q.beginSend(1)
		q.sent(1, 1)
		if n := len(<-read); n != batchSize {
			t.Errorf("read %d packets after one was sent, want a batch", n)
		}
		q.beginSend(1)
		q.sent(1, 1000)
		if n := len(r.all()); n != 2*batchSize {
			t.Errorf("read %d packets after too many were told as sent, want %d", n, 2*batchSize)
		}
	})
}

// What the device has dropped is given up after 5 ms without a send, though new packets keep waking the reader; while a
// send is under way it is not.
func TestInFlightIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueueTest(t, false, batchSize)
		r := q.reader()
		q.datagrams(1, 5, 0, 2*batchSize)
		if n := len(r.poll()); n != batchSize {
			t.Fatalf("read %d packets", n)
		}
		q.beginSend(1)
		begin := time.Now()
		var took time.Duration
		var wg sync.WaitGroup
		wg.Go(func() { // ends when the send does
			_, _ = r.read()
			took = time.Since(begin)
		})
		time.Sleep(400 * time.Millisecond)
		synctest.Wait()
		if took != 0 {
			t.Fatalf("gave up after %v, with a send under way", took)
		}
		q.sent(1, 0)
		for i := range 20 {
			time.Sleep(time.Millisecond)
			q.datagrams(1, 5, i, 1)
		}
		wg.Wait()
		if took < 400*time.Millisecond+stallPause || took > 400*time.Millisecond+2*stallPause {
			t.Errorf("gave up after %v, want %v after the send's end", took, stallPause)
		}
	})
}

// The end waits for resets to peers with a session, 100 ms at most, and for nothing else (fault 19).
func TestFlush(t *testing.T) {
	fill := func(q *queueTest) {
		q.setSession(1, q.now()+time.Minute)
		q.write(q.packet(classStream, 1, 5, 0, 45*1380))
		q.datagrams(1, 6, 1, 100)
		q.write(q.packet(classControl, 1, 7, 1000, 0), q.packet(classAck, 1, 8, 2, 0))
		q.write(q.packet(classControl, 2, 7, 2000, 0)) // without a session
	}
	t.Run("nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := newQueueTest(t, true, 128)
			fill(q)
			begin := time.Now()
			if q.close(); time.Since(begin) != flushPause {
				t.Errorf("close took %v, want %v", time.Since(begin), flushPause)
			}
		})
	})
	t.Run("nothing is left", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := newQueueTest(t, true, 128)
			q.datagrams(1, 5, 0, 3)
			begin := time.Now()
			if q.close(); time.Since(begin) != 0 {
				t.Errorf("close took %v", time.Since(begin))
			}
			if held := q.made - q.released.Load(); held != 0 {
				t.Errorf("%d packets are held after the end", held)
			}
		})
	})
	for name, before := range map[string]int{"all is queued": 0, "a part is read": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueueTest(t, true, 128)
				fill(q)
				r := q.reader()
				for range before {
					q.beginSend(1)
					q.sent(1, len(r.poll()))
				}
				var list []got
				var wg sync.WaitGroup
				begin := time.Now()
				wg.Go(q.close)
				synctest.Wait()
				for {
					more, err := r.read()
					list = append(list, more...)
					if err != nil {
						break
					}
					q.beginSend(1)
					time.Sleep(20 * time.Millisecond) // a slow send
					q.sent(1, len(more))
				}
				wg.Wait()
				if want := []int{1000}; before == 0 && !slices.Equal(numbers(list), want) {
					t.Errorf("read %v after the end, want %v", numbers(list), want)
				}
				if took := time.Since(begin); before == 0 && took != 20*time.Millisecond {
					t.Errorf("close took %v, want as long as the send", took)
				}
				if held := q.made - q.released.Load(); held != 0 {
					t.Errorf("%d packets are held after the end", held)
				}
			})
		})
	}
}

// A reset that is taken out of its queue and not written yet leaves too.
func TestFlushOfAResetBehindASegment(t *testing.T) {
	q := newQueueTest(t, false, 0)
	stream, reset := q.packet(classStream, 1, 5, 1, 45*1380), q.packet(classControl, 1, 6, 1000, 0)
	q.reading.push(stream)
	q.reading.push(reset)
	r := q.reader()
	if n := len(r.poll()); n != batchSize {
		t.Fatalf("read %d packets", n)
	}
	q.close()
	if list, err := r.read(); len(list) != 1 || list[0].number != 1000 || err != nil {
		t.Errorf("read %v, %v; want the reset", list, err)
	}
	if q.released.Load() != q.made {
		t.Errorf("%d packets released, want %d", q.released.Load(), q.made)
	}
}

// A reader whose facade is closed hands the wake-up on to the next one.
func TestReadersTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			q := newQueueTest(t, false, 0)
			first, second := q.reader(), q.reader()
			var wg sync.WaitGroup
			var total atomic.Int32
			for _, r := range []*reader{first, second} {
				wg.Go(func() { // ends with its facade or the link
					for {
						list, err := r.read()
						total.Add(int32(len(list)))
						if err != nil {
							return
						}
					}
				})
			}
			synctest.Wait()
			wg.Go(func() { close(first.closed) })
			q.datagrams(1, 5, 0, 1)
			synctest.Wait()
			if total.Load() != 1 {
				t.Fatal("the packet was not read")
			}
			q.close()
			wg.Wait()
		}
	})
}

// Many goroutines at everything at once: nothing is lost but by a rule, every packet is let go once, and it ends.
func TestLinkUnderLoad(t *testing.T) {
	q := newQueueTest(t, true, 64)
	var asked atomic.Int32
	q.needSession = func(p PeerID) {
		asked.Add(1)
		q.setSession(p, q.now()+500*time.Microsecond)
	}
	const writers, each = 4, 4000
	var wg, readers sync.WaitGroup
	var read atomic.Int32
	facade := q.reader()
	run := func(r *reader) {
		readers.Go(func() { // ends with its facade or the link
			for {
				list, err := r.read()
				read.Add(int32(len(list)))
				if len(list) > 0 && len(list) != 7 { // now and then the device drops some
					q.beginSend(list[0].peer)
					q.sent(list[0].peer, len(list))
				}
				if err != nil {
					return
				}
			}
		})
	}
	run(facade)
	packets := make([][]*stack.PacketBuffer, writers)
	for w := range packets {
		for i := range each {
			class := packetClass(i) % classes
			packets[w] = append(packets[w], q.packet(class, PeerID(1+i%5), uint16(w), i, 3000))
		}
	}
	for w := range writers {
		wg.Go(func() { // ends with its share
			for i, pkt := range packets[w] {
				if room := q.wait(PeerID(1 + i%5)); room != nil {
					<-room
				}
				q.write(pkt)
				switch i % 500 {
				case 100:
					q.setSession(PeerID(1+w), 0)
				case 200:
					q.retain(testRoutes(2, 9))
				case 300:
					q.resend(nil)
				}
			}
		})
	}
	for range 20 { // devices come and go
		next := q.reader()
		run(next)
		close(facade.closed)
		facade = next
	}
	wg.Wait()
	q.close()
	readers.Wait()
	if read.Load() == 0 || asked.Load() == 0 {
		t.Errorf("%d packets read, %d sessions asked for", read.Load(), asked.Load())
	}
	for { // what close has left for a reader, if nobody came in time
		if _, err := facade.read(); errors.Is(err, os.ErrClosed) {
			break
		}
	}
	if released := q.released.Load(); released != q.made {
		t.Errorf("%d packets let go, want %d", released, q.made)
	}
}

func TestFifo(t *testing.T) {
	var f fifo[int]
	rng, next, first := rand.New(rand.NewPCG(5, 6)), 0, 0
	for range 20_000 {
		if rng.IntN(2) == 0 {
			f.push(next)
			next++
		} else if f.len() > 0 {
			if *f.first() != first || f.pop() != first {
				t.Fatalf("not %d", first)
			}
			first++
		}
		if f.len() != next-first {
			t.Fatalf("%d long, want %d", f.len(), next-first)
		}
	}
	for f.len() < 3000 {
		f.push(0)
	}
	for range 100_000 {
		f.push(f.pop())
	}
	if cap(f.items) > 4*3000 {
		t.Errorf("3,000 items take %d places", cap(f.items))
	}
	for f.len() > 0 {
		f.pop()
	}
	if f.items != nil {
		t.Errorf("an empty queue keeps %d places", cap(f.items))
	}
	f.push(1)
	if allocs := testing.AllocsPerRun(1000, func() { f.push(f.pop()) }); allocs != 0 {
		t.Errorf("%v allocations for a push and a pop", allocs)
	}
}
