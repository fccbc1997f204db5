// SPDX-License-Identifier: MIT

package pcapng

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeExchange writes a file with a question to each of some peers, two at most, the answers, and what was lost.
func writeExchange(t *testing.T, linkType, peers int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "exchange.pcapng")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := NewWriter(f, Options{SnapLen: 96, LinkType: linkType, Application: "pcapng test", Comment: "two questions"})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	we, db, web := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	packets := []Packet{
		{Interface: 0, Direction: Outbound, Data: udp(we, db, "hello"), Comment: "the question"},
		{Interface: 0, Direction: Inbound, Data: udp(db, we, "hello yourself"), Comment: "die Antwört"},
		// The second interface comes when there are packets already, as a peer does that is added to a running Net.
		{Interface: 1, Direction: Outbound, Data: udp(we, web, strings.Repeat("long", 100))},
		{Interface: 1, Data: udp(web, we, "?")},
	}
	for i, p := range packets[:2*peers] {
		if i%2 == 0 {
			name := []string{"db", "web"}[p.Interface]
			id, err := out.AddInterface(Interface{Name: name, Description: "peer " + name, Filter: "udp"})
			if err != nil || id != p.Interface {
				t.Fatalf("interface %d, %v", id, err)
			}
		}
		p.Time = start.Add(time.Duration(i) * time.Second)
		if err := out.WritePacket(p); err != nil {
			t.Fatal(err)
		}
	}
	end := start.Add(time.Minute)
	for id := range peers {
		s := Statistics{Interface: id, Time: end, Start: start, End: end, Received: 4711, Dropped: uint64(1000 + id)}
		if err := out.WriteStatistics(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// udp is an IPv4 packet with a datagram in it, without a checksum, which UDP allows (RFC 768).
func udp(src, dst netip.Addr, payload string) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = append(b, 0x30, 0x39, 0x30, 0x39, 0, 0, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return b
}

// run runs a program that reads the file, or skips the test.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: on Debian, apt-get install tshark tcpdump", program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, stderr.String())
	}
	return string(out)
}

func TestTshark(t *testing.T) {
	const want = `
db|peer db|0x00000002|1767323045.123456789|33|33|10.0.0.1|10.0.0.2|2|the question
db|peer db|0x00000001|1767323046.123456789|42|42|10.0.0.2|10.0.0.1|2|die Antwört
web|peer web|0x00000002|1767323047.123456789|428|96|10.0.0.1|10.0.0.3|2|
web|peer web||1767323048.123456789|29|29|10.0.0.3|10.0.0.1|2|
`
	for _, linkType := range []int{LinkTypeRaw, LinkTypeDLTRaw} {
		path := writeExchange(t, linkType, 2)
		got := run(t, "tshark", "-r", path, "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name",
			"-e", "frame.interface_description", "-e", "frame.packet_flags_direction", "-e", "frame.time_epoch", "-e", "frame.len",
			"-e", "frame.cap_len", "-e", "ip.src", "-e", "ip.dst", "-e", "ip.checksum.status", "-e", "frame.comment")
		if strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("link type %d: tshark reads\n%s\nwant%s", linkType, got, want)
		}
	}
}

// Wireshark can take a pcapng file apart block by block instead of reading the packets.
func TestTsharkBlocks(t *testing.T) {
	got := run(t, "tshark", "-r", writeExchange(t, LinkTypeRaw, 2), "-X", "read_format:MIME Files Format", "-V")
	for want, times := range map[string]int{
		"Number of Dropped Packets: 1000":  1,
		"Number of Dropped Packets: 1001":  1,
		"Number of Received Packets: 4711": 2, "Link Type: RAW (101)": 2, "alformed": 0,
	} {
		if n := strings.Count(got, want); n != times {
			t.Errorf("%q is there %d times; want %d", want, n, times)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestCapinfos(t *testing.T) {
	got := strings.Join(strings.Fields(run(t, "capinfos", "-M", writeExchange(t, LinkTypeRaw, 2))), " ")
	for _, want := range []string{
		"File type: pcapng", "File encapsulation: rawip", "File timestamp precision: nanoseconds (9)", "Number of packets: 4", "Capture application: pcapng test",
		"Capture comment: two questions", "Number of interfaces in file: 2",
		"Interface #0 info: Name = db Description = peer db Encapsulation = Raw IP (7 - rawip) Capture length = 96", "Interface #1 info: Name = web",
		"Filter string = udp", "Number of stat entries = 1 Number of packets = 2",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, got)
		}
	}
}

// TestTcpdump has the registered link type with one interface, since libpcap trips over a second: see Options.LinkType.
func TestTcpdump(t *testing.T) {
	lines := []string{
		"03:04:05.123456 IP 10.0.0.1.12345 > 10.0.0.2.12345: UDP, length 5",
		"03:04:06.123456 IP 10.0.0.2.12345 > 10.0.0.1.12345: UDP, length 14",
		"03:04:07.123456 IP 10.0.0.1.12345 > 10.0.0.3.12345: UDP, length 400",
		"03:04:08.123456 IP 10.0.0.3.12345 > 10.0.0.1.12345: UDP, length 1",
	}
	for _, c := range []struct {
		name            string
		linkType, peers int
	}{
		{"one interface", LinkTypeRaw, 1},
		{"two interfaces", LinkTypeDLTRaw, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.TrimSpace(run(t, "tcpdump", "-nr", writeExchange(t, c.linkType, c.peers)))
			if want := strings.Join(lines[:2*c.peers], "\n"); got != want {
				t.Errorf("tcpdump reads\n%s\nwant\n%s", got, want)
			}
		})
	}
}
