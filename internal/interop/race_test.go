// SPDX-License-Identifier: MIT

//go:build race

package interop

const raceEnabled = true
