// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// quiet keeps gVisor from printing to the standard error, which it does by default, and for packets that a stranger
// can send. The logger is the whole process's: a program that has set one of its own keeps it.
var quiet = sync.OnceFunc(func() {
	if e, ok := log.Log().Emitter.(log.GoogleEmitter); ok && e.Writer != nil && e.Next == os.Stderr {
		log.SetTarget(discard{})
	}
})

type discard struct{}

func (discard) Emit(int, log.Level, time.Time, string, ...any) {}
