// SPDX-License-Identifier: MIT

//go:build race

package outer

const raceEnabled = true
