// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// maxLogLines bounds the lines that wait for a slow handler of Config.Logger.
const maxLogLines = 512

// logQueue is a slog.Handler that never waits: the lines go to the user's handler in a goroutine of the queue's own. So
// a slow handler holds nobody up, and one that calls us meets no lock of the device, whose log comes with locks held.
type logQueue struct {
	*logLines
	handler slog.Handler
}

// logLines are what a logQueue and its descendants by WithAttrs and WithGroup have in common.
type logLines struct {
	lines chan logLine
	lost  atomic.Int64  // lines that found no place
	done  chan struct{} // closed when no more lines come
}

type logLine struct {
	handler slog.Handler
	record  slog.Record
}

func newLogQueue(handler slog.Handler) *logQueue {
	return &logQueue{&logLines{lines: make(chan logLine, maxLogLines), done: make(chan struct{})}, handler}
}

// Enabled implements slog.Handler.
func (q *logQueue) Enabled(ctx context.Context, level slog.Level) bool {
	return q.handler.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (q *logQueue) Handle(_ context.Context, record slog.Record) error {
	select {
	case q.lines <- logLine{q.handler, record}:
	default:
		q.lost.Add(1)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (q *logQueue) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logQueue{q.logLines, q.handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (q *logQueue) WithGroup(name string) slog.Handler {
	return &logQueue{q.logLines, q.handler.WithGroup(name)}
}

// run hands out the lines until close, and what is left then.
func (q *logQueue) run() {
	for {
		select {
		case line := <-q.lines:
			q.hand(line)
		case <-q.done:
			for {
				select {
				case line := <-q.lines:
					q.hand(line)
				default:
					return
				}
			}
		}
	}
}

// hand gives a line to the user's handler, whose error slog does not tell anyone either.
func (q *logQueue) hand(line logLine) {
	_ = line.handler.Handle(context.Background(), line.record)
	if lost := q.lost.Swap(0); lost > 0 {
		record := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were lost: the handler is too slow", 0)
		record.AddAttrs(slog.Int64("lines", lost))
		_ = q.handler.Handle(context.Background(), record)
	}
}

// close ends run. Nothing may be logged after it. Call it once.
func (q *logQueue) close() { close(q.done) }
