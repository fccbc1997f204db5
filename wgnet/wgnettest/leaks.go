// SPDX-License-Identifier: MIT

package wgnettest

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// grace is how long what is ending may take.
	grace = 5 * time.Second
	// maxShown bounds what a failure lists.
	maxShown = 20

	labelKey = "wgnettest"
)

var networks atomic.Uint64

// newLabel is a profiler label for the goroutines of a network.
func newLabel() string { return fmt.Sprintf("network %d", networks.Add(1)) }

// await calls list until it has nothing to tell, or the grace is over.
func await(list func() []string) []string {
	limit := time.NewTimer(grace)
	defer limit.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left := list()
		if len(left) == 0 {
			return nil
		}
		tick := time.NewTimer(pause)
		select {
		case <-tick.C:
		case <-limit.C:
			tick.Stop()
			return left
		}
	}
}

// openSockets lists what the members have open and should not at the end of a test.
func (n *Network) openSockets() (left []string) {
	for _, node := range n.Nodes {
		if node.Net == nil {
			continue
		}
		for _, s := range node.Net.Sockets() {
			left = append(left, fmt.Sprintf("node %s: %s", node.Name, s))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, node := range n.Nodes {
		for t := range node.opened {
			left = append(left, fmt.Sprintf("node %s: outer socket %s", node.Name, t.LocalAddr()))
		}
	}
	return left
}

// goroutines are the stacks of the goroutines with a label, each with how often it is there.
func goroutines(label string) (stacks []string) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return []string{err.Error()} // a bytes.Buffer has none
	}
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", labelKey, label)) {
			stacks = append(stacks, strings.TrimSpace(stack))
		}
	}
	return stacks
}

// join puts findings into one text.
func join(list []string) string {
	if more := len(list) - maxShown; more > 0 {
		list = append(list[:maxShown:maxShown], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, "\n\t")
}
