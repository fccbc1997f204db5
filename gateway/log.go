// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logEvery is the least time between two lines of one kind: peers cause them, as many as they like.
const logEvery = time.Second

// A limitedLog writes lines of one kind, and leaves out those that come too fast.
type limitedLog struct {
	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped int
}

// log writes a line about a request, or about none.
func (l *limitedLog) log(to *slog.Logger, level slog.Level, msg string, r *request, more ...slog.Attr) {
	if !to.Enabled(context.Background(), level) {
		return
	}
	l.mu.Lock()
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < logEvery {
		l.skipped++
		l.mu.Unlock()
		return
	}
	if l.skipped > 0 {
		more = append(more, slog.Int("skipped", l.skipped))
	}
	l.last, l.skipped = now, 0
	l.mu.Unlock()
	to.LogAttrs(context.Background(), level, msg, append(r.attrs(), more...)...)
}

// attrs say of whom and of what a line is.
func (r *request) attrs() []slog.Attr {
	if r == nil {
		return nil
	}
	return []slog.Attr{
		slog.String("peer", r.from.String()), slog.String("network", r.Network()),
		slog.Any("source", r.Source()), slog.Any("destination", r.dst),
	}
}

// A reason is words that are put together only if they are written.
type reason func() string

// LogValue implements [slog.LogValuer].
func (r reason) LogValue() slog.Value { return slog.StringValue(r()) }
