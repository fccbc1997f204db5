// SPDX-License-Identifier: MIT

package interop

import (
	"errors"
	"maps"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestTakingDown is the end of scene 1: after Close there is no goroutine, no socket, and the port is free.
func TestTakingDown(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		routines, sockets := goroutines(), openSockets(t)
		s := newScene(t, setting{them: kind, starts: "both"})
		ctx := testContext(t)
		must(t, getHello(ctx, s.us, s.addrs2[0]))
		must(t, getHello(ctx, s.them, s.addrs1[1]))

		// Things that wait when it happens.
		l, err := s.us.Listen("tcp", ":80")
		must(t, err)
		pc, err := s.us.ListenPacket("udp", ":53")
		must(t, err)
		c, err := s.us.dial(ctx, "tcp", net.JoinHostPort(s.addrs2[1], echoPort))
		must(t, err)
		must(t, echo(c, "hello"))
		waits := make(chan error)
		go func() { _, err := l.Accept(); waits <- err }()                      // Close ends it
		go func() { _, _, err := pc.ReadFrom(make([]byte, 1)); waits <- err }() // Close ends it
		go func() { _, err := c.Read(make([]byte, 1)); waits <- err }()         // Close ends it

		must(t, s.us.Close())
		for range 3 {
			if err := <-waits; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v, want net.ErrClosed", err)
			}
		}
		if _, err := s.us.ping(ctx, s.addrs2[0]); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a ping after Close: %v, want net.ErrClosed", err)
		}
		again, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(s.ourNode.port)})
		must(t, err)
		must(t, again.Close())

		s.them.close()
		s.us.close()
		waitGone(t, routines, goroutines)
		waitGone(t, sockets, func() map[string]string { return openSockets(t) })
	})
}

// waitGone waits until nothing is left but what was there before. A goroutine that has told of its end may still need a
// moment for it, and so may the socket on which upstream's device hears of routes.
func waitGone(t *testing.T, before map[string]string, now func() map[string]string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		left := now()
		maps.DeleteFunc(left, func(id, _ string) bool { return before[id] != "" })
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			for _, what := range left {
				t.Errorf("left behind: %s", what)
			}
			return
		}
	}
}

// goroutines are the stacks of the goroutines that run a tunnel's code, by their number.
func goroutines() map[string]string {
	buf := make([]byte, 8<<20)
	list := map[string]string{}
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, code := range []string{"golang.zx2c4.com/", "gvisor.dev/", "example.com/wgnet/wgnet", "example.com/wgnet/netstack"} {
			if strings.Contains(stack, code) {
				list[strings.Fields(stack)[1]] = stack
			}
		}
	}
	return list
}

// openSockets are the process's sockets by their name; none where the system does not tell.
func openSockets(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{}
	const dir = "/proc/self/fd/"
	fds, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return list
	}
	must(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink(dir + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			list[to] = to
		}
	}
	return list
}
