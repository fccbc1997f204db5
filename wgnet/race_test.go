// SPDX-License-Identifier: MIT

//go:build race

package wgnet_test

// defaultCycles is low here: under the race detector each takes ten times as long.
const defaultCycles = 30
