// SPDX-License-Identifier: MIT

// Package pcapng writes captures of IP packets that Wireshark, tshark and tcpdump open: one interface for each place
// that packets pass, with its name, the direction of each packet, times in nanoseconds, and counts of what was dropped.
//
//	w, err := pcapng.NewWriter(file, pcapng.Options{Application: "my program"})
//	id, err := w.AddInterface(pcapng.Interface{Name: "wg0"})
//	err = w.WritePacket(pcapng.Packet{Interface: id, Time: time.Now(), Direction: pcapng.Inbound, Data: packet})
//
// The format is that of draft-ietf-opsawg-pcapng, whose sections the comments name. A packet begins with its IPv4 or
// IPv6 header. Whoever wants tcpdump to open a file with several interfaces sets [Options].LinkType.
package pcapng

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// MaxSnapLen is the largest packet, in bytes, that Wireshark and libpcap read.
	MaxSnapLen = 262144

	// maxText is what an option holds in its 16 bits of length (section 3.5), less the byte before a filter.
	maxText = math.MaxUint16 - 1

	nanoseconds = 9 // if_tsresol: 10^-9 s (section 4.2)
)

// The numbers by which files call packets that begin with an IP header.
const (
	// LinkTypeRaw is the registered number, LINKTYPE_RAW.
	LinkTypeRaw = 101

	// LinkTypeDLTRaw is libpcap's own number for the same in memory, DLT_RAW, other than on OpenBSD. Wireshark knows it
	// in files too.
	LinkTypeDLTRaw = 12
)

// Options is what the writer has to know before the first packet. The zero value is good.
type Options struct {
	// SnapLen is how many bytes of each packet are kept, 1 to MaxSnapLen. 0 means MaxSnapLen. It is one for all
	// interfaces, since tcpdump does not open a file with several.
	SnapLen int

	// LinkType is LinkTypeRaw or LinkTypeDLTRaw. 0 means LinkTypeRaw. With that libpcap, hence tcpdump, opens files with
	// one interface only: it compares the number of the second with its own number for the first, and stops with "an
	// interface has a type 101 different from the type of the first interface" (seen in libpcap 1.10.3). It opens files
	// with several interfaces of LinkTypeDLTRaw, on systems other than OpenBSD.
	LinkType int

	// Application is the program that writes the file. "" leaves it out.
	Application string

	// Comment is about the file as a whole. "" leaves it out.
	Comment string
}

// An Interface is where packets are captured. Empty fields are left out.
type Interface struct {
	Name        string // as tshark shows it in frame.interface_name
	Description string
	Filter      string // what the packets were selected by, in the words of pcap-filter(7); it is not applied
}

// A Direction says which way a packet goes.
type Direction uint8

const (
	DirectionUnknown Direction = iota
	Inbound                    // to the host that captures
	Outbound                   // from it
)

// A Packet is one IP packet. WritePacket keeps nothing of it.
type Packet struct {
	Interface int       // what AddInterface returned
	Time      time.Time // in the years 1970 to 2262; required
	Direction Direction

	// Data begins with the IP header. What is beyond the snap length is cut off.
	Data []byte

	// Length is the packet's length in bytes before anything was cut off. 0 means len(Data).
	Length int

	// Comment is a note on this packet. "" leaves it out.
	Comment string
}

// Statistics are an interface's counts since Start. They may be written more than once; the last ones count.
type Statistics struct {
	Interface  int       // what AddInterface returned
	Time       time.Time // when they were taken; required
	Start, End time.Time // of the capture; a zero Time is left out
	Received   uint64    // packets that passed the interface, whether they are in the file or not
	Dropped    uint64    // packets that should be in the file and are not, because there was no room or no time for them
}

// A Writer writes a capture. Each call writes one whole block with one Write, and keeps nothing back: what has been
// written can be read, also if the program dies. Who prefers speed gives it a bufio.Writer, and flushes that. A Writer
// has memory for one block, at most some 400 KiB. It is not safe for concurrent use, and there is nothing to close.
//
// An error of the underlying writer is final: the file may end inside a block, so every later call returns the same
// error. An argument that cannot be written is an error too, but writes nothing and changes nothing.
type Writer struct {
	w          io.Writer
	linkType   uint16
	snapLen    int
	interfaces int
	block      block
	err        error // of w
}

// NewWriter writes the beginning of a file (section 4.1) to w.
func NewWriter(w io.Writer, o Options) (*Writer, error) {
	if o.SnapLen == 0 {
		o.SnapLen = MaxSnapLen
	}
	if o.SnapLen < 0 || o.SnapLen > MaxSnapLen {
		return nil, fmt.Errorf("pcapng: snap length %d is not from 1 to %d; leave it out for all", o.SnapLen, MaxSnapLen)
	}
	if o.LinkType == 0 {
		o.LinkType = LinkTypeRaw
	}
	if o.LinkType != LinkTypeRaw && o.LinkType != LinkTypeDLTRaw {
		return nil, fmt.Errorf("pcapng: link type %d is not %d or %d, for IP packets", o.LinkType, LinkTypeRaw, LinkTypeDLTRaw)
	}
	if err := checkTexts("application", o.Application, "comment", o.Comment); err != nil {
		return nil, err
	}
	out := &Writer{w: w, linkType: uint16(o.LinkType), snapLen: o.SnapLen}
	b := &out.block
	b.begin(blockSectionHeader)
	b.uint32(byteOrderMagic)
	b.uint16(1, 0)                           // the format's version
	b.uint32(math.MaxUint32, math.MaxUint32) // the section's length is not known
	b.text(optionUserApplication, o.Application)
	b.text(optionComment, o.Comment)
	if err := out.flush(); err != nil {
		return nil, err
	}
	return out, nil
}

// AddInterface describes an interface (section 4.2) and returns its number: 0 for the first. It may be called at any
// time before the interface's first packet.
func (w *Writer) AddInterface(i Interface) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if err := checkTexts("interface name", i.Name, "interface description", i.Description, "filter", i.Filter); err != nil {
		return 0, err
	}
	b := &w.block
	b.begin(blockInterface)
	b.uint16(w.linkType, 0)
	b.uint32(uint32(w.snapLen))
	b.text(optionName, i.Name)
	b.text(optionDescription, i.Description)
	b.option(optionTimeResolution, nanoseconds)
	if i.Filter != "" {
		b.text(optionFilter, "\x00"+i.Filter) // 0: a string of libpcap's
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// WritePacket writes a packet (section 4.3).
func (w *Writer) WritePacket(p Packet) error {
	if w.err != nil {
		return w.err
	}
	if p.Length == 0 {
		p.Length = len(p.Data)
	}
	stamp, err := w.check(p.Interface, p.Time)
	switch {
	case err != nil:
		return err
	case p.Direction > Outbound:
		return fmt.Errorf("pcapng: %d is no direction", p.Direction)
	case p.Length < len(p.Data) || uint64(p.Length) > math.MaxUint32:
		return fmt.Errorf("pcapng: %d cannot have been the length of a packet of which there are %d bytes", p.Length, len(p.Data))
	}
	if err := checkTexts("comment", p.Comment); err != nil {
		return err
	}
	data := p.Data[:min(len(p.Data), w.snapLen)]
	b := &w.block
	b.begin(blockPacket)
	b.uint32(uint32(p.Interface))
	b.time(stamp)
	b.uint32(uint32(len(data)), uint32(p.Length))
	b.padded(data)
	if p.Direction != DirectionUnknown {
		b.option(optionPacketFlags, byte(p.Direction), 0, 0, 0) // bits 0 and 1
	}
	b.text(optionComment, p.Comment)
	return w.flush()
}

// WriteStatistics writes an interface's statistics (section 4.6).
func (w *Writer) WriteStatistics(s Statistics) error {
	if w.err != nil {
		return w.err
	}
	stamp, err := w.check(s.Interface, s.Time)
	if err != nil {
		return err
	}
	b := &w.block
	b.begin(blockStatistics)
	b.uint32(uint32(s.Interface))
	b.time(stamp)
	for i, t := range [...]time.Time{s.Start, s.End} {
		if t.IsZero() {
			continue
		}
		if stamp, err = stampOf(t); err != nil {
			return err
		}
		b.timeOption(optionStart+uint16(i), stamp)
	}
	b.countOption(optionReceived, s.Received)
	b.countOption(optionDropped, s.Dropped)
	return w.flush()
}

// flush writes the block out.
func (w *Writer) flush() error {
	out := w.block.end()
	n, err := w.w.Write(out)
	if err == nil && n < len(out) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("pcapng: the capture ends here: %w", err)
	}
	return w.err
}

// check checks what every block about an interface has.
func (w *Writer) check(id int, t time.Time) (stamp uint64, err error) {
	if id < 0 || id >= w.interfaces {
		return 0, fmt.Errorf("pcapng: there is no interface %d; AddInterface has been called %d times", id, w.interfaces)
	}
	return stampOf(t)
}

// stampOf is the time in nanoseconds since 1970, as far as package time and Wireshark count them.
func stampOf(t time.Time) (uint64, error) {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0, fmt.Errorf("pcapng: the time %v is not in the years 1970 to 2262", t)
	}
	return uint64(t.UnixNano()), nil
}

// checkTexts checks pairs of a description and a text: options are UTF-8 without a final NUL (section 3.5), and readers
// written in C end a text at any NUL.
func checkTexts(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		what, s := pairs[i], pairs[i+1]
		switch {
		case len(s) > maxText:
			return fmt.Errorf("pcapng: the %s has %d bytes, at most %d fit", what, len(s), maxText)
		case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
			return fmt.Errorf("pcapng: the %s is not UTF-8 without NUL", what)
		}
	}
	return nil
}
