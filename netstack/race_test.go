// SPDX-License-Identifier: MIT

//go:build race

package netstack_test

// The race detector makes everything several times slower: the long tests do less with it.
const raceEnabled = true
