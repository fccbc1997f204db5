// SPDX-License-Identifier: MIT

package wgnet

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/wgnet/internal/outer"
	"example.com/wgnet/netstack"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// engine is one WireGuard device on its own facades of the stack and the sockets. A private key that changes makes
// another one: the device takes locks in opposite orders when its key changes while handshakes go on.
type engine struct {
	dev     *device.Device
	tun     *tunFacade
	bind    conn.Bind
	closing atomic.Bool   // what the device meets from now on is our doing
	stopped atomic.Int32  // routines that have ended
	ended   chan struct{} // closed when all deviceRoutines have
	// before is what the engine whose place it has taken had measured. It never changes once the engine is in use.
	before map[*link]measurement
}

// newEngine makes a device that is down.
func newEngine(t *tunnel, sockets *outer.Sockets) *engine {
	e := &engine{bind: sockets.Bind(), ended: make(chan struct{})}
	e.tun = &tunFacade{Device: t.stack.Device(), tunnel: t, live: make(chan struct{}), closed: make(chan struct{})}
	e.dev = device.NewDevice(e.tun, e.bind, &device.Logger{
		Verbosef: func(format string, args ...any) {
			t.verbosef(format, args...)
			if strings.HasPrefix(format, logRoutine) && strings.HasSuffix(format, logStopped) && format != logReceive {
				if e.stopped.Add(1) == deviceRoutines() {
					close(e.ended)
				}
			}
		},
		Errorf: func(format string, args ...any) { t.errorf(e.closing.Load(), format, args...) },
	})
	// From now on, and only so, a peer that the device's text makes together with an endpoint stays there, but for what the
	// text says later. See newDevicePeer.
	e.dev.DisableSomeRoamingForBrokenMobileSemantics()
	return e
}

// load gives the device its key and makes its peers, which it returns. The key comes first: the device computes what it
// needs of it as a peer is made. The caller calls IpcSet with the peers' config.
func (e *engine) load(key PrivateKey, peers []*peer) (map[*peer]*device.Peer, error) {
	if err := e.dev.IpcSet(uapiKey(key)); err != nil {
		return nil, fmt.Errorf("set the private key: %w", err)
	}
	return e.add(peers)
}

// add makes peers, or none of them.
func (e *engine) add(peers []*peer) (map[*peer]*device.Peer, error) {
	devs := make(map[*peer]*device.Peer, len(peers))
	for _, p := range peers {
		dev, err := e.newDevicePeer(p)
		if err != nil {
			e.remove(devs)
			return nil, fmt.Errorf("add peer %s: %w", p.label(), err)
		}
		devs[p] = dev
	}
	return devs, nil
}

// newDevicePeer makes a peer without its config. One that is pinned needs an endpoint to be pinned to, known or not.
func (e *engine) newDevicePeer(p *peer) (*device.Peer, error) {
	key := device.NoisePublicKey(p.PublicKey)
	if !p.PinEndpoint {
		return e.dev.NewPeer(key)
	}
	if err := e.dev.IpcSet(uapiPin(p)); err != nil {
		return nil, err
	}
	if dev := e.dev.LookupPeer(key); dev != nil {
		return dev, nil
	}
	return nil, errors.New("the device is closed")
}

// remove takes back what add has made.
func (e *engine) remove(devs map[*peer]*device.Peer) {
	for p := range devs {
		e.dev.RemovePeer(device.NoisePublicKey(p.PublicKey))
	}
}

// up brings the device up and lets it read the stack's packets.
func (e *engine) up() error {
	if err := e.dev.Up(); err != nil {
		return fmt.Errorf("bring the device up: %w", err)
	}
	e.tun.start()
	return nil
}

// down takes the device down. The facade of the sockets goes first: the device waits for a send that is blocked.
func (e *engine) down() error {
	e.closing.Store(true)
	if err := errors.Join(e.bind.Close(), e.dev.Down()); err != nil {
		return fmt.Errorf("take the device down: %w", err)
	}
	return nil
}

// close ends the device, and waits for the routines that it leaves running.
func (e *engine) close() {
	e.closing.Store(true)
	e.dev.Close()
	<-e.ended
}

// tunFacade is the stack's facade for one device. It sees a peer's first packet under new keys, counts packets, and tells
// the sockets what has come through.
type tunFacade struct {
	*netstack.Device
	tunnel *tunnel

	startOnce, closeOnce sync.Once
	live                 chan struct{} // closed by start
	closed               chan struct{} // closed by Close
}

// start lets Read through. A device reads as soon as it is made, and what it reads while it is down is lost.
func (d *tunFacade) start() { d.startOnce.Do(func() { close(d.live) }) }

// Read implements tun.Device.
func (d *tunFacade) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-d.live:
		return d.Device.Read(bufs, sizes, offset)
	case <-d.closed:
		return 0, os.ErrClosed
	}
}

// Write implements tun.Device.
func (d *tunFacade) Write(bufs [][]byte, offset int) (int, error) {
	defer d.tunnel.sockets.Delivered(len(bufs)) // the device lets go of the buffers then
	d.tunnel.accepted.Add(uint64(len(bufs)))
	// The packets of one call are of one peer, to whom the device has found their sources to belong.
	for _, buf := range bufs {
		if p := d.tunnel.sender(buf[offset:]); p != nil {
			p.observed.packetsReceived.Add(uint64(len(bufs)))
			p.reached()
			// The header of its message is still before each packet.
			if d.tunnel.confirmations.confirmedBy(p.link, bufs) {
				d.tunnel.up(p, p.asked.Load())
			}
			break
		}
	}
	return d.Device.Write(bufs, offset)
}

// Close implements tun.Device.
func (d *tunFacade) Close() error {
	d.closeOnce.Do(func() { close(d.closed) })
	return d.Device.Close()
}

// sender finds the peer that a packet is from, or nil.
func (t *tunnel) sender(packet []byte) *peer {
	if src, ok := netstack.Source(packet); ok {
		if id, ok := t.stack.PeerFor(src); ok {
			return t.peers().byID[id]
		}
	}
	return nil
}
