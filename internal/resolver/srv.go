// SPDX-License-Identifier: MIT

package resolver

import (
	"cmp"
	"math/rand/v2"
	"net"
	"slices"
)

// sortSRV brings records into the order in which they are to be tried (RFC 2782, "The format of the SRV RR"): by
// priority, and within one priority by a draw in which a record's chance is its share of the weights.
func sortSRV(records []*net.SRV) {
	// By weight too, so that the draw comes to records of weight 0 first: that gives them their small chance.
	slices.SortStableFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Weight, b.Weight))
	})
	for len(records) > 0 {
		n := slices.IndexFunc(records, func(r *net.SRV) bool { return r.Priority != records[0].Priority })
		if n < 0 {
			n = len(records)
		}
		shuffleByWeight(records[:n])
		records = records[n:]
	}
}

// shuffleByWeight draws the first record, then the second from what is left, and so on. The draw shares out load, it
// protects nothing, so math/rand/v2 serves.
func shuffleByWeight(records []*net.SRV) {
	sum := 0
	for _, r := range records {
		sum += int(r.Weight)
	}
	for ; len(records) > 1; records = records[1:] {
		draw := rand.IntN(sum + 1)
		i, running := 0, int(records[0].Weight)
		for running < draw {
			i++
			running += int(records[i].Weight)
		}
		drawn := records[i]
		copy(records[1:i+1], records[:i]) // keeps the records of weight 0 in front
		records[0] = drawn
		sum -= int(drawn.Weight)
	}
}
