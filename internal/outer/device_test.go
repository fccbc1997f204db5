// SPDX-License-Identifier: MIT

package outer

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// node is an upstream device on a channel TUN.
type node struct {
	key  *ecdh.PrivateKey
	addr netip.Addr // inside the tunnel
	tun  *tuntest.ChannelTUN
	dev  *device.Device
}

func newNode(t *testing.T, addr string, bind conn.Bind) *node {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{key: key, addr: netip.MustParseAddr(addr)}
	n.start(t, bind)
	return n
}

// start makes the node's device, which is down.
func (n *node) start(t *testing.T, bind conn.Bind) {
	t.Helper()
	n.tun = tuntest.NewChannelTUN()
	n.dev = device.NewDevice(n.tun.TUN(), bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(n.dev.Close)
	n.set(t, "private_key=%s\n", hex.EncodeToString(n.key.Bytes()))
}

func (n *node) set(t *testing.T, format string, args ...any) {
	t.Helper()
	if err := n.dev.IpcSet(fmt.Sprintf(format, args...)); err != nil {
		t.Fatal(err)
	}
}

// connect adds other as a peer; an empty endpoint is not set.
func (n *node) connect(t *testing.T, other *node, endpoint string) {
	t.Helper()
	if endpoint != "" {
		endpoint = "endpoint=" + endpoint + "\n"
	}
	n.set(t, "public_key=%s\n%sallowed_ip=%s/32\n", hex.EncodeToString(other.key.PublicKey().Bytes()), endpoint, other.addr)
}

func (n *node) up(t *testing.T) {
	t.Helper()
	if err := n.dev.Up(); err != nil {
		t.Fatal(err)
	}
}

// ping sends a packet to other until it arrives there.
func (n *node) ping(t *testing.T, other *node) {
	t.Helper()
	packet := tuntest.Ping(other.addr, n.addr)
	give := time.After(patience)
	for {
		select {
		case n.tun.Outbound <- packet:
		case <-give:
			t.Fatal("the device does not read its TUN")
		}
		select {
		case got := <-other.tun.Inbound:
			if !bytes.Equal(got, packet) {
				t.Fatalf("%d bytes arrive, want the %d sent", len(got), len(packet))
			}
			return
		case <-time.After(time.Second): // the device drops what comes while it is not ready
		case <-give:
			t.Fatal("no packet arrives")
		}
	}
}

// A device over our sockets talks with one over upstream's, is taken down and up, and is replaced by another device
// on the same port.
func TestDevice(t *testing.T) {
	for _, kind := range kinds {
		for _, family := range families {
			t.Run(kind.name+"/"+family.name, func(t *testing.T) {
				needLoopback(t, family.loopback)
				s := kind.open(t, Config{})
				ours := newNode(t, "10.0.0.1", s.Bind())
				theirs := newNode(t, "10.0.0.2", conn.NewStdNetBind())
				ours.connect(t, theirs, "")
				theirs.connect(t, ours, net.JoinHostPort(family.loopback, strconv.Itoa(int(s.Port()))))
				ours.up(t)
				theirs.up(t)
				theirs.ping(t, ours)
				ours.ping(t, theirs)

				if err := ours.dev.Down(); err != nil {
					t.Fatal(err)
				}
				ours.up(t)
				ours.ping(t, theirs)
				theirs.ping(t, ours)

				if err := ours.dev.BindUpdate(); err != nil {
					t.Fatal(err)
				}
				ours.ping(t, theirs)
				theirs.ping(t, ours)

				// A second device takes over, as with a changed private key.
				second := &node{key: ours.key, addr: ours.addr}
				second.start(t, s.Bind())
				second.connect(t, theirs, "")
				ours.dev.Close()
				second.up(t)
				// The peer learns of it as of a restart: it has to begin anew.
				theirs.set(t, "public_key=%s\nremove=true\n", hex.EncodeToString(ours.key.PublicKey().Bytes()))
				theirs.connect(t, second, net.JoinHostPort(family.loopback, strconv.Itoa(int(s.Port()))))
				theirs.ping(t, second)
				second.ping(t, theirs)
			})
		}
	}
}

// Both ends are ours, and both begin at once.
func TestDevicePair(t *testing.T) {
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	na, nb := newNode(t, "10.0.0.1", a.Bind()), newNode(t, "10.0.0.2", b.Bind())
	na.connect(t, nb, fmt.Sprintf("127.0.0.1:%d", b.Port()))
	nb.connect(t, na, fmt.Sprintf("127.0.0.1:%d", a.Port()))
	na.up(t)
	nb.up(t)
	for range 20 {
		na.ping(t, nb)
		nb.ping(t, na)
	}
	// Fault 20: the sockets go first, then the device.
	a.Close()
	na.dev.Close()
}
