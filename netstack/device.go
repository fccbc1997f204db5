// SPDX-License-Identifier: MIT

package netstack

import (
	"os"
	"sync"
	"time"

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
	timer     *time.Timer // Read's
	closeOnce sync.Once
	closed    chan struct{}
}

var _ tun.Device = (*Device)(nil)

func newDevice(s *Stack) *Device {
	// The device under it is brought up by its owner, not by an event from here: nothing is ever sent on events.
	timer := time.NewTimer(0)
	timer.Stop()
	return &Device{stack: s, events: make(chan tun.Event), timer: timer, closed: make(chan struct{})}
}

// Read implements [tun.Device]: it waits for packets of the stack and fills as many buffers as it has packets for.
// It returns [os.ErrClosed] after the facade's Close or the stack's. One goroutine at a time may call it.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	return d.stack.link.read(bufs, sizes, offset, d.closed, d.timer)
}

// Write implements [tun.Device]: it gives packets to the stack, which copies what it keeps. Packets that are not
// fit to be seen by the stack are dropped and counted; that is no error. It returns [os.ErrClosed] once the stack
// is closed.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	d.stack.tapInbound(bufs, offset)
	var batch [batchSize]inboundPacket // not kept in d: several goroutines write at the same time
	n := 0
	for i, buf := range bufs {
		if len(buf) > offset && d.stack.inbound.check(&batch[n], buf[offset:]) {
			n++
		}
		if n == len(batch) || i == len(bufs)-1 {
			if !d.deliver(batch[:n]) {
				return 0, os.ErrClosed
			}
			n = 0
		}
	}
	return len(bufs), nil
}

// deliver gives checked packets to the stack, each run of TCP segments as one. It reports false when the stack is gone.
func (d *Device) deliver(batch []inboundPacket) bool {
	for len(batch) > 0 {
		n, size := coalesce(batch)
		d.stack.silence.heard(batch[0].src, batch[0].packet)
		if !d.stack.own.Load().has(batch[0].dst) {
			if !d.transit(batch[:n], size) {
				return false
			}
			batch = batch[n:]
			continue
		}
		var data buffer.Buffer
		if n == 1 {
			data = buffer.MakeWithData(batch[0].packet)
		} else {
			view := buffer.NewViewSize(size)
			merge(view.AsSlice(), batch[:n])
			data = buffer.MakeWithView(view)
		}
		if !batch[0].isSegment() {
			d.stack.reopen(&batch[0])
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: data})
		delivered := d.stack.link.deliver(pkt, batch[0].proto, batch[0].isSegment())
		pkt.DecRef()
		if !delivered {
			return false
		}
		batch = batch[n:]
	}
	return true
}

// transit passes on a run of packets for an address that is not the stack's own. It reports false when the stack is gone.
func (d *Device) transit(run []inboundPacket, size int) bool {
	if isClosed(d.stack.done) {
		return false
	}
	if len(run) == 1 {
		d.stack.transit.receive(&run[0], run[0].packet, 0)
		return true
	}
	view := buffer.NewViewSize(size)
	defer view.Release()
	merge(view.AsSlice(), run)
	d.stack.transit.receive(&run[0], view.AsSlice(), len(run[0].payload()))
	return true
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
