// SPDX-License-Identifier: MIT

package pcapng

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A readBlock is a block taken apart by a reader that shares no code and no constant with the writer.
type readBlock struct {
	kind    uint32
	fixed   []byte // the fields before the data and the options
	data    []byte // of a packet
	options []readOption
}

type readOption struct {
	code  uint16
	value string
}

// readFile reads a little-endian file as strictly as the format allows.
func readFile(file []byte) (blocks []readBlock, err error) {
	le := binary.LittleEndian
	fixed := map[uint32]int{0x0a0d0d0a: 16, 1: 8, 5: 12, 6: 20}
	for len(file) > 0 {
		if len(file) < 12 {
			return nil, fmt.Errorf("%d bytes are no block", len(file))
		}
		kind, total := le.Uint32(file), int(le.Uint32(file[4:]))
		head, known := fixed[kind]
		if !known || total%4 != 0 || total < 12+head || total > len(file) {
			return nil, fmt.Errorf("block of type %#x and length %d, %d bytes left", kind, total, len(file))
		}
		if trailer := int(le.Uint32(file[total-4:])); trailer != total {
			return nil, fmt.Errorf("block of length %d ends with length %d", total, trailer)
		}
		b := readBlock{kind: kind, fixed: file[8 : 8+head]}
		rest := file[8+head : total-4]
		file = file[total:]
		if (len(blocks) == 0) != (kind == 0x0a0d0d0a) {
			return nil, fmt.Errorf("block %d has type %#x", len(blocks), kind)
		}
		if kind == 6 {
			if b.data, rest, err = readPadded(rest, int(le.Uint32(b.fixed[12:]))); err != nil {
				return nil, err
			}
		}
		if b.options, err = readOptions(rest); err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func readOptions(rest []byte) (options []readOption, err error) {
	for first := true; first && len(rest) > 0 || !first; first = false {
		if len(rest) < 4 {
			return nil, fmt.Errorf("the options end without an end")
		}
		code, length := binary.LittleEndian.Uint16(rest), int(binary.LittleEndian.Uint16(rest[2:]))
		if code == 0 {
			if length != 0 || len(rest) != 4 || first {
				return nil, fmt.Errorf("the end of the options has length %d, and %d bytes follow", length, len(rest)-4)
			}
			return options, nil
		}
		var value []byte
		if value, rest, err = readPadded(rest[4:], length); err != nil {
			return nil, err
		}
		options = append(options, readOption{code, string(value)})
	}
	return nil, nil
}

func readPadded(b []byte, n int) (value, rest []byte, err error) {
	padded := (n + 3) / 4 * 4
	if padded > len(b) || len(bytes.Trim(b[n:padded], "\x00")) > 0 {
		return nil, nil, fmt.Errorf("%d bytes, padded with zeros, are not in %d", n, len(b))
	}
	return b[:n], b[padded:], nil
}
