// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// newTable is a gateway's table without a gateway.
func newTable(most, ofPeer, dials int) *table {
	return &table{most: most, mostOfPeer: ofPeer, mostDials: dials, start: time.Now(), peers: map[string]*peer{}}
}

func (t *table) tryAdd(p *peer, network string) *flow {
	f := &fakeFlow{network: network, ctx: context.Background(), answered: make(chan struct{})}
	at := brief
	if network == networkTCP {
		at = dialing
	}
	return t.add(request{Flow: f, peer: p}, at, time.Hour)
}

// TestEviction is faults 65 and 67: places are bounded, and go to newer flows of the same peer, oldest first.
func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(100, 4, 2)
		p := tab.enter(source{"laptop", "L"})
		var flows []*flow
		for range 4 {
			flows = append(flows, tab.tryAdd(p, "udp"))
			time.Sleep(time.Millisecond)
		}
		if f := tab.tryAdd(p, "udp"); f != nil {
			t.Error("a flow got the place of one that is new itself")
		}
		time.Sleep(grace)
		flows[0].touch()
		added := tab.tryAdd(p, "udp")
		if added == nil {
			t.Fatal("no place")
		}
		for i, f := range flows {
			if evicted := context.Cause(f.ctx) == errEvicted; evicted != (i == 1) {
				t.Errorf("flow %d: evicted %v; flow 1 was idle for longest", i, evicted)
			}
		}
		if tab.open != 4 || p.open() != 4 || p.evicted.Load() != 1 || tab.total.evicted.Load() != 1 {
			t.Errorf("%d open, %d of the peer, %d evicted", tab.open, p.open(), p.evicted.Load())
		}
		for _, f := range tab.flows() {
			tab.remove(f)
			tab.remove(f)
		}
		if tab.open != 0 || p.open() != 0 {
			t.Errorf("%d open, %d of the peer", tab.open, p.open())
		}
		synctest.Wait()
	})
}

// TestEvictionOrder: established TCP connections go last, and dials have a bound of their own.
func TestEvictionOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(100, 4, 2)
		p := tab.enter(source{"laptop", "L"})
		established := tab.tryAdd(p, "tcp")
		tab.settle(established)
		time.Sleep(time.Hour / 2)
		dial1, dial2 := tab.tryAdd(p, "tcp"), tab.tryAdd(p, "tcp")
		time.Sleep(grace)
		dial3 := tab.tryAdd(p, "tcp") // in the place of the first dial, though there is a free one
		udp := tab.tryAdd(p, "udp")
		time.Sleep(grace)
		last := tab.tryAdd(p, "udp") // in the place of the second
		for _, tc := range []struct {
			name    string
			flow    *flow
			evicted bool
		}{
			{"established", established, false},
			{"the first dial", dial1, true},
			{"the second dial", dial2, true},
			{"the third dial", dial3, false},
			{"UDP", udp, false},
			{"the last", last, false},
		} {
			if evicted := context.Cause(tc.flow.ctx) == errEvicted; evicted != tc.evicted {
				t.Errorf("%s: evicted %v", tc.name, evicted)
			}
		}
		tab.remove(dial3)
		tab.remove(udp)
		tab.remove(last)
		for range 3 {
			f := tab.tryAdd(p, "tcp")
			tab.settle(f)
			time.Sleep(grace)
		}
		if tab.tryAdd(p, "udp") == nil || context.Cause(established.ctx) != errEvicted {
			t.Error("an established connection goes when there is nothing else, the longest idle first")
		}
		for _, f := range tab.flows() {
			tab.remove(f)
		}
	})
}

// TestEvictionFair is faults 65 and 66: who takes most pays when all places are taken, at once.
func TestEvictionFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := newTable(10, 100, 100)
		greedy, modest := tab.enter(source{"greedy", "G"}), tab.enter(source{"modest", "M"})
		for range 10 {
			tab.tryAdd(greedy, "tcp")
		}
		if tab.tryAdd(greedy, "tcp") != nil {
			t.Error("an eleventh place")
		}
		for i := range 5 {
			if tab.tryAdd(modest, "udp") == nil {
				t.Errorf("the modest peer got no place %d", i)
			}
		}
		if tab.tryAdd(modest, "udp") != nil {
			t.Error("the modest peer got more than the half")
		}
		if greedy.open() != 5 || modest.open() != 5 || tab.open != 10 {
			t.Errorf("greedy %d, modest %d, all %d", greedy.open(), modest.open(), tab.open)
		}
		for _, f := range tab.flows() {
			tab.remove(f)
		}
	})
}

// TestManyTuples is fault 67 at small scale: many more UDP flows than places.
func TestManyTuples(t *testing.T) {
	const tuples, places = 5_000, 64
	server := listenUDP(t, "127.0.0.1:0", func(c *net.UDPConn, b []byte, from netip.AddrPort) {
		_, _ = c.WriteToUDPAddrPort(b, from)
	})
	g := newGateway(t, Config{MaxFlows: 2 * places, MaxPeerFlows: places}, local)
	honest := newFlow(t, "phone", "udp", server.LocalAddr().String())
	serve(g, honest)
	c := honest.accepted(t)
	var flows sync.WaitGroup
	work := make(chan *fakeFlow)
	for range 2 * places { // more at a time than there are places
		flows.Go(func() { // ends when work is closed
			for f := range work {
				serve(g, f)
				<-f.answered
			}
		})
	}
	for range tuples {
		work <- newFlow(t, "flooder", "udp", server.LocalAddr().String())
	}
	close(work)
	flows.Wait()
	if got := exchange(t, c, []byte("still here")); string(got) != "still here" {
		t.Errorf("got %q", got)
	}
	s := g.Status()
	if s.Open > places+1 || s.Accepted+s.Capped+s.Failed < tuples {
		t.Errorf("status %+v", s.Counters)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if s := g.Status(); s.Open != 0 {
		t.Errorf("%d flows are open after Close", s.Open)
	}
}

// TestPeersBounded: counters of peers that are gone make room for others.
func TestPeersBounded(t *testing.T) {
	tab := newTable(10, 10, 10)
	stays := tab.enter(source{"stays", "S"})
	for i := range maxPeers + 100 {
		tab.leave(tab.enter(source{id: fmt.Sprint(i)}))
	}
	if len(tab.peers) != maxPeers || tab.peers["S"] != stays {
		t.Errorf("%d peers, want %d, and the one with flows among them", len(tab.peers), maxPeers)
	}
}

// TestSetRules: flows that the new rules do not allow end; others go on.
func TestSetRules(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	g := newGateway(t, Config{}, local)
	laptop, phone := newFlow(t, "laptop", "tcp", l.Addr().String()), newFlow(t, "phone", "tcp", l.Addr().String())
	laptopEnded := serve(g, laptop)
	serve(g, phone)
	laptop.accepted(t)
	phone.accepted(t)
	if err := g.SetRules([]Rule{{Special: true}}); err == nil {
		t.Error("wrong rules were taken")
	}
	rules, err := ParseRules("allow tcp from phone to 127.0.0.0/8 special")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.SetRules(rules); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the laptop's end", laptopEnded)
	if got := exchange(t, phone.client, []byte("x")); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	again := newFlow(t, "laptop", "tcp", l.Addr().String())
	g.Serve(again)
	if err := again.wait(t); err == nil {
		t.Error("the laptop was let in")
	}
}

// TestHub: a flow to another peer is left to the tunnel, under the same rules, and ends with the rule that allows it.
func TestHub(t *testing.T) {
	g := newGateway(t, Config{}, "allow from laptop to 10.0.0.0/8\nallow to 0.0.0.0/0,::/0 special")
	var ended []chan struct{}
	for _, tc := range []struct {
		peer, network, dst string
		forwarded          bool
	}{
		{"laptop", "tcp", "10.0.0.3:80", true},
		{"laptop", "udp", "10.0.0.3:53", true},
		{"laptop", "ping", "10.0.0.3:0", true},
		{"laptop", "tcp", "224.0.0.1:80", false},
	} {
		f := newFlow(t, tc.peer, tc.network, tc.dst)
		f.toPeer = true
		ended = append(ended, serve(g, f))
		if err := f.wait(t); (err == errForwarded) != tc.forwarded {
			t.Errorf("%s from %s to %s: %v", tc.network, tc.peer, tc.dst, err)
		}
	}
	waitFor(t, "the denied flow's end", ended[3])
	if s := g.Status(); s.Open != 3 || s.Denied != 1 || s.Accepted != 0 || s.Peers[0].Open != 3 {
		t.Errorf("status %+v", s)
	}
	away := newFlow(t, "laptop", "tcp", "10.0.0.4:80")
	away.toPeer, away.unreachable = true, syscall.EHOSTUNREACH
	g.Serve(away)
	if err := away.wait(t); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("to a peer that is away: %v, want EHOSTUNREACH", err)
	}
	if s := g.Status(); s.Open != 3 || s.Refused != 1 {
		t.Errorf("status %+v", s.Counters)
	}
	if err := g.SetRules(nil); err != nil {
		t.Fatal(err)
	}
	for _, e := range ended {
		waitFor(t, "a forwarded flow's end", e)
	}
	if s := g.Status(); s.Open != 0 || s.Forwarded != 3 {
		t.Errorf("status %+v", s)
	}
	f := newFlow(t, "laptop", "tcp", "10.0.0.3:80")
	f.toPeer = true
	g.Serve(f)
	if err := f.wait(t); err == errForwarded {
		t.Error("forwarded without a rule")
	}
}

// TestClose: flows of all kinds end, those that come later are dropped, and all of it is waited for.
func TestClose(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	server := listenUDP(t, "127.0.0.1:0", func(*net.UDPConn, []byte, netip.AddrPort) {})
	g := newGateway(t, Config{}, local)
	tcp, udp := newFlow(t, "laptop", "tcp", l.Addr().String()), newFlow(t, "laptop", "udp", server.LocalAddr().String())
	tcpEnded, udpEnded := serve(g, tcp), serve(g, udp)
	tcp.accepted(t)
	udp.accepted(t)
	var closing sync.WaitGroup
	for range 3 {
		closing.Go(func() {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	for _, ended := range []chan struct{}{tcpEnded, udpEnded} {
		waitFor(t, "a flow's end", ended)
	}
	if _, err := tcp.client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	}
	late := newFlow(t, "laptop", "tcp", l.Addr().String())
	g.Serve(late)
	if err := late.wait(t); err != errDropped {
		t.Errorf("%v, want it dropped", err)
	}
}

// TestShutdown lets what is open end by itself, as long as it is given time for that.
func TestShutdown(t *testing.T) {
	l := listenTCP(t, "127.0.0.1:0", echoTCP)
	g := newGateway(t, Config{}, local)
	f := newFlow(t, "laptop", "tcp", l.Addr().String())
	serve(g, f)
	c := f.accepted(t)
	done := make(chan error, 1)
	go func() { done <- g.Shutdown(t.Context()) }() // ends with the test at the latest
	for {                                           // until Shutdown has begun
		late := newFlow(t, "laptop", "tcp", "127.0.0.1:1")
		g.Serve(late)
		if late.wait(t) == errDropped {
			break
		}
	}
	if got := exchange(t, c, []byte("x")); string(got) != "x" {
		t.Errorf("got %q", got)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}

	g = newGateway(t, Config{}, local)
	f = newFlow(t, "laptop", "tcp", l.Addr().String())
	ended := serve(g, f)
	f.accepted(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if err := g.Shutdown(ctx); !errors.Is(err, enough) {
		t.Errorf("%v, want the context's cause", err)
	}
	waitFor(t, "the flow's end", ended)
}

// TestGivenUp: a flow ends when the peer has given it up.
func TestGivenUp(t *testing.T) {
	g := newGateway(t, Config{}, local)
	gone, giveUp := context.WithCancel(t.Context())
	f := newFlow(t, "laptop", "udp", "127.0.0.1:9")
	f.ctx = gone
	ended := serve(g, f)
	f.accepted(t)
	giveUp()
	waitFor(t, "the flow's end", ended)
}
