// SPDX-License-Identifier: MIT

package outer

const (
	// maxSegments is the most segments of one send: UDP_MAX_SEGMENTS of kernels before 6.9, later ones take 128.
	maxSegments = 64
	// maxRunBytes keeps a send below 65,536 bytes with its IPv6, UDP, Ethernet and VLAN headers. Above it the
	// kernel segments in software, eight times slower.
	maxRunBytes = 65_535 - 40 - 8 - 18
)

// runLength returns how many of the first buffers can go out as one segmented send: all of one size, but for a
// smaller one that ends the run. It is at least 1.
func runLength(bufs [][]byte) int {
	size := len(bufs[0])
	total := size
	n := 1
	for n < len(bufs) && n < maxSegments {
		next := len(bufs[n])
		if next == 0 || next > size || total+next > maxRunBytes {
			break
		}
		total += next
		n++
		if next < size {
			break
		}
	}
	return n
}
