// SPDX-License-Identifier: MIT

package main

import (
	"runtime"
	"time"
)

// used is what the process has used so far.
type used struct {
	cpu    time.Duration // user and system
	allocs uint64        // objects on the heap
}

func usage() used {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return used{cpu: cpuTime(), allocs: m.Mallocs}
}

func (u used) minus(v used) used { return used{u.cpu - v.cpu, u.allocs - v.allocs} }

func heapAlloc() int64 {
	runtime.GC()
	runtime.GC() // what a finalizer has held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
