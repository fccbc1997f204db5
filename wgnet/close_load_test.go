// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"flag"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"weak"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// cycles is how often TestCloseUnderLoad closes a Net with each kind of peer. For the long run:
//
//	go test ./wgnet -run TestCloseUnderLoad -cycles 10000 -timeout 0
var cycles = flag.Int("cycles", defaultCycles, "closes under load with each kind of peer")

// soon bounds what has to end within a second (fault 20). The race detector and a busy machine get their share.
const soon = 5 * time.Second

// Faults 18 and 20: Close while TCP and UDP flood in both directions, by turns on this side, on the other, and on both.
func TestCloseUnderLoad(t *testing.T) {
	t.Run("Net", func(t *testing.T) {
		sockets := openSockets(t)
		before := heapInUse()
		for i := range *cycles {
			a, b, err := startPair()
			if err != nil {
				t.Fatal(err)
			}
			closeUnderLoad(t, i, a, floodEnd{b.Listen, b.ListenPacket, b.Close})
			collect(i)
		}
		checkLeaks(t)
		if now := heapInUse(); now > before+64<<20 {
			t.Errorf("%d MiB of heap before, %d after", before>>20, now>>20)
		}
		if now := openSockets(t); now > sockets {
			t.Errorf("%d sockets before, %d after", sockets, now)
		}
	})
	t.Run("upstream", func(t *testing.T) {
		for i := range *cycles {
			up, err := testpeer.Start(testpeer.Options{})
			if err != nil {
				t.Fatal(err)
			}
			cfg := newConfig("10.0.0.1/24", "fd00::1/64")
			if err := befriend(cfg, up); err != nil {
				t.Fatal(err)
			}
			n, err := wgnet.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			closeUnderLoad(t, i, n, floodEnd{
				func(_, address string) (net.Listener, error) { return up.Listen(address) },
				func(_, address string) (net.PacketConn, error) { return up.ListenUDP(address) },
				up.Close,
			})
			collect(i)
		}
		checkLeaks(t)
	})
}

// collect helps the garbage collector. Some 30 MiB of packets are in a device's queues and pools when it is closed under
// load, and survive three collections: finalizers empty the queues into the pools, which live twice. The heap's limit
// doubles with what is alive, so left to itself it would grow without bound.
func collect(cycle int) {
	if cycle%4 == 3 {
		runtime.GC()
	}
}

// heapInUse is the size of what is alive after all finalizers and pools have had their turn.
func heapInUse() uint64 {
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// floodEnd is the passive end of a flood, at 10.0.0.2.
type floodEnd struct {
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	close        func() error
}

func closeUnderLoad(t *testing.T, turn int, n *wgnet.Net, end floodEnd) {
	t.Helper()
	l, err := end.listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := end.listenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := n.DialContext(testContext(t), "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	udp, err := n.Dial("udp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}

	// One reader and one writer for each end of each connection, until an error. A flow that has not moved is told by
	// the reader's silence.
	var flows sync.WaitGroup
	var moved [4]chan struct{}
	for i := range moved {
		moved[i] = make(chan struct{})
	}
	read := func(flow int, read func([]byte) error) {
		flows.Go(func() { // Close of either Net ends it, or the one of the connection below
			buf := make([]byte, 1<<16)
			for err := read(buf); err == nil; err = read(buf) {
				if moved[flow] != nil {
					close(moved[flow])
					moved[flow] = nil
				}
			}
		})
	}
	write := func(size int, write func([]byte) error) {
		flows.Go(func() { // ended as a reader is
			buf := make([]byte, size)
			for write(buf) == nil {
			}
		})
	}
	ready := slices.Clone(moved[:])
	both := func(flow int, c net.Conn, size int) {
		read(flow, func(b []byte) error { _, err := c.Read(b); return err })
		write(size, func(b []byte) error { _, err := c.Write(b); return err })
	}
	both(0, tcp, 1<<15)
	both(1, accepted, 1<<15)
	both(2, udp, 1200)
	from := make(chan net.Addr, 1)
	read(3, func(b []byte) error {
		_, addr, err := pc.ReadFrom(b)
		select {
		case from <- addr:
		default:
		}
		return err
	})
	flows.Go(func() { // ended as a reader is
		addr := <-from
		buf := make([]byte, 1200)
		for addr != nil {
			if _, err := pc.WriteTo(buf, addr); err != nil {
				return
			}
		}
	})
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for i, c := range ready {
		select {
		case <-c:
		case <-limit.C:
			t.Fatalf("flow %d does not move", i)
		}
	}

	closeHere := func() {
		start := time.Now()
		closeNet(t, n)
		if took := time.Since(start); took > soon {
			t.Errorf("Close took %v", took)
		}
	}
	closeThere := func() {
		if err := end.close(); err != nil {
			t.Error(err)
		}
	}
	switch turn % 3 {
	case 0:
		closeHere()
		closeThere()
	case 1:
		closeThere()
		closeHere()
	case 2:
		var closing sync.WaitGroup
		closing.Go(closeHere)
		closing.Go(closeThere)
		closing.Wait()
	}
	for _, c := range []io.Closer{tcp, accepted, udp, pc, l} {
		_ = c.Close() // those of a closed Net say so; upstream's need it
	}
	flows.Wait()
}

// A closed Net is garbage, and all of it: what was in its queues is a lot.
func TestCloseFreesMemory(t *testing.T) {
	n := freed(t)
	waitFor(t, "the Net to be collected", func() bool {
		runtime.GC()
		return n.Value() == nil
	})
}

func freed(t *testing.T) weak.Pointer[wgnet.Net] {
	a, b, err := startPair()
	if err != nil {
		t.Fatal(err)
	}
	closeUnderLoad(t, 0, a, floodEnd{b.Listen, b.ListenPacket, b.Close})
	return weak.Make(a)
}

// BenchmarkNewClose is a Net's life without traffic.
func BenchmarkNewClose(b *testing.B) {
	for b.Loop() {
		n, err := wgnet.New(newConfig("10.0.0.1/24"))
		if err != nil {
			b.Fatal(err)
		}
		closeNet(b, n)
	}
}

// Close is not something to warn about, not even under load.
func TestCloseIsQuiet(t *testing.T) {
	var mu sync.Mutex // guards log
	var log bytes.Buffer
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}), &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	closeUnderLoad(t, 0, n, floodEnd{
		func(_, address string) (net.Listener, error) { return up.Listen(address) },
		func(_, address string) (net.PacketConn, error) { return up.ListenUDP(address) },
		up.Close,
	})
	mu.Lock()
	defer mu.Unlock()
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}
