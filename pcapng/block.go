// SPDX-License-Identifier: MIT

package pcapng

import "encoding/binary"

// The types of blocks, and what the first one in a file says about the byte order (section 4.1).
const (
	blockSectionHeader = 0x0a0d0d0a
	blockInterface     = 1
	blockStatistics    = 5
	blockPacket        = 6

	byteOrderMagic = 0x1a2b3c4d
)

// The codes of options. Other than the first two, each is for one type of block.
const (
	optionListEnd = 0
	optionComment = 1

	optionUserApplication = 4 // shb_userappl

	optionName           = 2  // if_name
	optionDescription    = 3  // if_description
	optionTimeResolution = 9  // if_tsresol
	optionFilter         = 11 // if_filter

	optionPacketFlags = 2 // epb_flags

	optionStart    = 2 // isb_starttime; isb_endtime is the next
	optionReceived = 4 // isb_ifrecv
	optionDropped  = 5 // isb_ifdrop: where dumpcap puts its own losses too, and what Wireshark shows
)

// A block is put together in memory and used again for the next. Numbers are little-endian on every machine, so that
// the same packets make the same file; readers go by the magic.
type block struct {
	buf     []byte
	options bool // there is one
}

func (b *block) begin(kind uint32) {
	b.buf, b.options = b.buf[:0], false
	b.uint32(kind, 0) // end knows the length
}

// end returns the block with its length before and after the body (section 3.1).
func (b *block) end() []byte {
	if b.options {
		b.uint16(optionListEnd, 0)
	}
	total := uint32(len(b.buf)) + 4
	b.uint32(total)
	binary.LittleEndian.PutUint32(b.buf[4:], total)
	return b.buf
}

func (b *block) uint16(values ...uint16) {
	for _, v := range values {
		b.buf = binary.LittleEndian.AppendUint16(b.buf, v)
	}
}

func (b *block) uint32(values ...uint32) {
	for _, v := range values {
		b.buf = binary.LittleEndian.AppendUint32(b.buf, v)
	}
}

// time appends a time as its high and its low half, in this order whatever the byte order (section 4.3).
func (b *block) time(stamp uint64) { b.uint32(uint32(stamp>>32), uint32(stamp)) }

// padded appends data and the zeros up to a multiple of 32 bits.
func (b *block) padded(data []byte) {
	b.buf = append(b.buf, data...)
	b.pad(len(data))
}

func (b *block) pad(n int) {
	for ; n%4 != 0; n++ {
		b.buf = append(b.buf, 0)
	}
}

// option appends an option (section 3.5).
func (b *block) option(code uint16, value ...byte) {
	b.options = true
	b.uint16(code, uint16(len(value)))
	b.padded(value)
}

// text appends an option, unless it is empty.
func (b *block) text(code uint16, s string) {
	if s == "" {
		return
	}
	b.options = true
	b.uint16(code, uint16(len(s)))
	b.buf = append(b.buf, s...)
	b.pad(len(s))
}

func (b *block) timeOption(code uint16, stamp uint64) {
	b.options = true
	b.uint16(code, 8)
	b.time(stamp)
}

func (b *block) countOption(code uint16, n uint64) {
	b.options = true
	b.uint16(code, 8)
	b.buf = binary.LittleEndian.AppendUint64(b.buf, n)
}
