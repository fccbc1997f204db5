// SPDX-License-Identifier: MIT

//go:build !linux

package gateway

import "syscall"

// Elsewhere than on Linux a connected UDP socket tells of what ICMP says as it is, and has no queue of errors.
func reportErrors(syscall.RawConn) error { return nil }
func forgetErrors(int)                   {}
