// SPDX-License-Identifier: MIT

package pcapng

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// when is 0x178c5e3f_7a6b4d15 nanoseconds after 1970: its halves cannot be mistaken for each other.
var when = time.Unix(0, 0x178c5e3f7a6b4d15)

// writeSample writes one block of each type with every option.
func writeSample(t *testing.T, w io.Writer) {
	t.Helper()
	out, err := NewWriter(w, Options{SnapLen: 6, Application: "app", Comment: "file"})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"db", ""} {
		in := Interface{Name: name}
		if name != "" {
			in.Description, in.Filter = "a peer", "tcp port 80"
		}
		if id, err := out.AddInterface(in); err != nil || id != i {
			t.Fatalf("got interface %d, %v; want %d", id, err, i)
		}
	}
	for _, err := range []error{
		out.WritePacket(Packet{Interface: 0, Time: when, Direction: Inbound, Data: []byte("12345"), Comment: "why"}),
		out.WritePacket(Packet{Interface: 1, Time: when, Data: []byte("1234567"), Length: 1500}),
		out.WriteStatistics(Statistics{Interface: 1, Time: when, Start: when.Add(-1), End: when.Add(1), Received: 3, Dropped: 1 << 32}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Each byte as the figures of draft-ietf-opsawg-pcapng, sections 3.1, 3.5 and 4, have it.
func TestGolden(t *testing.T) {
	golden := `
		0a0d0d0a 30000000                     # section header block, 48 bytes
		4d3c2b1a 0100 0000                    # byte-order magic, version 1.0
		ffffffffffffffff                      # section length not known
		0400 0300 61707000                    # shb_userappl "app", padded
		0100 0400 66696c65                    # opt_comment "file"
		0000 0000                             # opt_endofopt
		30000000

		01000000 44000000                     # interface description block, 68 bytes
		6500 0000 06000000                    # LINKTYPE_RAW, reserved, snap length
		0200 0200 64620000                    # if_name "db"
		0300 0600 612070656572 0000           # if_description "a peer"
		0900 0100 09000000                    # if_tsresol 10^-9
		0b00 0c00 00 74637020706f7274203830   # if_filter, libpcap's "tcp port 80"
		0000 0000
		44000000

		01000000 20000000                     # interface description block, 32 bytes
		6500 0000 06000000
		0900 0100 09000000
		0000 0000
		20000000

		06000000 3c000000                     # enhanced packet block, 60 bytes
		00000000 3f5e8c17 154d6b7a            # interface 0, time: high half, low half
		05000000 05000000 3132333435 000000   # captured, original length, data, padding
		0200 0400 01000000                    # epb_flags: inbound
		0100 0300 77687900                    # opt_comment "why"
		0000 0000
		3c000000

		06000000 28000000                     # enhanced packet block, 40 bytes, no options
		01000000 3f5e8c17 154d6b7a
		06000000 dc050000 313233343536 0000   # 6 of 1,500 bytes
		28000000

		05000000 4c000000                     # interface statistics block, 76 bytes
		01000000 3f5e8c17 154d6b7a
		0200 0800 3f5e8c17 144d6b7a           # isb_starttime
		0300 0800 3f5e8c17 164d6b7a           # isb_endtime
		0400 0800 0300000000000000            # isb_ifrecv
		0500 0800 0000000001000000            # isb_ifdrop
		0000 0000
		4c000000`
	var want []byte
	for line := range strings.Lines(golden) {
		digits, _, _ := strings.Cut(line, "#")
		raw, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, raw...)
	}
	var got bytes.Buffer
	writeSample(t, &got)
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got\n%s\nwant\n%s", hex.Dump(got.Bytes()), hex.Dump(want))
	}
	if blocks, err := readFile(want); err != nil || len(blocks) != 6 {
		t.Errorf("the reader that the fuzz target trusts finds %d blocks: %v", len(blocks), err)
	}
}

// countingWriter takes whole blocks up to a limit, and then fails as it is told to.
type countingWriter struct {
	bytes.Buffer
	calls, most int
	err         error
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.calls++
	if w.calls > w.most {
		return len(p) / 2, w.err
	}
	return w.Buffer.Write(p)
}

func TestOneWriteForEachBlock(t *testing.T) {
	w := &countingWriter{most: math.MaxInt}
	writeSample(t, w)
	if w.calls != 6 {
		t.Errorf("%d writes for 6 blocks", w.calls)
	}
}

func TestWriteErrorIsFinal(t *testing.T) {
	full := errors.New("disk full")
	for _, c := range []struct {
		name      string
		err, want error
	}{{"error", full, full}, {"short write", nil, io.ErrShortWrite}} {
		t.Run(c.name, func(t *testing.T) {
			if w, err := NewWriter(&countingWriter{err: c.err}, Options{}); w != nil || !errors.Is(err, c.want) {
				t.Errorf("NewWriter: got %v, %v", w, err)
			}
			w := &countingWriter{most: 2, err: c.err}
			out, err := NewWriter(w, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.AddInterface(Interface{}); err != nil {
				t.Fatal(err)
			}
			first := out.WritePacket(Packet{Time: when})
			_, second := out.AddInterface(Interface{})
			for _, err := range []error{
				first, second, out.WritePacket(Packet{Time: when}), out.WriteStatistics(Statistics{Time: when}),
			} {
				if !errors.Is(err, c.want) || err != first {
					t.Errorf("got %v; want %v", err, first)
				}
			}
			if w.calls != 3 {
				t.Errorf("%d writes; want none after the third, which failed", w.calls)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, o := range []Options{
		{SnapLen: -1}, {SnapLen: MaxSnapLen + 1}, {LinkType: 1}, {Application: "a\x00"}, {Comment: "\xff"}, {Comment: strings.Repeat("a", maxText+1)},
	} {
		var file bytes.Buffer
		if w, err := NewWriter(&file, o); err == nil || w != nil || file.Len() > 0 {
			t.Errorf("%.60v is taken", o)
		}
	}

	var file bytes.Buffer
	out, err := NewWriter(&file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	interfaces := func(i Interface) error { _, err := out.AddInterface(i); return err }
	if err := interfaces(Interface{}); err != nil {
		t.Fatal(err)
	}
	before := file.Len()
	data := []byte("1234")
	early, late := time.Unix(0, -1), time.Unix(0, math.MaxInt64).Add(1)
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"name", interfaces(Interface{Name: "\xff"}), "the interface name is not UTF-8"},
		{"description", interfaces(Interface{Description: "a\x00b"}), "the interface description is not UTF-8 without NUL"},
		{"filter", interfaces(Interface{Filter: strings.Repeat("a", maxText+1)}), "the filter has 65535 bytes, at most 65534 fit"},
		{"interface", out.WritePacket(Packet{Interface: 1, Time: when, Data: data}), "there is no interface 1; AddInterface has been called 1 times"},
		{"negative interface", out.WritePacket(Packet{Interface: -1, Time: when, Data: data}), "no interface -1"},
		{"no time", out.WritePacket(Packet{Data: data}), "1970 to 2262"},
		{"too early", out.WritePacket(Packet{Time: early, Data: data}), "1970 to 2262"},
		{"too late", out.WritePacket(Packet{Time: late, Data: data}), "1970 to 2262"},
		{"direction", out.WritePacket(Packet{Time: when, Direction: 3, Data: data}), "3 is no direction"},
		{"length", out.WritePacket(Packet{Time: when, Data: data, Length: 3}), "3 cannot have been the length"},
		{"negative length", out.WritePacket(Packet{Time: when, Length: -1}), "-1 cannot have been the length"},
		{"comment", out.WritePacket(Packet{Time: when, Data: data, Comment: "\xc3"}), "the comment is not UTF-8"},
		{"statistics interface", out.WriteStatistics(Statistics{Interface: 1, Time: when}), "no interface 1"},
		{"statistics time", out.WriteStatistics(Statistics{}), "1970 to 2262"},
		{"start", out.WriteStatistics(Statistics{Time: when, Start: early}), "1970 to 2262"},
		{"end", out.WriteStatistics(Statistics{Time: when, End: late}), "1970 to 2262"},
	} {
		if c.err == nil || !strings.HasPrefix(c.err.Error(), "pcapng: ") || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v; want %q", c.name, c.err, c.want)
		}
	}
	if file.Len() != before {
		t.Errorf("%d bytes were written for what was refused", file.Len()-before)
	}
	if err := out.WritePacket(Packet{Time: when, Data: data}); err != nil {
		t.Errorf("a good packet after refused ones: %v", err)
	}
}

// What must not cost: a packet allocates nothing.
func TestWritePacketAllocates(t *testing.T) {
	out, err := NewWriter(io.Discard, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.AddInterface(Interface{Name: "db"}); err != nil {
		t.Fatal(err)
	}
	p := Packet{Time: when, Direction: Outbound, Data: make([]byte, 1420), Comment: "note"}
	if n := testing.AllocsPerRun(100, func() { err = errors.Join(err, out.WritePacket(p)) }); n > 0 || err != nil {
		t.Errorf("%v allocations for a packet, %v", n, err)
	}
}

// FuzzWriter writes a file of everything that the writer takes, and reads it back.
func FuzzWriter(f *testing.F) {
	f.Add(0, "", "", "", []byte{}, 0, uint8(0), int64(0))                                                               // nothing that can be left out
	f.Add(6, "app", "db", "why", []byte("1234567"), 1500, uint8(1), int64(0x178c5e3f7a6b4d15))                          // cut by the snap length
	f.Add(MaxSnapLen, "1", "12", "1234", make([]byte, 9000), 9000, uint8(2), int64(math.MaxInt64))                      // every padding, the last moment
	f.Add(1, "\x00", "\xff", "é", []byte{0x45}, -1, uint8(3), int64(-1))                                                // texts, length, direction and time that are refused
	f.Add(-1, "", strings.Repeat("n", maxText), strings.Repeat("c", maxText+1), []byte{}, 1, uint8(0), when.UnixNano()) // the longest text, and one longer
	f.Fuzz(func(t *testing.T, snapLen int, app, name, comment string, data []byte, length int, direction uint8, nanos int64) {
		var file bytes.Buffer
		out, err := NewWriter(&file, Options{SnapLen: snapLen, Application: app, Comment: comment})
		if err != nil {
			out, err = NewWriter(&file, Options{})
			snapLen, app = 0, ""
		}
		if err != nil {
			t.Fatal(err)
		}
		written := 1
		added := -1
		for range 2 {
			id, err := out.AddInterface(Interface{Name: name, Description: comment, Filter: app})
			if err != nil {
				break
			}
			added = id
			written++
		}
		p := Packet{
			Interface: 1, Time: time.Unix(0, nanos), Direction: Direction(direction), Data: data, Length: length, Comment: comment,
		}
		packetErr := out.WritePacket(p)
		statsErr := out.WriteStatistics(Statistics{Interface: added, Time: p.Time, Start: p.Time, Received: uint64(nanos)})

		blocks, err := readFile(file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if packetErr == nil {
			checkPacket(t, blocks[written], p, snapLen)
			written++
		}
		if statsErr == nil {
			le := binary.LittleEndian
			b := blocks[written]
			stamp := string(le.AppendUint32(le.AppendUint32(nil, uint32(nanos>>32)), uint32(nanos)))
			want := []readOption{{2, stamp}, {4, string(le.AppendUint64(nil, uint64(nanos)))}, {5, string(make([]byte, 8))}}
			if b.kind != 5 || le.Uint32(b.fixed) != uint32(added) || string(b.fixed[4:]) != stamp || !reflect.DeepEqual(b.options, want) {
				t.Errorf("got statistics %+v", b)
			}
			written++
		}
		if len(blocks) != written {
			t.Fatalf("%d blocks in the file; want %d", len(blocks), written)
		}
		for _, b := range blocks[1 : 1+added+1] {
			if got := fmt.Sprint(b.options); b.kind != 1 || name != "" && b.options[0] != (readOption{2, name}) || !strings.Contains(got, "{9 \t}") {
				t.Errorf("got interface %+v; want the name %q", b, name)
			}
		}
	})
}

func checkPacket(t *testing.T, b readBlock, p Packet, snapLen int) {
	t.Helper()
	le := binary.LittleEndian
	if snapLen == 0 {
		snapLen = MaxSnapLen
	}
	if p.Length == 0 {
		p.Length = len(p.Data)
	}
	var want []readOption
	if p.Direction != 0 {
		want = append(want, readOption{2, string([]byte{byte(p.Direction), 0, 0, 0})})
	}
	if p.Comment != "" {
		want = append(want, readOption{1, p.Comment})
	}
	stamp := int64(le.Uint32(b.fixed[4:]))<<32 | int64(le.Uint32(b.fixed[8:]))
	if b.kind != 6 || int(le.Uint32(b.fixed)) != p.Interface || stamp != p.Time.UnixNano() ||
		int(le.Uint32(b.fixed[16:])) != p.Length || !bytes.Equal(b.data, p.Data[:min(len(p.Data), snapLen)]) ||
		!reflect.DeepEqual(b.options, want) {
		t.Errorf("packet %+v is in the file as %+v", p, b)
	}
}

func Example() {
	var file bytes.Buffer // or an os.File
	w, err := NewWriter(&file, Options{Application: "my program"})
	if err != nil {
		panic(err)
	}
	id, err := w.AddInterface(Interface{Name: "wg0"})
	if err != nil {
		panic(err)
	}
	packet := []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2} // an IPv4 header
	err = w.WritePacket(Packet{Interface: id, Time: time.Unix(1, 0), Direction: Outbound, Data: packet})
	fmt.Println(file.Len(), err)
	// Output: 152 <nil>
}
