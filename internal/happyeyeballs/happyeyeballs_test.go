// SPDX-License-Identifier: MIT

package happyeyeballs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// addrs names addresses for short: "6a" is [2001:db8::a]:80, "4b" 192.0.2.11:80, "m1" a mapped 192.0.2.1.
func addrs(s string) []netip.AddrPort {
	var all []netip.AddrPort
	for f := range strings.FieldsSeq(s) {
		var n byte
		fmt.Sscanf(f[1:], "%x", &n)
		ip := netip.AddrFrom4([4]byte{192, 0, 2, n})
		switch f[0] {
		case '6':
			ip = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: n})
		case 'm':
			ip = netip.AddrFrom16(ip.As16())
		}
		all = append(all, netip.AddrPortFrom(ip, 80))
	}
	return all
}

func TestInterleave(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"one family", "41 42 43", "41 42 43"},
		{"IPv6 first", "61 62 63 41 42", "61 41 62 42 63"},
		{"IPv4 first", "41 42 61 62", "41 61 42 62"},
		{"more of the other", "61 41 42 43", "61 41 42 43"},
		{"in turns already", "61 41 62 42", "61 41 62 42"},
		{"mapped is IPv4", "61 m1 62 42", "61 m1 62 42"},
		{"two", "61 41", "61 41"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := addrs(tt.in)
			if got := interleave(in); !slices.Equal(got, addrs(tt.want)) {
				t.Errorf("got %v, want %v", got, addrs(tt.want))
			}
			if !slices.Equal(in, addrs(tt.in)) {
				t.Error("the caller's slice was changed")
			}
		})
	}
}

// attempt is how a fake dial behaves: it ends after a while, or with its context.
type attempt struct {
	after   time.Duration // negative: never
	err     error
	ignores time.Duration // goes on for so long after its context is done, and then succeeds
}

// conn is a fake conn that knows whether it was closed.
type conn struct {
	net.Conn
	addr   string
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

// network is what the addresses lead to; it records when each was dialed.
type network struct {
	attempts map[string]attempt // by name, as addrs has it
	start    time.Time

	mu    sync.Mutex // guards log, conns and open
	log   []string   // "0s 6a": when and whom
	conns []*conn
	open  int // attempts that have not returned
}

func (n *network) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	name := fmt.Sprintf("4%x", addr.Addr().AsSlice()[len(addr.Addr().AsSlice())-1])
	if addr.Addr().Is6() {
		name = "6" + name[1:]
	}
	n.mu.Lock()
	n.log = append(n.log, fmt.Sprintf("%v %s", time.Since(n.start), name))
	n.open++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.open--
		n.mu.Unlock()
	}()

	a := n.attempts[name]
	var end <-chan time.Time
	if a.after >= 0 {
		end = time.After(a.after)
	}
	select {
	case <-ctx.Done():
		if a.ignores == 0 {
			return nil, &net.OpError{Op: "dial", Net: name, Err: ctx.Err()}
		}
		<-time.After(a.ignores)
	case <-end:
		if a.err != nil {
			return nil, &net.OpError{Op: "dial", Net: name, Err: a.err}
		}
	}
	c := &conn{addr: name}
	n.mu.Lock()
	n.conns = append(n.conns, c)
	n.mu.Unlock()
	return c, nil
}

func TestDial(t *testing.T) {
	const never = -1
	refused, unreachable := syscall.ECONNREFUSED, syscall.ENETUNREACH
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	tests := []struct {
		name     string
		addrs    string
		attempts map[string]attempt
		timeout  time.Duration // 0: none
		winner   string        // "" for an error
		wantErr  error
		errOf    string // whose error it is, "" for ctx's own
		took     time.Duration
		log      []string
	}{
		{
			"the first answers before the delay", "61 41",
			map[string]attempt{"61": {after: ms(249)}},
			0,
			"61", nil, "", ms(249),
			[]string{"0s 61"},
		},
		{
			"the first is silent, the other family joins after 250 ms", "61 62 41",
			map[string]attempt{"61": {after: never}, "41": {after: ms(10)}},
			0,
			"41", nil, "", ms(260),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"the first answers late and wins all the same", "61 41",
			map[string]attempt{"61": {after: ms(300)}, "41": {after: ms(100)}},
			0,
			"61", nil, "", ms(300),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"one more each 250 ms", "61 62 41 42",
			map[string]attempt{"61": {after: never}, "41": {after: never}, "62": {after: never}, "42": {after: ms(5)}},
			0,
			"42", nil, "", ms(755),
			[]string{"0s 61", "250ms 41", "500ms 62", "750ms 42"},
		},
		{
			"a failure starts the next at once", "61 41",
			map[string]attempt{"61": {after: ms(20), err: refused}, "41": {after: ms(10)}},
			0,
			"41", nil, "", ms(30),
			[]string{"0s 61", "20ms 41"},
		},
		{
			"the delay begins anew after a failure", "61 41 62",
			map[string]attempt{"61": {after: ms(20), err: refused}, "41": {after: never}, "62": {after: ms(1)}},
			0,
			"62", nil, "", ms(271),
			[]string{"0s 61", "20ms 41", "270ms 62"},
		},
		{
			"an earlier attempt's failure starts the next too", "61 41 62",
			map[string]attempt{"61": {after: ms(300), err: refused}, "41": {after: never}, "62": {after: ms(1)}},
			0,
			"62", nil, "", ms(301),
			[]string{"0s 61", "250ms 41", "300ms 62"},
		},
		{
			"all fail: the first address's error", "61 41 62",
			map[string]attempt{"61": {after: ms(10), err: refused}, "41": {err: unreachable}, "62": {err: unreachable}},
			0,
			"", refused, "61", ms(10),
			[]string{"0s 61", "10ms 41", "10ms 62"},
		},
		{
			"all fail, the first one last: its error", "61 41",
			map[string]attempt{"61": {after: ms(900), err: refused}, "41": {err: unreachable}},
			0,
			"", refused, "61", ms(900),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"a loser that connects late", "61 41",
			map[string]attempt{"61": {after: never, ignores: ms(30)}, "41": {after: ms(10)}},
			0,
			"41", nil, "", ms(290),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"two at the same moment", "61 41",
			map[string]attempt{"61": {after: ms(260)}, "41": {after: ms(10)}},
			0,
			"61 or 41", nil, "", ms(260),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"deadline: an attempt's own words", "61 41",
			map[string]attempt{"61": {after: never}, "41": {after: never}},
			ms(400),
			"", context.DeadlineExceeded, "61", ms(400),
			[]string{"0s 61", "250ms 41"},
		},
		{
			"deadline after the first failed", "61 41",
			map[string]attempt{"61": {err: refused}, "41": {after: never}},
			ms(400),
			"", context.DeadlineExceeded, "41", ms(400),
			[]string{"0s 61", "0s 41"},
		},
		{
			"deadline at the moment the next would start", "61 41",
			map[string]attempt{"61": {after: never}, "41": {after: never}},
			ms(250),
			"", context.DeadlineExceeded, "61", ms(250), nil,
		},
		{
			"one address", "61",
			map[string]attempt{"61": {after: ms(1000), err: refused}},
			0,
			"", refused, "61", ms(1000),
			[]string{"0s 61"},
		},
		{
			"one address that answers", "41",
			map[string]attempt{"41": {after: ms(1000)}},
			0,
			"41", nil, "", ms(1000),
			[]string{"0s 41"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				n := &network{attempts: tt.attempts, start: time.Now()}
				got, err := Dial(ctx, addrs(tt.addrs), n.dial)

				if took := time.Since(n.start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if n.open != 0 {
					t.Errorf("%d attempts still run", n.open)
				}
				if tt.log != nil && !slices.Equal(n.log, tt.log) {
					t.Errorf("dialed %q, want %q", n.log, tt.log)
				}
				for _, c := range n.conns {
					if won := got == net.Conn(c); won == c.closed {
						t.Errorf("conn to %s: won %v, closed %v", c.addr, won, c.closed)
					}
				}
				if tt.winner != "" {
					if err != nil || !strings.Contains(tt.winner, got.(*conn).addr) {
						t.Errorf("got %v, %v; want %s", got, err, tt.winner)
					}
					return
				}
				if got != nil || !errors.Is(err, tt.wantErr) {
					t.Fatalf("got %v, %v; want %v", got, err, tt.wantErr)
				}
				if op, ok := err.(*net.OpError); !ok || op.Net != tt.errOf {
					t.Errorf("got %#v, want the error of %s as it was", err, tt.errOf)
				}
			})
		})
	}
}

// TestContextFirst: with a context that is done nothing is dialed, and the error is the context's.
func TestContextFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		n := &network{start: time.Now()}
		if got, err := Dial(ctx, addrs("61 41"), n.dial); got != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, %v", got, err)
		}
		if len(n.log) != 0 {
			t.Errorf("dialed %q", n.log)
		}
	})
}

// TestContextOwnError: attempts that fail with something else when the context ends do not hide that it did.
func TestContextOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Dial(ctx, addrs("61 41"), func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, os.ErrDeadlineExceeded
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNoAddress(t *testing.T) {
	var addrErr *net.AddrError
	if got, err := Dial(t.Context(), nil, nil); got != nil || !errors.As(err, &addrErr) {
		t.Errorf("got %v, %v; want a *net.AddrError", got, err)
	}
}
