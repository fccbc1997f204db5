// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// batchSize is how many packets one Read or Write of a [Device] carries. The device keeps a buffer of 64 KiB for
// each, so this is a trade of idle memory (a MiB) against speed (a batch of 128 gains a few per cent).
const batchSize = 16

// Device is a facade of a [Stack] in the shape that golang.zx2c4.com/wireguard/device drives: its TUN device.
// Closing it ends its Read and leaves the stack alone. One facade at a time should be read from.
// Its methods are safe for concurrent use.
type Device struct {
	stack     *Stack
	events    chan tun.Event
	closeOnce sync.Once
	closed    chan struct{}
}

var _ tun.Device = (*Device)(nil)

func newDevice(s *Stack) *Device {
	// The device under it is brought up by its owner, not by an event from here: nothing is ever sent on events.
	return &Device{stack: s, events: make(chan tun.Event), closed: make(chan struct{})}
}

// Read implements [tun.Device]: it waits for packets of the stack and fills as many buffers as it has packets for.
// It returns [os.ErrClosed] after the facade's Close or the stack's.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	return d.stack.link.read(bufs, sizes, offset, d.closed)
}

// Write implements [tun.Device]: it gives packets to the stack, which copies what it keeps. Packets that are not
// fit to be seen by the stack are dropped and counted; that is no error. It returns [os.ErrClosed] once the stack
// is closed.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	for i, buf := range bufs {
		if len(buf) <= offset {
			continue
		}
		packet := buf[offset:]
		proto, src, ok := d.stack.inbound.check(packet)
		if !ok {
			continue
		}
		d.stack.silence.heard(src, packet)
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		delivered := d.stack.link.deliver(pkt, proto)
		pkt.DecRef()
		if !delivered {
			return i, os.ErrClosed
		}
	}
	return len(bufs), nil
}

// MTU implements [tun.Device]: the stack's MTU, in bytes.
func (d *Device) MTU() (int, error) { return int(d.stack.link.mtu), nil }

// Name implements [tun.Device].
func (d *Device) Name() (string, error) { return "netstack", nil }

// File implements [tun.Device]: there is none.
func (d *Device) File() *os.File { return nil }

// Events implements [tun.Device]. The channel carries nothing and is closed by Close.
func (d *Device) Events() <-chan tun.Event { return d.events }

// BatchSize implements [tun.Device].
func (d *Device) BatchSize() int { return batchSize }

// Close ends Read. It is idempotent and never fails.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		close(d.closed)
		close(d.events)
	})
	return nil
}
