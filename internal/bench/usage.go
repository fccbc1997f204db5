// SPDX-License-Identifier: MIT

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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

// resident returns how much of the process is in memory, in bytes, or 0 where the system has no /proc.
func resident() int64 {
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
