// SPDX-License-Identifier: MIT

package netstack

import (
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A reset that leaves when the link ends has the number of the first byte that was not sent before it, which is what the
// other side expects next (RFC 5961, section 3.2), and a right checksum.
func TestLastResetFollowsWhatWasSent(t *testing.T) {
	const size = 40 * 1380
	tests := []struct {
		name  string
		reads int  // batches that are read of the first segment
		all   bool // everything is read
		flow  uint16
		want  int
	}{
		{"nothing was sent", 0, false, 5, 1000},
		{"a part was cut", 1, false, 5, 1000 + batchSize*1380},
		{"all but the last segment", 3, false, 5, 1000 + size},
		{"everything was sent", 3, true, 5, 1000 + 2*size},
		{"another connection", 0, false, 6, 1000 + 2*size},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := newQueueTest(t, false, 0)
			r := q.reader()
			q.write(q.packet(classStream, 1, 5, 1000, size))
			for range test.reads {
				r.poll()
			}
			q.write(q.packet(classStream, 1, 5, 1000+size, size))
			if test.all {
				r.all()
			}
			q.write(q.packet(classControl, 1, test.flow, 1000+2*size, 0))
			q.close()
			list, err := r.read()
			if err != nil || !slices.Equal(numbers(list), []int{test.want}) {
				t.Fatalf("read %v, %v; want a reset with %d", numbers(list), err, test.want)
			}
			packet := r.bufs[0][:r.sizes[0]]
			if tcp := header.TCP(packet[header.IPv4MinimumSize:]); test.want != 1000+2*size && !checksumValid(packet, header.IPv4MinimumSize) {
				t.Errorf("the checksum is %#x", tcp.Checksum())
			}
		})
	}
}
