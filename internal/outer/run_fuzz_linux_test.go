// SPDX-License-Identifier: MIT

package outer

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// FuzzRun: a run of datagrams in one message of the kernel's, whatever it says of them, is handed out whole and in order,
// but for datagrams that are larger than the device's buffers. What was cut is not handed out at all.
func FuzzRun(f *testing.F) {
	f.Add(bytes.Repeat([]byte{4}, 300), int32(100), uint8(4), uint16(1500), int32(0), uint16(unix.AF_INET))            // three of a size
	f.Add(bytes.Repeat([]byte{4}, 250), int32(100), uint8(4), uint16(1500), int32(0), uint16(unix.AF_INET6))           // a shorter one at the end
	f.Add(bytes.Repeat([]byte{4}, 250), int32(0), uint8(1), uint16(100), int32(0), uint16(unix.AF_INET6))              // one, too large
	f.Add(bytes.Repeat([]byte{4}, 9), int32(-1), uint8(1), uint16(100), int32(0), uint16(unix.AF_INET6))               // a size that cannot be
	f.Add(bytes.Repeat([]byte{4}, 99), int32(1), uint8(16), uint16(100), int32(0), uint16(unix.AF_INET))               // more than a batch
	f.Add(bytes.Repeat([]byte{4}, 99), int32(9), uint8(16), uint16(100), int32(unix.MSG_CTRUNC), uint16(unix.AF_INET)) // its control data was cut
	f.Add(bytes.Repeat([]byte{4}, 99), int32(9), uint8(16), uint16(100), int32(unix.MSG_TRUNC), uint16(unix.AF_INET6)) // it was cut
	f.Add(bytes.Repeat([]byte{4}, 99), int32(9), uint8(16), uint16(100), int32(0), uint16(unix.AF_UNIX))               // from no internet address
	f.Add([]byte{}, int32(1), uint8(16), uint16(100), int32(0), uint16(unix.AF_INET))                                  // nothing
	in, cache := newIncoming(), new(endpointCache)
	f.Fuzz(func(t *testing.T, data []byte, segment int32, count uint8, size uint16, flags int32, family uint16) {
		if count == 0 {
			return
		}
		in.n, in.rest = copy(in.buffer[:], data), nil
		in.hdr.Flags = flags
		in.name = unix.RawSockaddrInet6{Family: family, Addr: netip.MustParseAddr("2001:db8::1").As16(), Port: 1}
		control := unsafe.Slice((*byte)(unsafe.Pointer(&in.control)), unsafe.Sizeof(in.control))
		used := putControl(control, unix.SOL_UDP, unix.UDP_GRO, binary.NativeEndian.AppendUint32(nil, uint32(segment)))
		in.hdr.SetControllen(used)
		in.parse(cache)

		var want [][]byte
		if ok := flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 && (family == unix.AF_INET || family == unix.AF_INET6); ok {
			each := in.n
			if segment > 0 {
				each = int(segment)
			}
			for rest := in.buffer[:in.n]; len(rest) > 0; rest = rest[min(each, len(rest)):] {
				if b := rest[:min(each, len(rest))]; len(b) <= int(size) {
					want = append(want, b)
				}
			}
		}
		bufs, sizes, eps := make([][]byte, count), make([]int, count), make([]conn.Endpoint, count)
		for i := range bufs {
			bufs[i] = make([]byte, size)
		}
		for {
			n := in.handOut(bufs, sizes, eps)
			for i := range n {
				if len(want) == 0 || !bytes.Equal(bufs[i][:sizes[i]], want[0]) || eps[i] == nil {
					t.Fatalf("%d bytes from %v that did not come so, of a run of %d in %d each", sizes[i], eps[i], len(data), segment)
				}
				want = want[1:]
			}
			if n < len(bufs) {
				break
			}
		}
		if len(want) > 0 || len(in.rest) > 0 {
			t.Fatalf("%d datagrams and %d bytes were not handed out", len(want), len(in.rest))
		}
	})
}
