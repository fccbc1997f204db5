// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
)

// capturing is a capture that runs.
type capturing struct {
	tb     testing.TB
	file   gatedBuffer
	cancel context.CancelFunc
	ended  chan struct{} // closed when Capture has returned
	err    error         // what it returned; read it after ended
}

// capture begins a capture that ends with the test, if not before.
func capture(tb testing.TB, n *wgnet.Net, opts wgnet.CaptureOptions) *capturing {
	tb.Helper()
	ctx, cancel := context.WithCancel(testContext(tb))
	c := &capturing{tb: tb, cancel: cancel, ended: make(chan struct{})}
	started := make(chan struct{})
	opts.Started = func() { close(started) }
	go func() { // cancel ends it
		defer close(c.ended)
		c.err = n.Capture(ctx, &c.file, opts)
	}()
	tb.Cleanup(func() { cancel(); <-c.ended })
	select {
	case <-started:
	case <-c.ended:
		tb.Fatalf("the capture did not start: %v", c.err)
	}
	return c
}

// stop ends the capture and reads its file.
func (c *capturing) stop() *captureFile {
	c.tb.Helper()
	c.cancel()
	<-c.ended
	if c.err != nil {
		c.tb.Errorf("Capture: %v", c.err)
	}
	return readCapture(c.tb, c.file.buf.Bytes())
}

// gatedBuffer is a writer that can be held up, or fail.
type gatedBuffer struct {
	buf  bytes.Buffer
	mu   sync.Mutex // held while nothing may be written
	fail error      // guarded by mu
}

func (b *gatedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return 0, b.fail
	}
	return b.buf.Write(p)
}

// TCP's flags.
const (
	fin, syn, rst, ack = 1, 2, 4, 16
)

// The whole story of a connection: handshake, request, answer and teardown, over IPv4 and IPv6, on both sides.
func TestCapture(t *testing.T) {
	a, b := newPair(t)
	ofA, ofB := capture(t, a, wgnet.CaptureOptions{}), capture(t, b, wgnet.CaptureOptions{})
	for _, addr := range []string{"10.0.0.2", "fd00::2"} {
		l, port := listen(t, b, net.JoinHostPort(addr, "0"))
		talked := make(chan error, 1)
		go func() { talked <- answer(l) }() // ends with the connection
		c, err := a.Dial("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "who is there?\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "wireguard\n" {
			t.Fatalf("got %q, %v", got, err)
		}
		if err := errors.Join(c.Close(), <-talked); err != nil {
			t.Fatal(err)
		}
		server := c.RemoteAddr().String()
		for i, side := range []*capturing{ofA, ofB} {
			outbound := i == 0 // what the client sends
			want := []step{
				{outbound, syn, ""},
				{!outbound, syn | ack, ""},
				{outbound, ack, "who is there?\n"},
				{!outbound, ack, "wireguard\n"},
				{!outbound, fin, ""},
				{outbound, fin, ""},
			}
			checkStory(t, side, server, want)
		}
	}
	for side, peer := range map[*capturing]string{ofA: "b", ofB: "a"} {
		checkFile(t, side.stop(), peer)
	}
}

// answer accepts a connection, reads a line and answers.
func answer(l net.Listener) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	buf := make([]byte, 100)
	if _, err := c.Read(buf); err != nil {
		return err
	}
	_, err = io.WriteString(c, "wireguard\n")
	return errors.Join(err, c.Close())
}

// step is a packet of which a story tells.
type step struct {
	outbound bool
	flags    byte   // which it has among others
	payload  string // "" is any
}

func (s step) is(p capturedPacket) bool {
	return p.outbound == s.outbound && p.flags&s.flags == s.flags && (s.payload == "" || s.payload == string(p.payload))
}

// checkStory waits until the packets with a TCP address have all of the steps among them, in their order.
func checkStory(tb testing.TB, c *capturing, addr string, steps []step) {
	tb.Helper()
	waitFor(tb, "the connection's last packet", func() bool {
		c.file.mu.Lock()
		defer c.file.mu.Unlock()
		rest := steps
		for _, p := range readCapture(tb, c.file.buf.Bytes()).packets {
			if p.src.String() != addr && p.dst.String() != addr || len(rest) == 0 {
				continue
			}
			for len(rest) > 0 && rest[0].is(p) { // the last bytes may come with the FIN
				rest = rest[1:]
			}
		}
		return len(rest) == 0
	})
}

// checkFile checks what is true of every capture with one peer in which nothing was dropped.
func checkFile(tb testing.TB, f *captureFile, peer string) {
	tb.Helper()
	if len(f.interfaces) != 1 {
		tb.Fatalf("interfaces: %+v", f.interfaces)
	}
	i := f.interfaces[0]
	if i.name != peer || !strings.HasPrefix(i.description, "peer ") || i.statistics != 1 || i.dropped != 0 || i.received != uint64(i.packets) {
		tb.Errorf("interface %+v", i)
	}
	for k, p := range f.packets {
		if p.checksumsBad || p.length != len(p.data) || p.length > wgnet.DefaultMTU || k > 0 && p.at.Before(f.packets[k-1].at) {
			tb.Errorf("packet %d: %+v", k, p)
		}
	}
}

// Segments of several packets are cut before they are captured, and captured before they are put together: each packet
// is one of the wire's, with its own checksum, and all of them carry what was sent.
func TestCaptureStream(t *testing.T) {
	a, b := newPair(t)
	ofA, ofB := capture(t, a, wgnet.CaptureOptions{Protocol: "TCP"}), capture(t, b, wgnet.CaptureOptions{Protocol: "tcp"})
	const size = 1 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	sendAll(t, a, b, sent)
	for side, peer := range map[*capturing]string{ofA: "b", ofB: "a"} {
		f := side.stop()
		checkFile(t, f, peer)
		got, first := make([]byte, size), uint32(0)
		for _, p := range f.packets {
			if p.outbound != (side == ofA) {
				continue
			}
			if p.flags&syn != 0 {
				first = p.seq + 1
			} else if len(p.payload) > 0 {
				copy(got[p.seq-first:], p.payload)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("the packets from or to %s do not carry what was sent", peer)
		}
	}
}

// sendAll sends over a connection from a to b, and waits until it has arrived.
func sendAll(tb testing.TB, a, b *wgnet.Net, data []byte) {
	tb.Helper()
	l, port := listen(tb, b, "10.0.0.2:0")
	received := make(chan error, 1)
	go func() { // ends with the connection
		c, err := l.Accept()
		if err != nil {
			received <- err
			return
		}
		n, err := io.Copy(io.Discard, c)
		if err == nil && n != int64(len(data)) {
			err = fmt.Errorf("%d bytes came, want %d", n, len(data))
		}
		received <- errors.Join(err, c.Close())
	}()
	c, err := a.Dial("tcp", "10.0.0.2:"+port)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := c.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(c.Close(), <-received); err != nil {
		tb.Fatal(err)
	}
}

// The tunnel does not wait for a writer that stands still. What does not fit is counted: as many as are missing.
func TestCaptureDrops(t *testing.T) {
	a, b := newPair(t)
	if err := a.WaitPeer(testContext(t), b.PublicKey()); err != nil {
		t.Fatal(err) // without a session, packets are dropped before they are captured
	}
	sink, port := listenPacket(t, b, "10.0.0.2:0")
	slow, fast := capture(t, a, wgnet.CaptureOptions{}), capture(t, a, wgnet.CaptureOptions{SnapLen: 32})
	slow.file.mu.Lock()
	release := sync.OnceFunc(slow.file.mu.Unlock)
	defer release()
	const total, size = 7000, 1300 // one queue is being written, another one waits: 8 MiB
	go func() {                    // ends when the sink is closed
		for buf := make([]byte, size); ; {
			if _, _, err := sink.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
	c, err := a.Dial("udp", "10.0.0.2:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	datagram := make([]byte, size)
	for i := range total {
		binary.BigEndian.PutUint32(datagram, uint32(i))
		if _, err := c.Write(datagram); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the last one to leave", func() bool { return status(a).PacketsSent == total })
	slow.cancel()
	release()
	if i := fast.stop().interfaces[0]; i.packets != total || i.received != total || i.dropped != 0 {
		t.Errorf("of a writer that keeps up: %+v", i)
	}
	f := slow.stop()
	i := f.interfaces[0]
	if i.received != total || i.dropped == 0 || i.packets+int(i.dropped) != total {
		t.Errorf("of a writer that stands still: %+v", i)
	}
	for k, last := 0, -1; k < len(f.packets); k++ {
		number := int(binary.BigEndian.Uint32(f.packets[k].payload))
		if number <= last || f.packets[k].checksumsBad {
			t.Errorf("datagram %d after %d: %+v", number, last, f.packets[k].checksumsBad)
		}
		last = number
	}
}

func TestCaptureOptions(t *testing.T) {
	a, b := newPair(t)
	stranger := wgnet.NewPrivateKey().Public()
	if err := a.AddPeer(wgnet.PeerConfig{Name: "c", PublicKey: stranger, AllowedIPs: prefixes("10.0.0.3/32")}); err != nil {
		t.Fatal(err)
	}
	udp, port := listenPacket(t, b, ":0")
	other, otherPort := listenPacket(t, b, ":0")
	var number uint16
	fmt.Sscan(port, &number)
	captures := map[string]*capturing{}
	for name, opts := range map[string]wgnet.CaptureOptions{
		"all":            {},
		"icmp":           {Protocol: "icmp"},
		"udp":            {Protocol: "udp"},
		"port":           {Port: number},
		"tcp port":       {Protocol: "tcp", Port: number},
		"peer b":         {Peers: []wgnet.PublicKey{b.PublicKey()}},
		"peer c":         {Peers: []wgnet.PublicKey{stranger}},
		"first 30 bytes": {SnapLen: 30},
	} {
		captures[name] = capture(t, a, opts)
	}
	if err := a.Capture(t.Context(), io.Discard, wgnet.CaptureOptions{}); err == nil ||
		err.Error() != "wgnet: Capture: 8 captures are running: end one" {
		t.Errorf("the ninth capture: %v", err)
	}
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		if _, err := a.Ping(testContext(t), host); err != nil {
			t.Fatal(err)
		}
		for _, to := range []struct {
			conn net.PacketConn
			port string
		}{{udp, port}, {other, otherPort}} {
			c, err := a.Dial("udp", net.JoinHostPort(host, to.port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, _, err := to.conn.ReadFrom(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]struct {
		interfaces, filter string
		packets            int
	}{
		"all":      {"b c", "", 8},
		"icmp":     {"b c", "\x00icmp or icmp6", 4},
		"udp":      {"b c", "\x00udp", 4},
		"port":     {"b c", "\x00port " + port, 2},
		"tcp port": {"b c", "\x00tcp port " + port, 0},
		"peer b":   {"b", "", 8},
		"peer c":   {"c", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := captures[name].stop()
			var names []string
			for _, i := range f.interfaces {
				names = append(names, i.name)
				if i.filter != want.filter || i.snapLen != 262144 {
					t.Errorf("interface %+v", i)
				}
			}
			if got := strings.Join(names, " "); got != want.interfaces || len(f.packets) != want.packets {
				t.Errorf("interfaces %q and %d packets, want %+v", got, len(f.packets), want)
			}
		})
	}
	f := captures["first 30 bytes"].stop()
	for _, p := range f.packets {
		if len(p.data) != 30 || p.length < 33 {
			t.Errorf("%d bytes of %d", len(p.data), p.length)
		}
	}
	if i := f.interfaces[0]; i.snapLen != 30 || i.received == 0 {
		t.Errorf("interface %+v", i)
	}
}

func TestCaptureMistakes(t *testing.T) {
	n := newNet(t, newConfig("10.0.0.1/24"))
	key := wgnet.NewPrivateKey().Public()
	for _, c := range []struct {
		name string
		opts wgnet.CaptureOptions
		want string
	}{
		{"protocol", wgnet.CaptureOptions{Protocol: "sctp"}, `there is no protocol "sctp" to choose: want tcp, udp, icmp or nothing`},
		{"ports of ICMP", wgnet.CaptureOptions{Protocol: "icmp", Port: 8}, "ICMP has no ports: want tcp or udp with a port"},
		{"snap length", wgnet.CaptureOptions{SnapLen: -1}, "pcapng: snap length -1 is not from 1 to 262144; leave it out for all"},
		{"peer", wgnet.CaptureOptions{Peers: []wgnet.PublicKey{key}}, "no peer has the public key " + key.String()},
	} {
		t.Run(c.name, func(t *testing.T) {
			var file bytes.Buffer
			c.opts.Started = func() { t.Error("it has started") }
			err := n.Capture(t.Context(), &file, c.opts)
			if err == nil || err.Error() != "wgnet: Capture: "+c.want || file.Len() > 0 {
				t.Errorf("got %v and %d bytes, want %s", err, file.Len(), c.want)
			}
		})
	}
}

// A peer that is added has an interface of its own, and one without a name goes by its key.
func TestCapturePeerAdded(t *testing.T) {
	n := newNet(t, newConfig("10.0.0.1/24"))
	c := capture(t, n, wgnet.CaptureOptions{})
	var want []string
	for i := range 2 {
		addr := fmt.Sprintf("10.0.0.%d", 2+i)
		up := testpeer.New(t, testpeer.Options{Addresses: []string{addr}})
		us := remote(n, "10.0.0.1/32")
		if err := up.AddPeer(us); err != nil {
			t.Fatal(err)
		}
		p := wgnet.PeerConfig{PublicKey: wgnet.PublicKey(up.PublicKey()), Endpoint: up.Endpoint(), AllowedIPs: prefixes(addr + "/32")}
		want = append(want, p.PublicKey.String())
		if i == 1 {
			p.Name, want[i] = "second", "second"
		}
		if err := n.AddPeer(p); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Ping(testContext(t), addr); err != nil {
			t.Fatal(err)
		}
		if err := n.RemovePeer(p.PublicKey); err != nil {
			t.Fatal(err)
		}
	}
	f := c.stop()
	if len(f.interfaces) != 2 {
		t.Fatalf("interfaces %+v", f.interfaces)
	}
	for i, in := range f.interfaces {
		if in.name != want[i] || in.packets != 2 || in.received != 2 || in.statistics != 1 {
			t.Errorf("interface %+v, want %s", in, want[i])
		}
	}
}

// Each end leaves a file that can be read.
func TestCaptureEnds(t *testing.T) {
	t.Run("with the Net", func(t *testing.T) {
		a, b := newPair(t)
		l, port := listen(t, b, ":0")
		serveEcho(t, l)
		c, err := a.Dial("tcp", "b:"+port)
		if err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(c); err != nil {
			t.Fatal(err)
		}
		captured := capture(t, a, wgnet.CaptureOptions{})
		closeNet(t, a)
		<-captured.ended
		if !errors.Is(captured.err, net.ErrClosed) {
			t.Errorf("Capture: %v", captured.err)
		}
		f := readCapture(t, captured.file.buf.Bytes())
		checkFile(t, f, "b")
		if len(f.packets) == 0 || f.packets[len(f.packets)-1].flags&rst == 0 {
			t.Errorf("the end of the connection is missing: %+v", f.packets)
		}
		if err := a.Capture(t.Context(), io.Discard, wgnet.CaptureOptions{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("of a closed Net: %v", err)
		}
	})
	t.Run("with the writer", func(t *testing.T) {
		a, _ := newPair(t)
		c := capture(t, a, wgnet.CaptureOptions{})
		c.file.mu.Lock()
		c.file.fail = os.ErrDeadlineExceeded
		c.file.mu.Unlock()
		if _, err := a.Ping(testContext(t), "b"); err != nil {
			t.Fatal(err)
		}
		<-c.ended
		if want := "wgnet: Capture: the capture ends here: i/o timeout"; !errors.Is(c.err, os.ErrDeadlineExceeded) || c.err.Error() != want {
			t.Errorf("got %v, want %s", c.err, want)
		}
		readCapture(t, c.file.buf.Bytes())
	})
	t.Run("at once", func(t *testing.T) {
		n := newNet(t, newConfig("10.0.0.1/24"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var file bytes.Buffer
		if err := n.Capture(ctx, &file, wgnet.CaptureOptions{}); err != nil {
			t.Error(err)
		}
		if f := readCapture(t, file.Bytes()); file.Len() == 0 || len(f.interfaces) != 0 {
			t.Errorf("the file is %x", file.Bytes())
		}
	})
}

// BenchmarkCapture is what a stream costs without a capture and with one.
func BenchmarkCapture(b *testing.B) {
	for _, c := range []struct {
		name string
		opts *wgnet.CaptureOptions
	}{
		{"none", nil},
		{"headers", &wgnet.CaptureOptions{SnapLen: 96}},
		{"all", &wgnet.CaptureOptions{}},
		{"filtered out", &wgnet.CaptureOptions{Protocol: "udp"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			client, server := newPair(b)
			l, port := listen(b, server, ":0")
			done := make(chan error, 1)
			go func() { // ends when the client closes its connection
				conn, err := l.Accept()
				if err == nil {
					_, err = io.Copy(io.Discard, conn)
					conn.Close()
				}
				done <- err
			}()
			conn, err := client.Dial("tcp", "b:"+port)
			if err != nil {
				b.Fatal(err)
			}
			file := lastWrite{}
			captured := make(chan error, 1)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			if c.opts != nil {
				go func() { captured <- client.Capture(ctx, &file, *c.opts) }() // cancel ends it
			}
			buf := make([]byte, 1<<20)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := conn.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			conn.Close()
			if err := <-done; err != nil {
				b.Error(err)
			}
			cancel()
			if c.opts == nil {
				return
			}
			if err := <-captured; err != nil {
				b.Error(err)
			}
			// The statistics' last words: the count of packets, that of those dropped, and two ends of four bytes each.
			end := file[len(file)-28:]
			received, dropped := binary.LittleEndian.Uint64(end), binary.LittleEndian.Uint64(end[12:])
			b.ReportMetric(100*float64(dropped)/max(1, float64(received)), "%dropped")
		})
	}
}

// lastWrite keeps what was written last.
type lastWrite []byte

func (w *lastWrite) Write(p []byte) (int, error) {
	*w = append((*w)[:0], p...)
	return len(p), nil
}
