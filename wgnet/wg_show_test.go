// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

// runWG runs wg(8) and returns what it prints to both of its outputs.
func runWG(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "wg", args...)
	cmd.Env = append(os.Environ(), "WG_COLOR_MODE=never", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// needWG skips the test where wg(8) cannot look at a socket.
func needWG(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("wg"); err != nil {
		t.Skip("wg is not installed: on Debian, apt-get install wireguard-tools")
	}
	if runtime.GOOS == "windows" || os.Geteuid() != 0 {
		t.Skip("wg and its folder /var/run/wireguard want root")
	}
}

// Real wg(8) shows a Net, and what it prints is in what the Net's status prints.
func TestWGShow(t *testing.T) {
	needWG(t)
	n, up := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Peers[0].PersistentKeepalive = 25 * time.Second
		cfg.Peers[0].PresharedKey = wgnet.PresharedKey{}
		addPeer(cfg, "nobody", wgnet.NewPrivateKey().Public(), "192.0.2.1:51820", "10.9.0.0/16")
		cfg.Peers[1].PresharedKey = wgnet.NewPresharedKey()
		addPeer(cfg, "blocked", wgnet.NewPrivateKey().Public(), "[2001:db8::1]:51820")
		cfg.Peers[2].PersistentKeepalive = 90 * time.Second
	})
	if err := n.WaitPeer(testContext(t), wgnet.PublicKey(up.PublicKey())); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ping(testContext(t), "up"); err != nil {
		t.Fatal(err)
	}
	for _, keys := range []bool{false, true} {
		t.Run(fmt.Sprintf("keys %v", keys), func(t *testing.T) {
			name := fmt.Sprintf("wgt%d", n.ListenPort())
			l, err := wgnet.ListenUAPI(name)
			if err != nil {
				t.Fatal(err)
			}
			s := &uapiServer{path: l.Addr().String()}
			s.serve(t, n, l, wgnet.UAPIOptions{Keys: keys})
			compareWGShow(t, n, name, keys)
			if out, err := runWG(t, "show", "interfaces"); err != nil || !slices.Contains(strings.Fields(out), name) {
				t.Errorf("wg show interfaces: %v\n%s", err, out)
			}
			peer := up.PublicKey().String()
			out, err := runWG(t, "set", name, "peer", peer, "remove")
			if err == nil || !strings.Contains(out, "Operation not permitted") {
				t.Errorf("wg set: %v\n%s", err, out)
			}
			if got := status(n).PublicKey.String(); got != peer {
				t.Errorf("wg set has removed the peer: the first one is %s", got)
			}
			s.cancel()
			<-s.ended
			if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}
		})
	}
}

// whatDiffers is where wg(8) counts otherwise: in the seconds of the clock, and not those that have passed.
var whatDiffers = regexp.MustCompile("(?m)^  (latest handshake: .*|uptime: .*)$")

// compareWGShow compares each line with the status that prints the same before and after.
func compareWGShow(t *testing.T, n *wgnet.Net, name string, keys bool) {
	t.Helper()
	normal := func(s string) string { return whatDiffers.ReplaceAllString(s, "  TIME") }
	waitFor(t, "a moment in which nothing changes", func() bool {
		before := n.Status().String()
		out, err := runWG(t, "show", name)
		if err != nil {
			t.Fatalf("wg show: %v\n%s", err, out)
		}
		if normal(before) != normal(n.Status().String()) {
			return false
		}
		t.Logf("wg show prints:\n%sthe status:\n%s", out, before)
		checkInStatus(t, name, normal(out), normal(before))
		hasKeys := strings.Contains(out, "public key: "+n.PublicKey().String()) && strings.Contains(out, "  preshared key: (hidden)\n")
		if hasKeys != keys || strings.Contains(out, "private key") != keys {
			t.Errorf("has keys: %v, want %v", hasKeys, keys)
		}
		return true
	})
}

// checkInStatus checks that a status prints each line that wg(8) does, in the same order, but for the interface's name.
func checkInStatus(t *testing.T, name, wg, status string) {
	t.Helper()
	ours, theirs := strings.Split(status, "\n\n"), strings.Split(strings.TrimSuffix(wg, "\n"), "\n\n")
	if len(ours) != len(theirs) {
		t.Fatalf("wg shows %d peers, want %d", len(theirs)-1, len(ours)-1)
	}
	var missing []string // what wg prints and we do not
	for i := range theirs {
		rest := strings.Split(ours[i], "\n")
		for _, line := range strings.Split(theirs[i], "\n") {
			at := slices.Index(rest, line)
			if at < 0 {
				missing = append(missing, line)
				continue
			}
			rest = rest[at+1:]
		}
	}
	if want := "interface: " + name; len(missing) != 1 || missing[0] != want {
		t.Errorf("only wg prints %q, want %q", missing, want)
	}
}

// A status of whatever size and age prints in the units and the words of wg(8).
func TestWGShowUnits(t *testing.T) {
	needWG(t)
	name := fmt.Sprintf("wgu%d", os.Getpid())
	l, err := wgnet.ListenUAPI(name)
	if err != nil {
		t.Fatal(err)
	}
	const minute, hour, day, year = time.Minute, time.Hour, 24 * time.Hour, 365 * 24 * time.Hour
	key := wgnet.NewPrivateKey().Public()
	var second atomic.Int64 // which the status is of
	state := func() wgnet.Status {
		now := time.Unix(second.Load(), 0)
		s := wgnet.Status{PublicKey: key, ListenPort: 51820, Started: now, Time: now}
		for i, age := range []time.Duration{
			0, 1, 59 * time.Second, minute, minute + time.Second, hour + 2*minute, day + hour + minute + time.Second, 2 * year, year + 2*day,
		} {
			p := wgnet.PeerStatus{PublicKey: wgnet.PublicKey{byte(i), 1}, LastHandshake: now.Add(-age.Truncate(time.Second))}
			p.BytesReceived, p.BytesSent = []uint64{1, 0, 1023, 1024, 1025, 1 << 20, 1<<30 - 1, 5 << 40, 7 << 50}[i], 1<<(5*i)*1000
			p.PersistentKeepalive = []time.Duration{0, 1, 25, 60, 61, 3600, 7384, 65535, 0}[i] * time.Second
			s.Peers = append(s.Peers, p)
		}
		return s
	}
	var served sync.WaitGroup
	served.Go(func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := errors.Join(answerWG(c, state()), c.Close()); err != nil {
				t.Error(err)
			}
		}
	})
	waitFor(t, "a second that lasts", func() bool {
		second.Store(time.Now().Unix())
		out, err := runWG(t, "show", name)
		if err != nil {
			t.Fatalf("wg show: %v\n%s", err, out)
		}
		if time.Now().Unix() != second.Load() {
			return false
		}
		status := state().String()
		t.Logf("wg show prints:\n%sthe status:\n%s", out, status)
		checkInStatus(t, name, out, status)
		return true
	})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	served.Wait()
}

// answerWG reads the request of a wg(8) that shows an interface, and answers it.
func answerWG(c net.Conn, s wgnet.Status) error {
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	request := make([]byte, len("get=1\n\n"))
	if n, err := io.ReadFull(c, request); n == 0 {
		return nil // wg has looked whether somebody is there
	} else if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listen_port=%d\n", s.ListenPort)
	for _, p := range s.Peers {
		fmt.Fprintf(&b, "public_key=%x\nlast_handshake_time_sec=%d\nlast_handshake_time_nsec=0\n", p.PublicKey[:], p.LastHandshake.Unix())
		fmt.Fprintf(&b, "rx_bytes=%d\ntx_bytes=%d\n", p.BytesReceived, p.BytesSent)
		fmt.Fprintf(&b, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
	}
	_, err := io.WriteString(c, b.String()+"errno=0\n\n")
	return err
}
