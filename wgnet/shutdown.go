// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
)

// Shutdown takes the host down as [Net.Close] does, but in good order: it delivers what was written, or returns an error.
//
//   - Listeners are closed at once: Accept returns [net.ErrClosed], and connections that wait to be accepted are reset. So do
//     Dial and Listen from now on, dials that are under way included, and look-ups of names.
//   - The handler of [Net.HandleFlows] is ended, as by HandleFlows(nil): connections that it has accepted are open ones.
//   - Open TCP connections go on until the program closes them. Those that are closed go on until the other side has
//     acknowledged all that was written, over a slow link as long as that takes.
//   - UDP sockets, which have no end that could be waited for, work until all of that is done.
//   - Then the host is closed. The other sides, which have seen the end of each connection, see no reset.
//
// When ctx is done first, the host is closed without further waiting, which aborts what is left: see Close. Shutdown says
// what that was, in an error for which errors.Is finds ctx's. It returns [net.ErrClosed] if Close is called before all was
// delivered, and an error of its own if a connection that the program had closed ended by a reset, or because the other
// side has not answered for minutes, before all was acknowledged. Whatever it returns, the host is closed then, and all is free.
// What has arrived at the other side's TCP counts as delivered; whether anybody reads it there is not known.
//
// It may be called at any moment, from any goroutine and more than once; every call waits. A handler that calls it is
// waited for as well, so it should close its connection first, or give ctx a deadline. Servers that keep connections
// open for further requests, as an [net/http.Server] does, are to be shut down first.
func (n *Net) Shutdown(ctx context.Context) error {
	if !n.ending() {
		n.log.Info("shutting down")
	}
	err := n.stack.Drain(ctx)
	_ = n.Close() // never fails
	if err != nil {
		return fmt.Errorf("wgnet: Shutdown: %w", err)
	}
	return nil
}

// ending says whether the Net is being closed or shut down.
func (n *Net) ending() bool { return n.ctx.Err() != nil || n.stack.Draining() }
