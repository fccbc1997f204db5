// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// logBook is a slog.Handler that keeps the lines.
type logBook struct {
	mu    sync.Mutex // guards lines
	lines []slog.Record
	hold  chan struct{} // each line waits for it to be closed, unless nil
}

func (l *logBook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logBook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logBook) WithGroup(string) slog.Handler            { return l }

func (l *logBook) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	l.lines = append(l.lines, r)
	l.mu.Unlock()
	if l.hold != nil {
		<-l.hold
	}
	return nil
}

// find returns the lines with a message, and their attributes.
func (l *logBook) find(message string) (found []map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.lines {
		if r.Message == message {
			attrs := map[string]string{"level": r.Level.String()}
			r.Attrs(func(a slog.Attr) bool {
				attrs[a.Key] = a.Value.String()
				return true
			})
			found = append(found, attrs)
		}
	}
	return found
}

// What a person reads: the story at level Info, the protocol at level Debug, in our words and with the peer's name.
func TestLog(t *testing.T) {
	book := &logBook{}
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Logger = slog.New(book) })
	key := wgnet.PublicKey(up.PublicKey())
	if err := n.WaitPeer(testContext(t), key); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the story", func() bool { return len(book.find("peer up")) > 0 })
	closeNet(t, n)
	for message, want := range map[string]map[string]string{
		"listening":                   {"level": "INFO", "peers": "1"},
		"handshake initiation sent":   {"level": "DEBUG", "peer": "up", "key": key.String()},
		"handshake response received": {"level": "DEBUG", "peer": "up", "key": key.String()},
		"peer up":                     {"level": "INFO", "peer": "up", "key": key.String(), "endpoint": up.Endpoint()},
		"closing":                     {"level": "INFO"},
	} {
		lines := book.find(message)
		if len(lines) == 0 {
			t.Errorf("no line %q", message)
			continue
		}
		for name, value := range want {
			if lines[0][name] != value {
				t.Errorf("%s: %s is %q, want %q", message, name, lines[0][name], value)
			}
		}
	}
	book.mu.Lock()
	defer book.mu.Unlock()
	for _, r := range book.lines {
		if r.Level > slog.LevelInfo || strings.Contains(r.Message, "%") || strings.Contains(r.Message, "outine") || strings.HasPrefix(r.Message, "of the") {
			t.Errorf("%s: %s", r.Level, r.Message)
		}
	}
}

// fault 71: strangers do not fill the log, and the next line says how much was left out.
func TestLogFlood(t *testing.T) {
	book := &logBook{}
	cfg := newConfig("10.0.0.1/24")
	cfg.Logger = slog.New(book)
	cfg.ListenPacket = inMemory(t)
	n := newNet(t, cfg)
	us := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(localhost(n.ListenPort())))
	stranger, err := cfg.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	const message, last = "datagram refused: it is no WireGuard message", "handshake message refused: it is not meant for our public key"
	for range 300 {
		if _, err := stranger.WriteTo(make([]byte, 64), us); err != nil {
			t.Fatal(err)
		}
	}
	// The device sees to it after those.
	if _, err := stranger.WriteTo(append([]byte{1, 0, 0, 0}, make([]byte, 144)...), us); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the last line", func() bool { return len(book.find(last)) > 0 })
	if lines := book.find(message); len(lines) == 0 || len(lines) > 3 { // one in ten seconds
		t.Errorf("%d lines of 300", len(lines))
	}
}

// A handler that hangs holds up nobody but Close.
func TestLogSlowHandler(t *testing.T) {
	book := &logBook{hold: make(chan struct{})}
	n, up := newUpstream(t, func(cfg *wgnet.Config) { cfg.Logger = slog.New(book) })
	defer close(book.hold) // before the Net is closed
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ping(testContext(t), "up"); err != nil {
		t.Error(err)
	}
	if err := up.WaitHandshake(testContext(t), testpeer.Key(n.PublicKey())); err != nil {
		t.Error(err)
	}
	if p := status(n); p.Session != wgnet.SessionUp {
		t.Errorf("got %+v", p)
	}
}

// fault 19: a handler may ask for the status, whatever the line.
func TestStatusFromLogger(t *testing.T) {
	var (
		net  *wgnet.Net
		made = make(chan struct{})
		once sync.Once
		seen = make(chan struct{})
	)
	cfg := newConfig("10.0.0.1/24")
	addPeer(cfg, "", wgnet.NewPrivateKey().Public(), newInitiations(t).endpoint, "10.0.0.2/32")
	cfg.Logger = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		<-made
		if len(net.Status().Peers) != 1 {
			t.Error("no peer")
		}
		once.Do(func() { close(seen) })
		return len(b), nil
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	net = newNet(t, cfg)
	close(made)
	select {
	case <-seen:
	case <-testContext(t).Done():
		t.Fatal("no line")
	}
}
