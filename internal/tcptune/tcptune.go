// SPDX-License-Identifier: MIT

// Package tcptune lets internal/bench run stacks with other TCP settings than those that the module has chosen, to
// show why it has. Nobody else has a use for it.
package tcptune

import "sync/atomic"

// Settings are what netstack chooses for TCP. A zero field means netstack's choice.
type Settings struct {
	// Congestion is the congestion control: "reno" or "cubic".
	Congestion string
	// Recovery is how losses are found: "rack" (RFC 8985), or "sack" for SACK's rules alone (RFC 6675).
	Recovery string
	// MaxSend and MaxReceive bound the auto-tuning of a connection's buffers, in bytes.
	MaxSend, MaxReceive int
}

// Override, if not nil, is what stacks made from now on have.
var Override atomic.Pointer[Settings]
