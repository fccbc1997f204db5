// SPDX-License-Identifier: MIT

package netstack

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fault 29.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadline
		want := func(what string, passed bool) {
			t.Helper()
			synctest.Wait()
			if isClosed(d.wait()) != passed {
				t.Errorf("%s: passed %v, want %v", what, !passed, passed)
			}
		}
		want("never set", false)
		zero := d.wait()
		d.set(time.Now().Add(time.Second))
		if d.wait() != zero {
			t.Error("a waiter from before does not wait for the deadline that was set")
		}
		time.Sleep(time.Second - 1) // the bubble's clock, here and below
		want("before", false)
		time.Sleep(1 * time.Nanosecond)
		want("at", true)
		if !isClosed(zero) {
			t.Error("the waiter was not woken")
		}
		d.set(time.Time{})
		want("cleared", false)
		d.set(time.Now().Add(-1))
		want("past", true)
		d.set(time.Now())
		want("now", true)
		d.set(time.Now().Add(time.Second))
		want("moved", false)
		d.set(time.Now().Add(time.Minute))
		time.Sleep(59 * time.Second)
		want("moved out before it passed", false)
		d.set(time.Now().Add(time.Millisecond))
		time.Sleep(time.Millisecond)
		want("moved in", true)
		d.set(time.Now().Add(time.Hour))
		d.set(time.Time{})
		time.Sleep(2 * time.Hour)
		want("cleared before it passed", false)
	})
}

// Moves that race with the timer and with one another leave the last one in force.
func TestDeadlineRaces(t *testing.T) {
	var d deadline
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 500 {
				d.set(time.Now().Add(time.Duration(i%3) * time.Microsecond))
				isClosed(d.wait())
			}
		})
	}
	wg.Wait()
	d.set(time.Now().Add(time.Hour))
	if isClosed(d.wait()) {
		t.Error("an old timer has made the new deadline pass")
	}
	d.set(time.Now().Add(time.Microsecond))
	<-d.wait()
	d.set(time.Time{})
}
