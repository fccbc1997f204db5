// SPDX-License-Identifier: MIT

package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// TestWatching is scene 3: tshark and tcpdump show the handshake, the data and the teardown of a TCP connection inside
// the tunnel, with each kind of other side.
func TestWatching(t *testing.T) {
	for _, program := range []string{"tshark", "tcpdump"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: on Debian, apt-get install tshark tcpdump", program)
		}
	}
	eachKind(t, func(t *testing.T, kind string) {
		s := newScene(t, setting{them: kind, starts: "we"})
		path := filepath.Join(t.TempDir(), "wg0.pcapng")
		stop := startCapture(t, s.us, path)
		fetchRaw(t, s.us, "10.0.0.2")
		peer := s.us.cfg.Peers[0].PublicKey.String()
		const out, in = "0x00000002|10.0.0.1|10.0.0.2|1|1|", "0x00000001|10.0.0.2|10.0.0.1|1|1|" // good checksums
		want := []step{
			{out, syn, ""},
			{in, syn | ack, ""},
			{out, ack, ""},
			{out, ack, "GET|"},
			{in, ack, "|200"},
			{in, fin | ack, ""},
			{out, fin | ack, ""},
		}
		ctx, limit := testContext(t), time.Now().Add(20*time.Second)
		var got string
		for missing := want; len(missing) > 0; { // the last packet may still be on its way
			got = output(t, ctx, "tshark", "-r", path, "-d", "tcp.port==9090,http", "-o", "tcp.check_checksum:TRUE",
				"-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e", "tcp.flags",
				"-e", "frame.packet_flags_direction", "-e", "ip.src", "-e", "ip.dst", "-e", "ip.checksum.status",
				"-e", "tcp.checksum.status", "-e", "http.request.method", "-e", "http.response.code")
			missing = missingSteps(t, got, peer, want)
			if len(missing) > 0 && !time.Now().Before(limit) {
				t.Fatalf("tshark reads\n%s\nwhere there is no %+v", got, missing)
			}
		}
		stop()
		listing := output(t, ctx, "tshark", "-r", path, "-d", "tcp.port==9090,http")
		t.Logf("tshark -r:\n%s", listing)
		dump := output(t, ctx, "tcpdump", "-nvr", path)
		if strings.Count(dump, "10.0.0.2.9090: Flags [S]") == 0 || strings.Count(dump, "10.0.0.2.9090 > 10.0.0.1.") == 0 ||
			strings.Contains(dump, "bad cksum") || strings.Contains(dump, "incorrect") {
			t.Errorf("tcpdump reads\n%s", dump)
		}
		if lines := strings.Count(dump, "cksum"); lines != strings.Count(listing, "\n") {
			t.Errorf("tcpdump reads %d packets, tshark\n%s", lines, listing)
		}
	})
}

// startCapture captures into a file until stop, or until the test ends.
func startCapture(t *testing.T, us *ours, path string) (stop func()) {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	started, ended := make(chan struct{}), make(chan struct{})
	go func() { // cancel ends it
		defer close(ended)
		err := us.Capture(ctx, file, wgnet.CaptureOptions{Started: func() { close(started) }})
		if err := errors.Join(err, file.Close()); err != nil {
			t.Errorf("Capture: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	select {
	case <-started:
	case <-ended:
		t.FailNow()
	}
	return stop
}

// fetchRaw fetches scene 1's page over a connection that it closes itself.
func fetchRaw(t *testing.T, from side, host string) {
	t.Helper()
	c, err := from.dial(testContext(t), "tcp", net.JoinHostPort(host, httpPort))
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	must(t, err)
	page, err := io.ReadAll(c)
	must(t, err)
	if !strings.HasSuffix(string(page), "\r\n\r\n"+hello) {
		t.Fatalf("got %q", page)
	}
}

// TCP's flags.
const (
	fin, syn, ack = 1, 2, 16
)

// step is a packet of which a connection's story tells.
type step struct {
	way   string // the middle of tshark's line
	flags uint64 // which it has among others
	http  string // the end of the line; "" is any
}

// missingSteps returns the steps that are not in the listing, each after the one before.
func missingSteps(t *testing.T, listing, peer string, steps []step) []step {
	t.Helper()
	for line := range strings.Lines(listing) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
		text, rest, _ := strings.Cut(rest, "|")
		flags, err := strconv.ParseUint(text, 0, 16)
		if err != nil || name != peer {
			t.Fatalf("tshark's line %q has no flags, or not the interface %s", line, peer)
		}
		for len(steps) > 0 && strings.HasPrefix(rest, steps[0].way) && flags&steps[0].flags == steps[0].flags &&
			(steps[0].http == "" || rest == steps[0].way+steps[0].http) {
			steps = steps[1:] // and perhaps the next one: the last bytes may come with the FIN
		}
	}
	return steps
}

// output is what a program prints.
func output(t *testing.T, ctx context.Context, program string, args ...string) string {
	t.Helper()
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
