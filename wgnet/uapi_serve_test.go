// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// uapiServer is a ServeUAPI that runs.
type uapiServer struct {
	network, path string
	cancel        context.CancelFunc
	ended         chan struct{} // closed when ServeUAPI has returned
	err           error         // what it returned; read it after ended
}

// serveUAPI serves a socket until the test ends, if not before.
func serveUAPI(t *testing.T, n *wgnet.Net, opts wgnet.UAPIOptions) *uapiServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "uapi") // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &uapiServer{network: "unix", path: filepath.Join(dir, "s")}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.serve(t, n, l, opts)
	return s
}

func (s *uapiServer) serve(t *testing.T, n *wgnet.Net, l net.Listener, opts wgnet.UAPIOptions) {
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(testContext(t))
	s.ended = make(chan struct{})
	go func() { // cancel ends it
		defer close(s.ended)
		s.err = n.ServeUAPI(ctx, l, opts)
	}()
	t.Cleanup(func() { s.cancel(); <-s.ended })
}

// dial connects a client.
func (s *uapiServer) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial(s.network, s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it may be closed already
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a request and reads the lines of its answer.
func ask(t *testing.T, c net.Conn, request string) (lines []string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", lines, err)
		}
		if line == "\n" {
			return lines
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
}

// inHex is a key as the UAPI has it. key prints in base64.
func inHex(t *testing.T, key string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func TestServeUAPI(t *testing.T) {
	var cfg *wgnet.Config
	n, up := newUpstream(t, func(c *wgnet.Config) {
		c.Peers[0].PersistentKeepalive = 25 * time.Second
		addPeer(c, "", wgnet.NewPrivateKey().Public(), "", "10.9.0.0/16")
		c.Peers[1].PresharedKey = wgnet.NewPresharedKey()
		cfg = c.Clone()
	})
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	private, preshared := inHex(t, cfg.PrivateKey.Reveal()), inHex(t, cfg.Peers[1].PresharedKey.Reveal())
	plain, all := serveUAPI(t, n, wgnet.UAPIOptions{}), serveUAPI(t, n, wgnet.UAPIOptions{Keys: true})
	want := func(p wgnet.PeerStatus) string {
		return fmt.Sprintf(`listen_port=%d
public_key=%s
protocol_version=1
endpoint=%s
last_handshake_time_sec=%d
last_handshake_time_nsec=%d
rx_bytes=%d
tx_bytes=%d
persistent_keepalive_interval=25
allowed_ip=10.0.0.2/32
allowed_ip=fd00::2/128
public_key=%s
protocol_version=1
last_handshake_time_sec=0
last_handshake_time_nsec=0
rx_bytes=0
tx_bytes=0
persistent_keepalive_interval=0
allowed_ip=10.9.0.0/16
errno=0`, n.ListenPort(), inHex(t, p.PublicKey.String()), up.Endpoint(), p.LastHandshake.Unix(), p.LastHandshake.Nanosecond(),
			p.BytesReceived, p.BytesSent, inHex(t, cfg.Peers[1].PublicKey.String()))
	}
	c := plain.dial(t)
	waitFor(t, "a moment in which nothing changes", func() bool {
		before := status(n)
		got := strings.Join(ask(t, c, "get=1\n\n"), "\n")
		after := status(n)
		if before.BytesSent != after.BytesSent || before.BytesReceived != after.BytesReceived ||
			before.LastHandshake != after.LastHandshake || before.LastHandshake.IsZero() {
			return false
		}
		if got != want(before) {
			t.Errorf("got\n%s\nwant\n%s", got, want(before))
		}
		return true
	})
	got := strings.Join(ask(t, all.dial(t), "get=1\n\n"), "\n")
	for _, line := range []string{
		"private_key=" + private + "\n", "\npreshared_key=" + preshared + "\n", "\npreshared_key=" + strings.Repeat("0", 64) + "\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}

	// Whoever wants to set something is refused, after all of it has been read, and may go on asking.
	set := "set=1\nreplace_peers=true\n" + strings.Repeat("public_key="+private+"\n", 10_000) + "\n"
	for request, want := range map[string]syscall.Errno{set: syscall.EPERM, "get=1\nx=y\n\n": syscall.EINVAL, "get=1\n\n": 0} {
		lines := ask(t, c, request)
		if got, want := lines[len(lines)-1], fmt.Sprintf("errno=%d", -int(want)); got != want || want != "errno=0" && len(lines) > 1 {
			t.Errorf("%.20q is answered by %q, want %s", request, lines, want)
		}
	}
	if s := n.Status(); len(s.Peers) != 2 {
		t.Errorf("the peers are %+v", s.Peers)
	}
	for _, request := range []string{"hello\n", "get=2\n\n", strings.Repeat("x", 5000), "set=1\n" + strings.Repeat("x", 5000)} {
		c := plain.dial(t)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		// A reset if not all of the request was read.
		if got, err := io.ReadAll(c); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.20q is answered by %q, %v", request, got, err)
		}
	}
}

// countingListener counts the connections that are open.
type countingListener struct {
	net.Listener
	mu        sync.Mutex // guards what follows
	now, most int
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	l.most = max(l.most, l.now)
	return &countedConn{Conn: c, listener: l}, nil
}

type countedConn struct {
	net.Conn
	once     sync.Once
	listener *countingListener
}

func (c *countedConn) Close() error {
	c.once.Do(func() {
		c.listener.mu.Lock()
		defer c.listener.mu.Unlock()
		c.listener.now--
	})
	return c.Conn.Close()
}

// The ninth client waits until there is room for it.
func TestServeUAPIBound(t *testing.T) {
	n := newNet(t, newConfig("10.0.0.1/24"))
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: inner}
	s := &uapiServer{network: "tcp", path: l.Addr().String()}
	s.serve(t, n, l, wgnet.UAPIOptions{})
	var conns []net.Conn
	for range 8 {
		c := s.dial(t)
		ask(t, c, "get=1\n\n")
		conns = append(conns, c)
	}
	ninth := s.dial(t)
	for _, c := range conns {
		ask(t, c, "get=1\n\n")
	}
	if err := conns[0].Close(); err != nil {
		t.Fatal(err)
	}
	ask(t, ninth, "get=1\n\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most != 8 {
		t.Errorf("%d connections were open at a time", l.most)
	}
}

func TestServeUAPIEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*uapiServer, *wgnet.Net, net.Listener) error
		want error
	}{
		{"by its context", func(s *uapiServer, _ *wgnet.Net, _ net.Listener) error { s.cancel(); return nil }, nil},
		{"with the Net", func(_ *uapiServer, n *wgnet.Net, _ net.Listener) error { return n.Close() }, net.ErrClosed},
		{"with the listener", func(_ *uapiServer, _ *wgnet.Net, l net.Listener) error { return l.Close() }, net.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNet(t, newConfig("10.0.0.1/24"))
			path := filepath.Join(os.TempDir(), fmt.Sprintf("uapi-%d", n.ListenPort()))
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			s := &uapiServer{network: "unix", path: path}
			s.serve(t, n, l, wgnet.UAPIOptions{})
			client := s.dial(t)
			ask(t, client, "get=1\n\n")
			if err := c.end(s, n, l); err != nil {
				t.Fatal(err)
			}
			<-s.ended
			if !errors.Is(s.err, c.want) {
				t.Errorf("ServeUAPI: %v", s.err)
			}
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("the socket is still there: %v", err)
			}
			if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the client's connection is still there: %v", err)
			}
		})
	}
	n := newNet(t, newConfig("10.0.0.1/24"))
	closeNet(t, n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ServeUAPI(testContext(t), l, wgnet.UAPIOptions{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed Net: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is still there: %v", err)
	}
}
