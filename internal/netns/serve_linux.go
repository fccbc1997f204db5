// SPDX-License-Identifier: MIT

package netns

import (
	"context"
	"net"
	"time"
)

// Serve starts a server in the namespace, in the foreground, and waits until it takes TCP connections at an address. It is
// killed in the test's Cleanup, so it must be one process.
func (n *Namespace) Serve(address, name string, args ...string) {
	n.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var log lockedBuffer
	cmd := n.Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		cancel()
		n.tb.Fatalf("netns: start %s: %v", name, err)
	}
	exited := make(chan struct{})
	go func() { // ends when cancel kills the server; Cleanup waits for it
		_ = cmd.Wait() // it was killed, or has said why it ended
		close(exited)
	}()
	n.tb.Cleanup(func() {
		cancel()
		<-exited
		if n.tb.Failed() {
			n.tb.Logf("netns: what %s said:\n%s", name, log.String())
		}
	})
	deadline := time.After(commandTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.Do(func() error {
			c, err := net.DialTimeout("tcp", address, commandTimeout)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return
		}
		select {
		case <-exited:
			n.tb.Fatalf("netns: %s ended at once", name)
		case <-deadline:
			n.tb.Fatalf("netns: %s does not answer: %v", name, err)
		case <-tick.C:
		}
	}
}
