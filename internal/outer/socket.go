// SPDX-License-Identifier: MIT

package outer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// receiveBatch is the number of datagrams given to the device in one call, where there can be several. The device holds
// a buffer of 64 KiB for each: 128 of them would gain a few percent of speed for 14 MiB more of an idle tunnel's heap.
const receiveBatch = 16

const (
	// sendTimeout bounds the wait for room in the system's send buffer. The datagrams are lost after it, as they
	// would be in a full queue further on. It is below the second in which a Close must be done (fault 20).
	sendTimeout = 500 * time.Millisecond
	// socketBuffer is asked for each way, in bytes: the most that macOS gives by default. Systems clamp it.
	socketBuffer = 7 << 20
)

// socket is an open datagram socket under the facades. Any method may run at any time from any goroutine, but
// receive from one at a time. Methods called after close answer net.ErrClosed.
type socket interface {
	// receive waits for a datagram and fills in as many as it can take without waiting. It may return 0, nil. It
	// answers os.ErrDeadlineExceeded after the read deadline.
	receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error)
	// send sends each buffer as one datagram. It waits at most for sendTimeout and answers os.ErrDeadlineExceeded
	// then; if done is closed and the write deadline then set to the past, it answers net.ErrClosed at once.
	send(bufs [][]byte, to *endpoint, done <-chan struct{}) error
	setReadDeadline(time.Time) error
	setWriteDeadline(time.Time) error
	// setMark marks the datagrams sent for policy routing; 0 is no mark.
	setMark(mark uint32) error
	port() uint16
	// lost is how many datagrams the system has dropped since there was no room for them, as far as it tells.
	lost() uint64
	// batchSize is the number of buffers that receive can make use of; it never changes.
	batchSize() int
	close() error
}

// addrPortConn is what *net.UDPConn has beyond net.PacketConn, and other packet conns may have, to spare the
// allocation of addresses.
type addrPortConn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
}

// batchConn is a packet conn that carries several datagrams in a call, as those of an in-memory network may.
type batchConn interface {
	// ReadBatch waits for a datagram and fills in as many as it can without waiting.
	ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (int, error)
	// WriteBatch sends each buffer as one datagram and returns how many it has sent.
	WriteBatch(bufs [][]byte, to netip.AddrPort) (int, error)
}

// packetSocket is the socket of any system, over any net.PacketConn whose addresses are UDP addresses.
type packetSocket struct {
	pc    net.PacketConn
	ap    addrPortConn // pc, or nil if it has no such methods
	batch batchConn    // pc, or nil if it has no such methods
	from  []netip.AddrPort
	cache endpointCache
}

// newPacketSocket takes over pc.
func newPacketSocket(pc net.PacketConn) *packetSocket {
	p := &packetSocket{pc: pc}
	p.ap, _ = pc.(addrPortConn)
	if p.batch, _ = pc.(batchConn); p.batch != nil {
		p.from = make([]netip.AddrPort, receiveBatch)
	}
	return p
}

func (p *packetSocket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	if p.batch != nil {
		return p.receiveBatch(bufs, sizes, eps)
	}
	n, from, err := p.readFrom(bufs[0])
	if err != nil || n == 0 {
		return 0, err
	}
	sizes[0] = n
	eps[0] = p.cache.get(endpointKey{dst: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())})
	return 1, nil
}

func (p *packetSocket) receiveBatch(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	n, err := p.batch.ReadBatch(bufs[:min(len(bufs), len(p.from))], sizes, p.from)
	for i, from := range p.from[:n] {
		eps[i] = p.cache.get(endpointKey{dst: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())})
	}
	if n > 0 {
		return n, nil // an error that lasts comes again in the next call
	}
	return 0, err
}

func (p *packetSocket) send(bufs [][]byte, to *endpoint, done <-chan struct{}) error {
	deadline := time.Now().Add(sendTimeout)
	armed := false
	for len(bufs) > 0 {
		if !armed {
			if err := p.pc.SetWriteDeadline(deadline); err != nil {
				return err
			}
			if isClosed(done) {
				// We may just have pushed away the deadline that was to wake another Send.
				_ = p.pc.SetWriteDeadline(longAgo)
				return net.ErrClosed
			}
			armed = true
		}
		n, err := p.write(bufs, to.dst)
		bufs = bufs[n:]
		switch {
		case err == nil && n == 0:
			return sendError(to, errors.New("the packet conn has sent nothing and says no reason"))
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline):
			armed = false // a Close has woken us, of our session or of another
		default:
			return sendError(to, err)
		}
	}
	return nil
}

func (p *packetSocket) setReadDeadline(t time.Time) error  { return p.pc.SetReadDeadline(t) }
func (p *packetSocket) setWriteDeadline(t time.Time) error { return p.pc.SetWriteDeadline(t) }
func (p *packetSocket) port() uint16                       { return localPort(p.pc) }
func (p *packetSocket) lost() uint64                       { return 0 }

// batchSize implements socket.
func (p *packetSocket) batchSize() int { return max(1, len(p.from)) }

func (p *packetSocket) close() error { return p.pc.Close() }

func (p *packetSocket) setMark(mark uint32) error {
	if mark != 0 {
		return fmt.Errorf("mark %#x on sent datagrams: %w here, set no FwMark", mark, errors.ErrUnsupported)
	}
	return nil
}

func (p *packetSocket) readFrom(b []byte) (int, netip.AddrPort, error) {
	if p.ap != nil {
		return p.ap.ReadFromUDPAddrPort(b)
	}
	n, addr, err := p.pc.ReadFrom(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	if udp, ok := addr.(*net.UDPAddr); ok {
		return n, udp.AddrPort(), nil
	}
	from, err := netip.ParseAddrPort(addr.String())
	return n, from, err
}

// write sends the first of bufs, or as many as it can, and returns how many that were.
func (p *packetSocket) write(bufs [][]byte, to netip.AddrPort) (n int, err error) {
	switch {
	case p.batch != nil:
		return p.batch.WriteBatch(bufs, to)
	case p.ap != nil:
		_, err = p.ap.WriteToUDPAddrPort(bufs[0], to)
	default:
		_, err = p.pc.WriteTo(bufs[0], net.UDPAddrFromAddrPort(to))
	}
	if err != nil {
		return 0, err
	}
	return 1, nil
}

func localPort(pc net.PacketConn) uint16 {
	if udp, ok := pc.LocalAddr().(*net.UDPAddr); ok {
		return udp.AddrPort().Port()
	}
	local, err := netip.ParseAddrPort(pc.LocalAddr().String())
	if err != nil {
		return 0 // a network without ports
	}
	return local.Port()
}

// sendError says whom a failed send was for.
func sendError(to *endpoint, err error) error {
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return fmt.Errorf("send to %s: %w", to.dst, err)
}

// isDatagramError reports whether a receive error concerns one datagram or answers one that was sent, so that the
// next receive may well succeed.
func isDatagramError(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || isSystemDatagramError(err)
}
