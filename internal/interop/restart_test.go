// SPDX-License-Identifier: MIT

package interop

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// restartLimit is what the tests of faults 25 and 26 assert: their 1 s, and room for a loaded machine.
const restartLimit = 3 * time.Second

// took logs how long something took since begin, and complains if it was too long.
func took(t *testing.T, what string, begin time.Time) {
	t.Helper()
	d := time.Since(begin)
	t.Logf("%s: %v", what, d.Round(100*time.Microsecond))
	if d > restartLimit {
		t.Errorf("%s took %v, want at most %v", what, d, restartLimit)
	}
}

// establish has both sides talk until their session is old enough for the next handshake: TestRestartAtOnce has the
// restarts that come earlier.
//
// It makes no connections. A stack that was restarted may take the port of an old connection, which is in TIME_WAIT on
// the other side, and that would keep silent for a minute: gVisor, unlike Linux, ignores the SYN if its sequence number
// is not larger.
func (s *scene) establish(t *testing.T, ctx context.Context) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; {
		for _, dir := range []struct {
			from side
			to   string
		}{{s.peer1, s.addrs2[0]}, {s.peer2, s.addrs1[1]}} {
			_, err := dir.from.ping(ctx, dir.to)
			must(t, err)
		}
	}
}

// TestWeRestart is the first half of fault 25: a process with our key ends and starts anew, and the other side still
// has a session with the old one.
func TestWeRestart(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		s := newScene(t, setting{them: kind, starts: "we"})
		ctx := testContext(t)
		for _, tc := range []struct {
			name string
			do   func() error
		}{
			{"our dial", func() error { return getHello(ctx, s.us, s.addrs2[0]) }},
			{"our ping", func() error { _, err := s.us.ping(ctx, s.addrs2[1]); return err }},
			{"their dial", func() error { return getHello(ctx, s.them, s.addrs1[0]) }},
		} {
			s.establish(t, ctx)
			s.us.restart(t)
			begin := time.Now()
			if err := tc.do(); err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			took(t, tc.name, begin)
		}
	})
}

// TestTheyRestart is the second half of fault 25: the other side is restarted and knows no endpoint of ours, so that
// all waits for us to find that our session is gone. Nothing but silence says so.
func TestTheyRestart(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		ctx := testContext(t)
		t.Run("their handshake", func(t *testing.T) {
			// The last handshake was theirs: the device must not wait 5 s from its answer to it.
			s := newScene(t, setting{them: kind, starts: "they"})
			s.establish(t, ctx)
			s.theirNode.passive = true
			s.them.restart(t)
			begin := time.Now()
			must(t, getHello(ctx, s.us, s.addrs1[0]))
			took(t, "dial", begin)
		})
		s := newScene(t, setting{them: kind, starts: "we"})
		for _, tc := range []struct {
			name string
			do   func(addr string) error
		}{
			{"dial", func(addr string) error { return getHello(ctx, s.us, addr) }},
			{"ping", func(addr string) error { _, err := s.us.ping(ctx, addr); return err }},
		} {
			for _, addr := range s.addrs2 {
				s.establish(t, ctx)
				s.them.restart(t)
				begin := time.Now()
				if err := tc.do(addr); err != nil {
					t.Fatalf("%s %s: %v", tc.name, addr, err)
				}
				took(t, tc.name+" "+addr, begin)
			}
		}
	})
}

// TestConnectionOverRestart is fault 25 for a connection that lives while the other side is restarted. A stack that
// has forgotten it answers with a reset as soon as there is a session again; the kernel's has not, and goes on.
func TestConnectionOverRestart(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		s := newScene(t, setting{them: kind, starts: "we"})
		ctx := testContext(t)
		for _, addr := range s.addrs2 {
			c, err := s.us.dial(ctx, "tcp", net.JoinHostPort(addr, echoPort))
			must(t, err)
			defer c.Close()
			deadline, _ := ctx.Deadline()
			c.SetDeadline(deadline)
			must(t, echo(c, "before"))
			s.them.restart(t)
			begin := time.Now()
			err = echo(c, "after")
			took(t, "a write on an old connection to "+addr, begin)
			if kind == "wireguard-go" {
				must(t, err)
			} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.EOF) {
				// Which of them it is depends on whether the end of their program or of their stack came first.
				t.Errorf("%v, want the connection's end", err)
			}
			// And a new one is there at once.
			must(t, getHello(ctx, s.us, addr))
		}
	})
}

func echo(c net.Conn, text string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, []byte(text)) {
		return errors.New("the echo differs")
	}
	return nil
}

// TestRestartAtOnce is fault 26: a process is restarted right after its handshake. WireGuard's time stamps are coarse
// and a peer refuses a second initiation within 20 ms (WireGuard paper, section 5.1), so the new process's first one is
// lost.
func TestRestartAtOnce(t *testing.T) {
	const rounds = 5
	eachKind(t, func(t *testing.T, kind string) {
		s := newScene(t, setting{them: kind, starts: "we"})
		ctx := testContext(t)
		for range rounds {
			must(t, s.us.WaitPeer(ctx, s.us.cfg.Peers[0].PublicKey))
			begin := time.Now()
			s.us.restart(t)
			t.Logf("restarted within %v of a handshake", time.Since(begin).Round(100*time.Microsecond))
			begin = time.Now()
			must(t, getHello(ctx, s.us, s.addrs2[0]))
			took(t, "dial", begin)
		}
	})
}
