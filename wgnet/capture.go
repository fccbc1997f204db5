// SPDX-License-Identifier: MIT

package wgnet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"example.com/wgnet/netstack"
	"example.com/wgnet/pcapng"
)

const (
	// maxCaptureQueue bounds, in bytes, the packets of a capture that wait for its writer; as many are being written.
	maxCaptureQueue = 4 << 20
	// captureOverhead is what a packet counts there besides its bytes.
	captureOverhead = 64
	// maxCaptureInterfaces bounds the interfaces in a file, of peers that come and go for months.
	maxCaptureInterfaces = 1 << 16
	// captureBuffer is how much is written at once.
	captureBuffer = 64 << 10
)

// CaptureOptions says what [Net.Capture] writes. The zero value is everything.
type CaptureOptions struct {
	// SnapLen is how many bytes of each packet are written, from its IP header on. 0 means all.
	SnapLen int
	// Peers are those whose packets are written. None means all, those that are added later too.
	Peers []PublicKey
	// Protocol is "tcp", "udp" or "icmp" (of both families). "" means all that there are.
	Protocol string
	// Port is the TCP or UDP port of either side. 0 means all. A fragment of a packet other than the first one has none.
	Port uint16
	// Started, if not nil, is called once, when the file has begun: what passes the tunnel from now on is captured.
	Started func()
}

// Capture writes the packets inside the tunnel to w, until ctx is done, and then returns nil: a file in pcapng that
// Wireshark, tshark and tcpdump open. It shows what `tcpdump -i wg0` shows of a kernel's tunnel: IP packets in plain, as
// they are on the wire, those that the tunnel or the stack then drops included. Nothing of the Net's own loopback is in
// it, no handshake of WireGuard's, and no keepalive.
//
// Each peer has an interface in the file, under its name or else its public key: those that there are in the beginning,
// and any other with its first packet, under the name that it has then. Packets of no peer that is known any more are on an
// interface named "other". The direction is in the packet's flags.
//
// The tunnel does not wait for w. When more than 4 MiB wait, packets are dropped from the file, and counted: at the end
// of the file, each interface's statistics say how many packets there were, after the options' choice, and how many of
// them were dropped. With a slow w, a capture takes some 10 MB of memory. w gets what there is as soon as it comes, so it
// can be a pipe to a program that shows it live.
//
// Once ctx is done or the Net is closed, Capture writes what waits and the statistics, and returns: when w takes them. It
// returns [net.ErrClosed] for a Net that is closed, and an error of w's at once. The file ends there then. Other errors say
// what is wrong with the options, or that 8 captures are running. Capture does not close w, and calls it from its caller's
// goroutine.
func (n *Net) Capture(ctx context.Context, w io.Writer, opts CaptureOptions) error {
	if err := n.capture(ctx, w, opts); err != nil {
		return fmt.Errorf("wgnet: Capture: %w", err)
	}
	return nil
}

func (n *Net) capture(ctx context.Context, w io.Writer, opts CaptureOptions) error {
	filter, err := newCaptureFilter(opts)
	if err != nil {
		return err
	}
	c := &capture{
		filter: filter, snapLen: opts.SnapLen, peers: n.peers, news: make(chan struct{}, 1), start: time.Now(),
		byPeer: map[netstack.PeerID]int{}, other: -1,
	}
	c.buffer = bufio.NewWriterSize(w, captureBuffer)
	// libpcap does not open files of several interfaces with the registered link type.
	c.file, err = pcapng.NewWriter(c.buffer, pcapng.Options{
		SnapLen: opts.SnapLen, LinkType: pcapng.LinkTypeDLTRaw, Application: "wgnet", Comment: "public key " + n.PublicKey().String(),
	})
	if err != nil {
		return err
	}
	if c.snapLen == 0 {
		c.snapLen = pcapng.MaxSnapLen
	}
	if n.ctx.Err() != nil {
		return net.ErrClosed
	}
	for _, key := range opts.Peers {
		if n.peers().byKey[key] == nil {
			return fmt.Errorf("no peer has the public key %s", key)
		}
	}
	c.addPeers(n.peers().all)
	remove, err := n.stack.AddTap(c.see)
	if err != nil {
		return fmt.Errorf("%d captures are running: end one", netstack.MaxTaps)
	}
	defer remove()
	if err := c.write(); err != nil {
		return err
	}
	if opts.Started != nil {
		opts.Started()
	}
	for err == nil && ctx.Err() == nil {
		select {
		case <-c.news:
			if err := c.write(); err != nil {
				return err
			}
		case <-ctx.Done():
		case <-n.done: // not before: the last packets are the resets of the stack's end
			err = net.ErrClosed
		}
	}
	remove()
	if err := c.end(); err != nil {
		return err
	}
	return err
}

// capture is one that runs: the packet path puts packets in, and the goroutine that called Capture writes them out.
type capture struct {
	filter  captureFilter
	snapLen int
	peers   func() *peerTable
	start   time.Time
	news    chan struct{} // holds one token when there may be something to write

	// The writing goroutine's own.
	buffer  *bufio.Writer
	file    *pcapng.Writer
	writing captureQueue

	mu         sync.Mutex // guards what follows. Lock order: netstack's, then mu. Nothing is called under it that waits.
	interfaces []captureInterface
	byPeer     map[netstack.PeerID]int // of the interfaces
	other      int                     // the interface of packets that have none of their own, or -1
	described  int                     // how many interfaces are in the file
	waiting    captureQueue
	ended      bool
}

// captureInterface is one in the file, whose number there is its place among them.
type captureInterface struct {
	pcapng.Interface
	received, dropped uint64
}

// capturedPacket is a packet whose bytes, size of them, are in the queue's data.
type capturedPacket struct {
	at           time.Time
	id           int // of its interface
	size, length int // of what is kept of it, and of all
	direction    pcapng.Direction
}

type captureQueue struct {
	packets []capturedPacket
	data    []byte // of all packets, one after the other
}

func (q *captureQueue) full(size int) bool {
	return len(q.data)+size+captureOverhead*(len(q.packets)+1) > maxCaptureQueue
}

// see is called for every packet, from many goroutines.
func (c *capture) see(p netstack.TappedPacket) {
	if !c.filter.matches(p.Data) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	id, ok := c.interfaceOf(p)
	if !ok {
		return
	}
	c.interfaces[id].received++
	data := p.Data[:min(len(p.Data), c.snapLen)]
	if c.waiting.full(len(data)) {
		c.interfaces[id].dropped++
		return
	}
	direction := pcapng.Inbound
	if p.Outbound {
		direction = pcapng.Outbound
	}
	c.waiting.packets = append(c.waiting.packets, capturedPacket{
		at: time.Now(), id: id, size: len(data), length: len(p.Data), direction: direction, // under the lock, hence in order
	})
	c.waiting.data = append(c.waiting.data, data...)
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// interfaceOf reports false for a packet of a peer that is not asked for. The caller holds c.mu.
func (c *capture) interfaceOf(p netstack.TappedPacket) (id int, ok bool) {
	if p.Known {
		if id, ok := c.byPeer[p.Peer]; ok {
			return id, true
		}
		if peer := c.peers().byID[p.Peer]; peer != nil {
			if !c.filter.wants(peer.PublicKey) {
				return 0, false
			}
			if len(c.interfaces) < maxCaptureInterfaces {
				return c.addPeer(peer), true
			}
		}
	}
	if len(c.filter.peers) > 0 {
		return 0, false
	}
	if c.other < 0 {
		c.other = len(c.interfaces)
		c.interfaces = append(c.interfaces, captureInterface{Interface: pcapng.Interface{
			Name: "other", Description: "packets of no peer that is known", Filter: c.filter.String(),
		}})
	}
	return c.other, true
}

func (c *capture) addPeers(peers []*peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range peers {
		if c.filter.wants(p.PublicKey) && len(c.interfaces) < maxCaptureInterfaces {
			c.addPeer(p)
		}
	}
}

// addPeer returns the number of the peer's new interface. The caller holds c.mu.
func (c *capture) addPeer(p *peer) int {
	id := len(c.interfaces)
	description := pcapng.Interface{Name: p.Name, Description: "peer " + p.PublicKey.String(), Filter: c.filter.String()}
	if p.Name == "" {
		description.Name = p.PublicKey.String()
	}
	c.interfaces = append(c.interfaces, captureInterface{Interface: description})
	c.byPeer[p.id] = id
	return id
}

// write writes the packets that wait, and flushes them.
func (c *capture) write() error {
	c.mu.Lock()
	fresh := slices.Clone(c.interfaces[c.described:]) // some of the packets may be theirs
	c.described = len(c.interfaces)
	c.writing, c.waiting = c.waiting, c.writing
	c.mu.Unlock()
	for _, i := range fresh {
		if _, err := c.file.AddInterface(i.Interface); err != nil {
			return err
		}
	}
	rest := c.writing.data
	for _, p := range c.writing.packets {
		err := c.file.WritePacket(pcapng.Packet{
			Interface: p.id, Time: p.at, Direction: p.direction, Data: rest[:p.size], Length: p.length,
		})
		if err != nil {
			return err
		}
		rest = rest[p.size:]
	}
	c.writing.packets, c.writing.data = c.writing.packets[:0], c.writing.data[:0]
	return c.flush()
}

func (c *capture) flush() error {
	if err := c.buffer.Flush(); err != nil {
		return fmt.Errorf("the capture ends here: %w", err)
	}
	return nil
}

// end writes what is left.
func (c *capture) end() error {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	if err := c.write(); err != nil {
		return err
	}
	now := time.Now()
	for id, i := range c.interfaces { // which nobody changes any more
		err := c.file.WriteStatistics(pcapng.Statistics{
			Interface: id, Time: now, Start: c.start, End: now, Received: i.received, Dropped: i.dropped,
		})
		if err != nil {
			return err
		}
	}
	return c.flush()
}
