// SPDX-License-Identifier: MIT

package wgnet

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wgnet/internal/outer"
	"example.com/wgnet/netstack"
	"golang.zx2c4.com/wireguard/device"
)

var peerEvents = []string{
	logInitiation, logResponse, logOurResponse, logPeerInitiation, logKeepalive, logDisallowed4, logDisallowed6,
	logBadVersion,
}

// What we understand of the device's log are literals in the source of the version that go.mod names.
func TestDeviceLogFormats(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.zx2c4.com/wireguard").Output()
	if err != nil || len(strings.TrimSpace(string(dir))) == 0 {
		t.Skip("the device's source is not here: ", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "device", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no source in %s: %v", dir, err)
	}
	var source strings.Builder
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	checkFormats(t, files)
	if !strings.Contains(source.String(), "Errorf("+strconv.Quote(logUnsent)+", peer, err)") {
		t.Errorf("the device does not log %q with its peer", logUnsent)
	}
	for _, format := range peerEvents {
		if !strings.Contains(source.String(), "Verbosef("+strconv.Quote(format)+", peer)") {
			t.Errorf("the device does not log %q with its peer", format)
		}
	}
	for format, args := range map[string]string{
		logReceive: ", recvName)", logGivingUp: ", peer, MaxTimerHandshakes+2)", logBadResponse: ", elem.endpoint.DstToString())",
	} {
		if !strings.Contains(source.String(), "Verbosef("+strconv.Quote(format)+args) {
			t.Errorf("the device does not log %q with %q", format, args)
		}
	}
}

// checkFormats finds the calls of the device's logger, and compares their formats with what we understand.
func checkFormats(t *testing.T, files []string) {
	formats := map[string]int{} // the number of arguments
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := goparser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || method.Sel.Name != "Verbosef" && method.Sel.Name != "Errorf" {
				return true
			}
			if of, ok := method.X.(*ast.SelectorExpr); !ok || of.Sel.Name != "log" {
				return true // fmt.Errorf
			}
			if literal, ok := call.Args[0].(*ast.BasicLit); ok {
				format, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				formats[format] = len(call.Args) - 1
			}
			return true
		})
	}
	for format := range formats {
		if !understood(format) {
			t.Errorf("the device logs %q, which is in no list of ours", format)
		}
	}
	for format, line := range deviceLines {
		switch args, ok := formats[format]; {
		case !ok:
			t.Errorf("the device does not log %q any more", format)
		case args != len(line.attrs):
			t.Errorf("the device logs %q with %d arguments, we name %d", format, args, len(line.attrs))
		}
	}
}

// deviceLog is a device's logger that keeps what it gets.
type deviceLog struct {
	mu      sync.Mutex // guards what follows
	formats map[string]int
	peers   map[string]any // the first argument
	changed chan struct{}  // closed and replaced with each line
}

func newDeviceLog() *deviceLog {
	return &deviceLog{formats: map[string]int{}, peers: map[string]any{}, changed: make(chan struct{})}
}

func (l *deviceLog) log(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.formats[format]++
	if len(args) > 0 {
		l.peers[format] = args[0]
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait waits until done holds of the number of each format.
func (l *deviceLog) wait(t *testing.T, what string, done func(formats map[string]int) bool) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		l.mu.Lock()
		ok, changed := done(l.formats), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("waited in vain for %s: %v", what, l.formats)
		}
	}
}

// routines counts the lines of routines that we count, with an end.
func (l *deviceLog) routines(formats map[string]int, end string) (count int32) {
	for format, n := range formats {
		if strings.HasPrefix(format, logRoutine) && strings.HasSuffix(format, end) && !strings.HasPrefix(format, strings.TrimSuffix(logReceive, logStopped)) {
			count += int32(n)
		}
	}
	return count
}

// A device starts the routines that we wait for in close, and ends them; no handshake goes by without each of the lines.
func TestDeviceLog(t *testing.T) {
	type host struct {
		key   PrivateKey
		log   *deviceLog
		dev   *device.Device
		peer  *device.Peer
		stack *netstack.Stack
		outer *outer.Sockets
	}
	addrs := []string{"10.0.0.1", "10.0.0.2"}
	var hosts [2]host
	for i := range hosts {
		h := &hosts[i]
		var err error
		h.key, h.log = NewPrivateKey(), newDeviceLog()
		if h.outer, err = outer.Open(outer.Config{}); err != nil {
			t.Fatal(err)
		}
		if h.stack, err = netstack.New(netstack.Config{Addresses: []netip.Prefix{netip.MustParsePrefix(addrs[i] + "/24")}}); err != nil {
			t.Fatal(err)
		}
		h.dev = device.NewDevice(h.stack.Device(), h.outer.Bind(), &device.Logger{Verbosef: h.log.log, Errorf: h.log.log})
		h.log.wait(t, "the routines", func(formats map[string]int) bool {
			return h.log.routines(formats, " - started") >= deviceRoutines()
		})
	}
	for i := range hosts {
		h, other := &hosts[i], &hosts[1-i]
		if err := h.dev.IpcSet(uapiKey(h.key)); err != nil {
			t.Fatal(err)
		}
		var err error
		if h.peer, err = h.dev.NewPeer(device.NoisePublicKey(other.key.Public())); err != nil {
			t.Fatal(err)
		}
		p := newPeerTable([]PeerConfig{{
			PublicKey: other.key.Public(), AllowedIPs: []netip.Prefix{netip.MustParsePrefix(addrs[1-i] + "/32")},
			Endpoint: "127.0.0.1:" + strconv.Itoa(int(other.outer.Port())),
		}}, nil)
		if err := h.dev.IpcSet(uapiPeers(p.all)); err != nil {
			t.Fatal(err)
		}
		if err := h.dev.Up(); err != nil {
			t.Fatal(err)
		}
	}

	// The first side begins; its answer to the response is a keepalive.
	if err := hosts[0].peer.SendHandshakeInitiation(false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		h      *host
		format string
	}{{&hosts[0], logInitiation}, {&hosts[1], logPeerInitiation}, {&hosts[0], logResponse}, {&hosts[1], logKeepalive}} {
		c.h.log.wait(t, c.format, func(formats map[string]int) bool { return formats[c.format] == 1 })
		c.h.log.mu.Lock()
		if got := c.h.log.peers[c.format]; got != c.h.peer {
			t.Errorf("%q came with %v, want the peer", c.format, got)
		}
		c.h.log.mu.Unlock()
	}

	for i := range hosts {
		h := &hosts[i]
		if err := h.outer.Close(); err != nil {
			t.Error(err)
		}
		if err := h.stack.Close(); err != nil {
			t.Error(err)
		}
		h.dev.Close()
		h.log.wait(t, "the routines' ends", func(formats map[string]int) bool {
			return h.log.routines(formats, logStopped) >= deviceRoutines()
		})
		h.log.mu.Lock()
		started, stopped := h.log.routines(h.log.formats, " - started"), h.log.routines(h.log.formats, logStopped)
		if started != deviceRoutines() || stopped != deviceRoutines() {
			t.Errorf("%d routines started and %d stopped, want %d", started, stopped, deviceRoutines())
		}
		h.log.mu.Unlock()
	}
}
