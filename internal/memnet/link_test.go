// SPDX-License-Identifier: MIT

package memnet

import (
	"errors"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// payload1000 makes a packet of 1,000 bytes over IPv4.
var payload1000 = strings.Repeat("x", 1000-header4)

// wantAt waits for a datagram and compares the time since start.
func wantAt(t *testing.T, c *Conn, start time.Time, want time.Duration) string {
	t.Helper()
	payload, _ := read(t, c)
	if took := time.Since(start); took != want {
		t.Errorf("arrived after %v, want %v", took, want)
	}
	return payload
}

func TestPerfectLinkDeliversInside(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{})
	for i := range 100 {
		write(t, a, addrPort(b), number(i))
		if got := drain(t, b); len(got) != 1 || got[0] != number(i) {
			t.Fatalf("datagram %d is not there when the write returns: %q", i, got)
		}
	}
	if l := n.links[pair{addrA, addrB}]; l.timer != nil {
		t.Error("a perfect link has used a timer")
	}
}

func TestLatency(t *testing.T) {
	for _, d := range []time.Duration{1, time.Millisecond, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := couple(t, Options{}, Link{Latency: d})
			start := time.Now()
			for i := range 3 { // all under way at once
				write(t, a, addrPort(b), number(i))
			}
			wantNothing(t, b)
			for i := range 3 {
				if got := wantAt(t, b, start, d); got != number(i) {
					t.Errorf("read %q, want number %d", got, i)
				}
			}
			// The other direction is another link.
			start = time.Now()
			write(t, b, addrPort(a), "back")
			wantAt(t, a, start, 0)
		})
	}
}

// TestManyEndpointsOnALink: what arrives together goes to whom it is for.
func TestManyEndpointsOnALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{}, Link{Latency: time.Second})
		a2, b2 := listen(t, n, addrA.String()+":1001"), listen(t, n, addrB.String()+":2001")
		out, err := n.AddNAT(outsideAddr, 0, addrC)
		if err != nil {
			t.Fatal(err)
		}
		c := listen(t, n, addrC.String()+":3000")
		setLink(t, n, addrA, outsideAddr, Link{Latency: time.Second})
		write(t, c, addrPort(a), "hello")
		natted, _ := out.Outside(addrPort(c))
		for _, p := range []struct {
			from *Conn
			to   netip.AddrPort
		}{{a, addrPort(b)}, {a, addrPort(b2)}, {a2, addrPort(b2)}, {a2, addrPort(b)}, {a, natted}, {a2, natted}} {
			write(t, p.from, p.to, addrPort(p.from).String()+p.to.String())
		}
		time.Sleep(2 * time.Second)
		for _, p := range []struct{ from, to *Conn }{{a, b}, {a2, b}, {a, b2}, {a2, b2}} {
			wantRead(t, p.to, addrPort(p.from).String()+addrPort(p.to).String(), addrPort(p.from))
		}
		wantRead(t, c, addrPort(a).String()+natted.String(), addrPort(a))
		if s := n.Stats(addrA, outsideAddr); s.Filtered != 1 || s.Delivered != 1 {
			t.Errorf("%+v, want that of the port that C has not written to filtered", s)
		}
	})
}

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, jitter = 10 * time.Millisecond, 4 * time.Millisecond
		_, a, b := couple(t, Options{}, Link{Latency: latency, Jitter: jitter})
		var low, high time.Duration = math.MaxInt64, 0
		for i := range 1000 { // alone on the link
			start := time.Now()
			write(t, a, addrPort(b), number(i))
			read(t, b)
			low, high = min(low, time.Since(start)), max(high, time.Since(start))
		}
		if low < latency || low > latency+jitter/50 || high > latency+jitter || high < latency+jitter*49/50 {
			t.Errorf("from %v to %v, want %v and up to %v more", low, high, latency, jitter)
		}
		for i := range 1000 { // all at once
			write(t, a, addrPort(b), number(i))
		}
		for i := range 1000 {
			if got, _ := read(t, b); got != number(i) {
				t.Fatalf("jitter has reordered %v", numbers([]string{got}))
			}
		}
	})
}

func TestBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 1 Mbit/s: 1,000 bytes take 8 ms.
		n, a, b := couple(t, Options{}, Link{Bandwidth: 1e6, Latency: 5 * time.Millisecond, Queue: 3000})
		start := time.Now()
		for range 6 {
			write(t, a, addrPort(b), payload1000)
		}
		// The first is in transmission with all of its 1,000 bytes left, so that two more find room.
		for i := range 3 {
			wantAt(t, b, start, time.Duration(i+1)*8*time.Millisecond+5*time.Millisecond)
		}
		time.Sleep(time.Second)
		wantNothing(t, b)
		s := n.Stats(addrA, addrB)
		if s.QueueDrops != 3 || s.Delivered != 3 || s.SentBytes != 6000 {
			t.Errorf("%+v, want 3 of 6 dropped", s)
		}
		checkSum(t, s)

		// The queue has drained: an idle link transmits whatever comes, a larger datagram than Queue too.
		start = time.Now()
		write(t, a, addrPort(b), strings.Repeat("y", 10_000-header4))
		wantAt(t, b, start, 80*time.Millisecond+5*time.Millisecond)

		// A second of traffic at twice the bandwidth delivers a second's worth, and the queue's.
		before := n.Stats(addrA, addrB).Delivered
		for range 250 {
			write(t, a, addrPort(b), payload1000)
			time.Sleep(4 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := n.Stats(addrA, addrB).Delivered - before; got < 125 || got > 128 {
			t.Errorf("%d delivered, want the bandwidth's 125 and the queue's 3", got)
		}
	})
}

func TestLoss(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{Loss: 1})
	write(t, a, addrPort(b), "x")
	wantNothing(t, b)
	if s := n.Stats(addrA, addrB); s.Sent != 1 || s.Lost != 1 {
		t.Errorf("%+v, want one lost", s)
	}
}

// TestDuplicates: fault 48 wants every datagram ten times.
func TestDuplicates(t *testing.T) {
	for _, tc := range []struct{ copies, want int }{{0, 2}, {1, 2}, {9, 10}, {100, 101}} {
		n, a, b := couple(t, Options{}, Link{Duplicate: 1, Copies: tc.copies})
		write(t, a, addrPort(b), "first")
		write(t, a, addrPort(b), "second")
		want := slices.Concat(slices.Repeat([]string{"first"}, tc.want), slices.Repeat([]string{"second"}, tc.want))
		if got := drain(t, b); !slices.Equal(got, want) {
			t.Errorf("Copies %d: %q", tc.copies, got)
		}
		s := n.Stats(addrA, addrB)
		if s.Duplicated != uint64(2*tc.want-2) || s.Delivered != uint64(2*tc.want) {
			t.Errorf("Copies %d: %+v", tc.copies, s)
		}
		checkSum(t, s)
	}
}

func TestCorruption(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{Corrupt: 1})
	sent := []byte(strings.Repeat("\x0f", 100))
	places := map[int]bool{}
	for range 1000 {
		if _, err := a.WriteToUDPAddrPort(sent, addrPort(b)); err != nil {
			t.Fatal(err)
		}
		got, _ := read(t, b)
		flipped := 0
		for i := range len(sent) {
			if x := got[i] ^ 0x0f; x != 0 {
				flipped += bits.OnesCount8(x)
				places[8*i+bits.TrailingZeros8(x)] = true
			}
		}
		if len(got) != len(sent) || flipped != 1 {
			t.Fatalf("%d bits of %d bytes are flipped, want one", flipped, len(got))
		}
	}
	if string(sent) != strings.Repeat("\x0f", 100) {
		t.Error("the writer's bytes have changed")
	}
	if len(places) < 400 { // of 800; 571 are expected
		t.Errorf("only %d places are ever hit", len(places))
	}
	write(t, a, addrPort(b), "")
	wantRead(t, b, "", addrPort(a))
	if s := n.Stats(addrA, addrB); s.Corrupted != 1000 {
		t.Errorf("%d corrupted, want 1000: an empty datagram has nothing to flip", s.Corrupted)
	}
}

// TestReorder: a held datagram comes right behind as many others as ReorderDepth says; fault 48 needs depths beyond
// WireGuard's window of 8,128.
func TestReorder(t *testing.T) {
	for _, tc := range []struct{ depth, want, count int }{{0, 3, 1000}, {1, 1, 1000}, {7, 7, 1000}, {9000, 9000, 20_000}} {
		synctest.Test(t, func(t *testing.T) {
			w := Link{Reorder: 0.2, ReorderDepth: tc.depth, Hold: time.Second}
			n, a, b := couple(t, Options{}, w)
			var want []int
			type late struct{ number, after int }
			var held []late
			for i, passed := 0, 0; i < tc.count; i++ {
				write(t, a, addrPort(b), number(i))
				if fateOf(linkKey(0, addrA, addrB), uint64(i), &w).reorder {
					held = append(held, late{i, passed + tc.want})
					continue
				}
				passed++
				want = append(want, i)
				for len(held) > 0 && held[0].after == passed {
					want = append(want, held[0].number)
					held = held[1:]
				}
			}
			got := numbers(drain(t, b))
			if !slices.Equal(got, want) {
				t.Errorf("depth %d: order %v, want %v", tc.depth, got[:min(99, len(got))], want[:min(99, len(want))])
			}
			if s := n.Stats(addrA, addrB); s.Reordered < uint64(tc.count)/6 || s.InFlight != uint64(len(held)) {
				t.Errorf("depth %d: %+v, want %d held", tc.depth, s, len(held))
			}
			time.Sleep(time.Second) // the rest does not wait for ever
			synctest.Wait()
			if got := drain(t, b); len(got) != len(held) {
				t.Errorf("depth %d: %d come in the end, want %d", tc.depth, len(got), len(held))
			}
			checkSum(t, n.Stats(addrA, addrB))
		})
	}
}

// TestHold: a datagram that nobody overtakes goes on after Hold.
func TestHold(t *testing.T) {
	for _, tc := range []struct{ hold, want time.Duration }{{0, 10 * time.Millisecond}, {time.Second, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := couple(t, Options{}, Link{Reorder: 1, Hold: tc.hold, Latency: 3 * time.Millisecond})
			start := time.Now()
			write(t, a, addrPort(b), "x")
			wantAt(t, b, start, tc.want+3*time.Millisecond)
		})
	}
}

func TestMTU(t *testing.T) {
	n := newNetwork(t, Options{})
	for _, tc := range []struct {
		a, b   string
		header int
	}{{"10.0.0.1:0", "10.0.0.2:0", 28}, {"[fd00::1]:0", "[fd00::2]:0", 48}} {
		a, b := listen(t, n, tc.a), listen(t, n, tc.b)
		from, to := addrPort(a).Addr(), addrPort(b).Addr()
		fits, tooBig := strings.Repeat("x", 1280-tc.header), strings.Repeat("x", 1281-tc.header)
		setLink(t, n, from, to, Link{MTU: 1280})
		write(t, a, addrPort(b), tooBig)
		write(t, a, addrPort(b), fits)
		wantRead(t, b, fits, addrPort(a))
		wantNothing(t, b)

		setLink(t, n, from, to, Link{MTU: 1280, RefuseTooBig: true})
		count, err := a.WriteBatch([][]byte{[]byte(fits), []byte(tooBig), []byte(fits)}, addrPort(b))
		if count != 1 {
			t.Errorf("%d taken, want the one before that which is too big", count)
		}
		wantError(t, err, syscall.EMSGSIZE)
		wantRead(t, b, fits, addrPort(a))
		s := n.Stats(from, to)
		if s.TooBig != 2 || s.Delivered != 2 {
			t.Errorf("%+v, want 2 too big", s)
		}
		checkSum(t, s)
	}
}

func TestCutAndDown(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{})
	c := listen(t, n, addrC.String()+":3000")
	exchange := func(when string, ab, ba bool) {
		t.Helper()
		write(t, a, addrPort(b), "ab")
		write(t, b, addrPort(a), "ba")
		if got := len(drain(t, b)) == 1; got != ab {
			t.Errorf("%s: from A to B arrives: %v", when, got)
		}
		if got := len(drain(t, a)) == 1; got != ba {
			t.Errorf("%s: from B to A arrives: %v", when, got)
		}
		write(t, a, addrPort(c), "ac")
		wantRead(t, c, "ac", addrPort(a))
	}
	exchange("at first", true, true)
	if err := n.Cut(addrA, addrB); err != nil {
		t.Fatal(err)
	}
	exchange("cut", false, false)
	setLink(t, n, addrA, addrB, Link{}) // new weather does not mend a cable
	exchange("still cut", false, false)
	if err := n.Heal(addrB, addrA); err != nil {
		t.Fatal(err)
	}
	exchange("healed", true, true)
	setLink(t, n, addrA, addrB, Link{Down: true})
	exchange("down one way", false, true)
	setLink(t, n, addrA, addrB, Link{})
	exchange("up again", true, true)
	s := n.Stats(addrA, addrB)
	if s.Cut != 3 || s.Delivered != 3 {
		t.Errorf("%+v, want 3 cut and 3 delivered", s)
	}
	checkSum(t, s)
}

// TestChange: new weather is for what is written after it; what is under way is not overtaken.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{}, Link{Latency: 50 * time.Millisecond})
		start := time.Now()
		write(t, a, addrPort(b), "slow")
		setLink(t, n, addrA, addrB, Link{})
		for range 2 {
			write(t, a, addrPort(b), "fast, but behind")
		}
		if got := n.inFlight.Load(); got != 3*256 {
			t.Errorf("%d bytes under way, want those of three datagrams", got)
		}
		wantAt(t, b, start, 50*time.Millisecond)
		wantAt(t, b, start, 50*time.Millisecond)
		wantAt(t, b, start, 50*time.Millisecond)
		start = time.Now()
		write(t, a, addrPort(b), "fast")
		wantAt(t, b, start, 0)

		// What is held goes on when the weather changes.
		setLink(t, n, addrA, addrB, Link{Reorder: 1, Hold: time.Hour})
		write(t, a, addrPort(b), "held")
		wantNothing(t, b)
		setLink(t, n, addrA, addrB, Link{})
		wantAt(t, b, start, 0)

		// Links do not wait for each other.
		setLink(t, n, addrA, addrB, Link{Reorder: 1, Hold: time.Hour})
		write(t, a, addrPort(b), "held")
		setLink(t, n, addrB, addrA, Link{Latency: time.Second})
		start = time.Now()
		write(t, b, addrPort(a), "other link")
		wantAt(t, a, start, time.Second)
		wantAt(t, b, start, time.Hour)
	})
}

// TestLateTimer: on a real clock a timer may be late. A write then does its work first, so that nothing is overtaken.
func TestLateTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := couple(t, Options{}, Link{Reorder: 1, Hold: time.Second})
		write(t, a, addrPort(b), "held")
		l := n.links[pair{addrA, addrB}]
		l.timer.Stop()
		time.Sleep(time.Second)
		l.weather.Reorder = 0
		write(t, a, addrPort(b), "next")
		wantRead(t, b, "held", addrPort(a))
		wantRead(t, b, "next", addrPort(a))
		l.timer.Reset(0)
	})
}

// TestTimerMovesForward: a datagram that is due before one that is held.
func TestTimerMovesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Link{Reorder: 0.5, ReorderDepth: 1000, Hold: time.Hour, Latency: time.Second}
		seed := uint64(0) // with which the first is held and the second is not
		held := func(i uint64) bool { return fateOf(linkKey(seed, addrA, addrB), i, &w).reorder }
		for !held(0) || held(1) {
			seed++
		}
		_, a, b := couple(t, Options{Seed: seed}, w)
		start := time.Now()
		write(t, a, addrPort(b), "first")
		write(t, a, addrPort(b), "second")
		if got := wantAt(t, b, start, time.Second); got != "second" {
			t.Errorf("%q comes first", got)
		}
		wantAt(t, b, start, time.Hour+time.Second)
	})
}

func TestDefaultLink(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{}) // A to B has a weather of its own
	if err := n.SetDefault(Link{Down: true}); err != nil {
		t.Fatal(err)
	}
	write(t, a, addrPort(b), "x")
	wantRead(t, b, "x", addrPort(a))
	write(t, b, addrPort(a), "new link")
	wantNothing(t, a)
	if err := n.SetDefault(Link{}); err != nil {
		t.Fatal(err)
	}
	write(t, b, addrPort(a), "old link")
	wantRead(t, a, "old link", addrPort(b))
}

func TestLinkValues(t *testing.T) {
	n := newNetwork(t, Options{})
	wantError(t, n.SetLink(addrA, netip.Addr{}, Link{}), errAddress)
	wantError(t, n.Cut(netip.Addr{}, addrA), errAddress)
	for _, tc := range []struct {
		name string
		w    Link
	}{
		{"Loss", Link{Loss: -0.1}},
		{"Loss", Link{Loss: math.NaN()}},
		{"Corrupt", Link{Corrupt: 1.01}},
		{"Duplicate", Link{Duplicate: 2}},
		{"Reorder", Link{Reorder: math.Inf(1)}},
		{"Latency", Link{Latency: -1}},
		{"Jitter", Link{Jitter: 2 * time.Hour}},
		{"Hold", Link{Hold: -1}},
		{"Bandwidth", Link{Bandwidth: -1}},
		{"Queue", Link{Queue: -1}},
		{"Copies", Link{Copies: 101}},
		{"ReorderDepth", Link{ReorderDepth: 1<<20 + 1}},
		{"MTU", Link{MTU: -1}},
	} {
		for _, err := range []error{n.SetLink(addrA, addrB, tc.w), n.SetDefault(tc.w)} {
			if err == nil || !strings.Contains(err.Error(), tc.name+" is ") {
				t.Errorf("%+v: error %v, want one about %s", tc.w, err, tc.name)
			}
		}
	}
}

// TestInFlightBound: what is under way is bounded for the whole network, and what arrives makes room.
func TestInFlightBound(t *testing.T) {
	for _, tc := range []struct {
		name string
		w    Link
		fit  uint64
	}{
		{"latency", Link{Latency: time.Second}, 8},
		{"bandwidth", Link{Bandwidth: 1000, Queue: 1 << 20}, 8},
		{"reordering", Link{Reorder: 1, Hold: time.Second}, 8},
		{"copies", Link{Latency: time.Second, Duplicate: 1, Copies: 2}, 6}, // two datagrams of three
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, a, b := couple(t, Options{MaxInFlight: 8 * 256}, tc.w)
				for range 2 {
					before := n.Stats(addrA, addrB).Delivered
					for range 12 {
						write(t, a, addrPort(b), "x")
					}
					if s := n.Stats(addrA, addrB); s.InFlight != tc.fit {
						t.Errorf("%+v, want %d under way", s, tc.fit)
					}
					time.Sleep(time.Hour)
					s := n.Stats(addrA, addrB)
					if s.Delivered-before != tc.fit || s.InFlight != 0 || n.inFlight.Load() != 0 {
						t.Errorf("%+v with %d bytes under way, want %d delivered", s, n.inFlight.Load(), tc.fit)
					}
					checkSum(t, s)
				}
			})
		})
	}
}

// TestStorm: all of it at once, both ways, and nothing is unaccounted for.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := storm
		w.Latency, w.Bandwidth, w.Queue, w.MTU = 10*time.Millisecond, 1e6, 20_000, 900
		n, a, b := couple(t, Options{Seed: 3, ReceiveBuffer: 64 << 10}, w)
		setLink(t, n, addrB, addrA, w)
		for i := range 5000 {
			write(t, a, addrPort(b), strings.Repeat("a", i%1000))
			write(t, b, addrPort(a), strings.Repeat("b", i%1000))
			write(t, b, netip.AddrPortFrom(addrA, 9), "nobody")
			if i%100 == 0 {
				drain(t, a)
				drain(t, b)
				time.Sleep(10 * time.Millisecond)
			}
			checkSum(t, n.TotalStats())
		}
		time.Sleep(time.Minute)
		s := n.TotalStats()
		checkSum(t, s)
		if s.InFlight != 0 || s.TooBig == 0 || s.QueueDrops == 0 || s.Unreachable == 0 || s.Lost == 0 || s.Duplicated == 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestStatsOfNothing(t *testing.T) {
	n := newNetwork(t, Options{})
	if s := n.Stats(addrA, addrB); s != (Stats{}) {
		t.Errorf("%+v", s)
	}
	if len(n.links) != 0 {
		t.Error("asking made a link")
	}
}

func TestMostLinks(t *testing.T) {
	n, a, b := couple(t, Options{}, Link{})
	n.maxLinks = 3
	setLink(t, n, addrA, addrC, Link{})
	setLink(t, n, addrC, addrA, Link{})
	write(t, a, addrPort(b), "an old link")
	_, err := a.WriteToUDPAddrPort([]byte("a new link"), mustAddrPort("10.9.9.9:9"))
	if !errors.Is(err, syscall.ENOBUFS) || !strings.Contains(err.Error(), "most links, 3") {
		t.Errorf("error %v, want ENOBUFS", err)
	}
	wantError(t, n.Cut(addrB, addrA), syscall.ENOBUFS)
	if len(n.links) != 3 {
		t.Errorf("%d links", len(n.links))
	}
}
