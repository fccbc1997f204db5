// SPDX-License-Identifier: MIT

package netstack

import (
	"io"

	"gvisor.dev/gvisor/pkg/log"
)

// gVisor writes warnings to the process's standard error, some of which a stranger's packet causes. A library does not
// print, and gVisor has no logger for each stack: what matters is in return values and counters.
func init() {
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
}
