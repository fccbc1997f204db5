// SPDX-License-Identifier: MIT

package wgnet

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// sleepTime is how much of a sleep, or of a step of the clock, makes sessions doubtful: less than the time in which
	// NATs forget a mapping, and more than a busy machine keeps anybody waiting.
	sleepTime = 10 * time.Second
	// stepTime is the least step back of the clock that is noticed. Initiations are at least as far apart as five of it.
	stepTime = time.Second
)

// clock compares the wall clock with the monotonic one, look by look. During a sleep of the machine the monotonic clock
// stands still on most systems, and the wall clock does not; when the process alone is stopped, both run on and a look
// comes too late. When the wall clock is set back, time stamps of our handshakes are older than those that peers have seen.
type clock struct {
	now  func() (wall time.Time, mono time.Duration)
	wall time.Time     // of the last look
	mono time.Duration // of the last look
	back atomic.Pointer[setBack]
}

// setBack says that the wall clock was set back, and has not caught up yet.
type setBack struct{ until time.Time }

// clockNews is what a look has found.
type clockNews struct {
	elapsed  time.Duration // on the monotonic clock, since the last look
	slept    time.Duration // of it or beyond it; 0 if nobody has slept
	setBack  time.Duration // how far the wall clock is behind now; 0 if it was not set back
	caughtUp bool          // it is not behind any more
}

// systemClock is the machine's.
func systemClock() func() (time.Time, time.Duration) {
	begin := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now.Round(0), now.Sub(begin) // without the reading of the monotonic clock, and of it alone
	}
}

func newClock(now func() (time.Time, time.Duration)) *clock {
	c := &clock{now: now}
	c.wall, c.mono = now()
	return c
}

// look says what has become of the clocks since the last look, which should have been pause ago.
func (c *clock) look(pause time.Duration) (news clockNews) {
	wall, mono := c.now()
	before, elapsed := c.wall, mono-c.mono
	c.wall, c.mono = wall, mono
	news.elapsed = elapsed
	step := wall.Sub(before) - elapsed // of the wall clock
	behind := c.back.Load()
	if step <= -stepTime {
		// No time stamp of ours is younger.
		until := before.Add(elapsed)
		if behind != nil && behind.until.After(until) {
			until = behind.until
		}
		behind = &setBack{until}
		c.back.Store(behind)
		news.setBack = until.Sub(wall)
	}
	if behind != nil && !wall.Before(behind.until) {
		c.back.Store(nil)
		news.caughtUp = true
	}
	if slept := max(step, 0) + elapsed - pause; slept >= sleepTime {
		news.slept = slept
	}
	return news
}

// problem says that the clock is behind where it was, or nothing.
func (c *clock) problem() string {
	behind := c.back.Load()
	if behind == nil {
		return ""
	}
	wall, _ := c.now()
	if left := behind.until.Sub(wall); left > 0 {
		return fmt.Sprintf("this machine's clock was set back by %s: until it is set right, or reads %s, peers refuse our "+
			"handshakes as old ones, and new sessions begin only when they start", left.Round(time.Second),
			behind.until.Format(time.RFC3339))
	}
	return ""
}
