// SPDX-License-Identifier: MIT

//go:build !linux

package wgnet_test

import (
	"syscall"
	"testing"
)

func blackHole(t *testing.T) string {
	t.Skip("written for Linux")
	return ""
}

func smallSendBuffer(_, _ string, _ syscall.RawConn) error { return nil }
