// SPDX-License-Identifier: MIT

//go:build !race

package wgnet_test

const defaultCycles = 100
