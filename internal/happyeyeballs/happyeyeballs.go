// SPDX-License-Identifier: MIT

// Package happyeyeballs connects to the first of several addresses that answers (RFC 8305).
package happyeyeballs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// attemptDelay is how long an attempt runs alone before the next one joins it (RFC 8305 section 8, "Connection Attempt
// Delay").
const attemptDelay = 250 * time.Millisecond

// result is how one attempt ended.
type result struct {
	index int
	conn  net.Conn
	err   error
}

// Dial calls dial for the addresses, one more each 250 ms and at once when an attempt fails, and returns the first
// conn. Families take turns, beginning with the first address's; within a family the order stays (RFC 8305 section 4:
// the resolver has put the better address first). A single address is dialed directly, and its error comes back
// untouched.
//
// The context that dial gets ends when another attempt wins; it must bound the attempt, not the conn, and dial must
// return soon after it is done. Dial waits for that: when it returns, no attempt runs and every conn but the winner's
// is closed.
//
// When all attempts fail, the error is that of the first address, as in the net package: the address that the
// resolver put first is the one that a person expects to reach. When ctx ends first, the error is that of an attempt
// that says so, or else ctx's own: it always satisfies errors.Is with ctx.Err(). Safe for concurrent use.
func Dial(
	ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error),
) (net.Conn, error) {
	switch len(addrs) {
	case 0:
		return nil, &net.AddrError{Err: "no address to dial"}
	case 1:
		return dial(ctx, addrs[0])
	}
	addrs = interleave(addrs)

	attemptCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		winner  net.Conn
		results = make(chan result)
		errs    = make([]error, len(addrs))
		started int
		running int
	)
	delay := time.NewTimer(0) // the first attempt starts at once
	defer delay.Stop()
	for {
		// Nothing starts any more once there is a winner or ctx is done; what runs is waited for.
		over := winner != nil || ctx.Err() != nil
		if running == 0 && (over || started == len(addrs)) {
			break
		}
		// While nothing runs, delay has fired or is about to, so ctx needs no case of its own: attempts obey it.
		next := delay.C
		if over || started == len(addrs) {
			next = nil
		}
		select {
		case <-next:
			if ctx.Err() != nil {
				continue
			}
			index := started
			started++
			running++
			// Ends when dial returns, which attemptCtx makes it do; the loop takes its result before Dial returns.
			go func() {
				conn, err := dial(attemptCtx, addrs[index])
				results <- result{index, conn, err}
			}()
			delay.Reset(attemptDelay)
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.index] = r.err
				delay.Reset(0)
			case winner == nil:
				winner = r.conn
				cancel()
			default:
				r.conn.Close()
			}
		}
	}

	if winner != nil {
		return winner, nil
	}
	if err := ctx.Err(); err != nil {
		for _, e := range errs {
			if errors.Is(e, err) {
				return nil, e
			}
		}
		return nil, err
	}
	return nil, errs[0]
}

// interleave lets the families take turns, beginning with that of the first address (RFC 8305 section 4 with a "First
// Address Family Count" of 1). The order within each family stays, and what one family has more comes at the end.
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	is4 := func(a netip.AddrPort) bool { return a.Addr().Unmap().Is4() }
	var families [2][]netip.AddrPort // the first address's family and the other
	for _, a := range addrs {
		i := 0
		if is4(a) != is4(addrs[0]) {
			i = 1
		}
		families[i] = append(families[i], a)
	}
	mixed := make([]netip.AddrPort, 0, len(addrs))
	for i := range max(len(families[0]), len(families[1])) {
		for _, family := range families {
			if i < len(family) {
				mixed = append(mixed, family[i])
			}
		}
	}
	return mixed
}
