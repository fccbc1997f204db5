// SPDX-License-Identifier: MIT

package testpeer

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// shim is upstream's netstack as a TUN that survives a Close under load.
//
// Upstream's own Close closes the channel into which the stack's goroutines send their packets, and the device calls
// it first, while everything still sends: `send on closed channel` (fault 18). The shim's Close, which the device
// calls, only ends Read and the events. From then on the pump throws away what the stack sends, so that nobody in the
// stack blocks. Once the device is closed and delivers nothing more, destroy closes the stack for good.
type shim struct {
	inner tun.Device
	net   *netstack.Net
	stack *stack.Stack

	packets chan []byte // from the pump to Read; never closed
	events  chan tun.Event
	done    chan struct{} // closed by Close: Read ends, the pump discards
	once    sync.Once
	pumped  chan struct{} // closed when the pump has ended

	// writers is held for reading by whoever makes the stack send without an endpoint's lock (UDP, ping, dial);
	// destroy takes it for writing, so that none of them is inside of the stack when its channel is closed.
	writers sync.RWMutex
}

func newShim(addresses, dns []netip.Addr, mtu int) (*shim, error) {
	inner, tnet, err := netstack.CreateNetTUN(addresses, dns, mtu)
	if err != nil {
		return nil, fmt.Errorf("testpeer: upstream's netstack with addresses %v: %w", addresses, err)
	}
	t := &shim{
		inner:   inner,
		net:     tnet,
		stack:   stackOf(tnet),
		packets: make(chan []byte),
		events:  make(chan tun.Event),
		done:    make(chan struct{}),
		pumped:  make(chan struct{}),
	}
	go t.pump(mtu) // ends when destroy closes inner, and destroy waits for it
	return t, nil
}

// stackOf digs out the gVisor stack, which upstream keeps to itself and whose workers it never waits for.
func stackOf(tnet *netstack.Net) *stack.Stack {
	return (*stack.Stack)(reflect.ValueOf(tnet).Elem().FieldByName("stack").UnsafePointer())
}

// pump takes each packet from the stack and hands it to Read, or to nobody after Close.
func (t *shim) pump(mtu int) {
	defer close(t.pumped)
	buf := make([]byte, mtu+64) // the stack sends at most mtu bytes; the rest is for packets that would show it wrong
	sizes := make([]int, 1)
	for {
		if _, err := t.inner.Read([][]byte{buf}, sizes, 0); err != nil {
			return
		}
		packet := append([]byte(nil), buf[:sizes[0]]...)
		select {
		case t.packets <- packet:
		case <-t.done:
		}
	}
}

// destroy closes the stack and waits for its goroutines. Call it once, after the device's Close has returned.
//
// Why each step precedes the next: Destroy aborts every endpoint, which wakes whoever waits in one, then waits for
// the TCP workers and takes the NIC away, so that nothing new is sent; the lock waits for those that were
// in the middle of sending, whom the pump still serves; only then nobody is left who could send on the channel that
// inner.Close closes.
func (t *shim) destroy() error {
	t.stack.Destroy()
	t.writers.Lock()
	defer t.writers.Unlock()
	err := t.inner.Close()
	<-t.pumped
	return err
}

func (t *shim) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-t.done:
		return 0, os.ErrClosed
	case packet := <-t.packets:
		sizes[0] = copy(bufs[0][offset:], packet)
		return 1, nil
	}
}

func (t *shim) Write(bufs [][]byte, offset int) (int, error) { return t.inner.Write(bufs, offset) }

// Close ends Read and the events, and leaves the stack to destroy.
func (t *shim) Close() error {
	t.once.Do(func() {
		close(t.done)
		close(t.events)
	})
	return nil
}

func (t *shim) Events() <-chan tun.Event { return t.events }
func (t *shim) File() *os.File           { return nil }
func (t *shim) MTU() (int, error)        { return t.inner.MTU() }
func (t *shim) Name() (string, error)    { return "testpeer", nil }
func (t *shim) BatchSize() int           { return t.inner.BatchSize() }
