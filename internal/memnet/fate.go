// SPDX-License-Identifier: MIT

package memnet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The draws of one datagram, by number. The numbers are part of what makes a fate repeatable: do not renumber them.
const (
	drawLoss = iota
	drawCorrupt
	drawCorruptBit
	drawDuplicate
	drawReorder
	drawJitter
	drawsEach = 8 // for each datagram, with room for more properties
)

// A fate is what the weather does to one datagram.
type fate struct {
	lose, corrupt, duplicate, reorder bool
	bit                               uint64  // corruption flips the bit of this number, modulo the bits that there are
	jitter                            float64 // the part of Link.Jitter to wait, from 0 up to 1
}

// linkKey is the seed of a link's generator.
func linkKey(seed uint64, from, to netip.Addr) uint64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %s", seed, from, to))
	return binary.LittleEndian.Uint64(sum[:])
}

// fateOf is the fate of datagram n of the link with this key, in the weather w.
func fateOf(key, n uint64, w *Link) fate {
	return fate{
		lose:      chance(draw(key, n, drawLoss)) < w.Loss,
		corrupt:   chance(draw(key, n, drawCorrupt)) < w.Corrupt,
		bit:       draw(key, n, drawCorruptBit),
		duplicate: chance(draw(key, n, drawDuplicate)) < w.Duplicate,
		reorder:   chance(draw(key, n, drawReorder)) < w.Reorder,
		jitter:    chance(draw(key, n, drawJitter)),
	}
}

// draw is output number n*drawsEach+i of SplitMix64 seeded with key (Steele, Lea and Flood: Fast Splittable
// Pseudorandom Number Generators, 2014). Its state is a counter, so any output is as near as the next.
func draw(key, n, i uint64) uint64 {
	z := key + (n*drawsEach+i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// chance maps a draw to [0, 1).
func chance(x uint64) float64 { return float64(x>>11) / (1 << 53) }
