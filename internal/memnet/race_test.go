// SPDX-License-Identifier: MIT

//go:build race

package memnet

const raceEnabled = true
