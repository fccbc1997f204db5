// SPDX-License-Identifier: MIT

package outer

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// linuxSocket is a UDP socket with segmentation offload (UDP_SEGMENT, UDP_GRO, udp(7)) and sticky source addresses
// (IP_PKTINFO, IPV6_PKTINFO). An IPv6 socket carries IPv4 under mapped addresses.
//
// System calls never block: they run with MSG_DONTWAIT, and on EAGAIN the Go runtime's poller waits, which heeds
// deadlines and close.
type linuxSocket struct {
	udp       *net.UDPConn
	raw       syscall.RawConn
	log       *slog.Logger
	localPort uint16
	ipv4      bool                                                      // an AF_INET socket
	sendmsg   func(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno // replaced in tests
	largest   func(to netip.AddrPort, scope uint32) int                 // largestDatagram; replaced in tests

	segment atomic.Bool   // UDP_SEGMENT works
	missed  atomic.Uint64 // datagrams that the kernel has lost
	out     sync.Pool     // *outgoing
	turn    chan struct{} // holds one: whoever waits for room in the send buffer, and sets the write deadline

	// The rest is the receiver's.
	in    *incoming
	cache endpointCache
}

// newUDPSocket takes over udp.
func newUDPSocket(udp *net.UDPConn, log *slog.Logger) (socket, error) {
	return newLinuxSocket(udp, log)
}

func newLinuxSocket(udp *net.UDPConn, log *slog.Logger) (*linuxSocket, error) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &linuxSocket{
		udp:       udp,
		raw:       raw,
		log:       log,
		localPort: localPort(udp),
		sendmsg:   sendmsg,
		largest:   largestDatagram,
		turn:      make(chan struct{}, 1),
	}
	s.out.New = func() any { return newOutgoing(s) }
	var domainErr error
	err = raw.Control(func(fd uintptr) {
		var domain int
		domain, domainErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		s.ipv4 = domain == unix.AF_INET
		_, segmentErr := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.segment.Store(segmentErr == nil)
	})
	return s, errors.Join(err, domainErr)
}

// setSocketOptions sets what is of use and does without what the kernel refuses. The FORCE variants go beyond the
// system's maximum and need CAP_NET_ADMIN.
func setSocketOptions(network string, fd uintptr) {
	set := func(level, option, value int) { _ = unix.SetsockoptInt(int(fd), level, option, value) }
	set(unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	set(unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	set(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
	if network == "udp4" {
		set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	} else {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) // for mapped IPv4 too
	}
	set(unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	set(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
}

// errPortTaken is what the system answers for a port that is in use.
const errPortTaken = unix.EADDRINUSE

// isFamilyError reports whether a socket was refused because the host lacks its address family.
func isFamilyError(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// isSystemDatagramError names the other ICMP errors that Linux may report on a socket (ip(7), IP_RECVERR), should
// the user's Control hook have asked for them.
func isSystemDatagramError(err error) bool {
	return errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EPROTO) || errors.Is(err, unix.EHOSTDOWN) ||
		errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EACCES)
}

func (s *linuxSocket) lost() uint64 { return s.missed.Load() }

func (s *linuxSocket) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	if s.in == nil {
		s.in = newIncoming()
	}
	for n := 0; ; {
		n += s.in.handOut(bufs[n:], sizes[n:], eps[n:])
		if n == len(bufs) {
			return n, nil
		}
		if n > 0 {
			// Datagrams of many peers come one by one: those that are there already share the device's work.
			// An error that lasts comes again in the next call.
			if err := s.raw.Control(s.in.try); err != nil || s.in.errno != 0 {
				return n, nil
			}
		} else {
			if err := s.raw.Read(s.in.wait); err != nil {
				return 0, err
			}
			if s.in.errno != 0 {
				return 0, os.NewSyscallError("recvmsg", s.in.errno)
			}
		}
		before := s.in.lost
		s.in.parse(&s.cache)
		if now := s.in.lost; now != before {
			s.missed.Add(uint64(now - before))
		}
	}
}

func (s *linuxSocket) send(bufs [][]byte, to *endpoint, done <-chan struct{}) error {
	if s.ipv4 && to.dst.Addr().Is6() {
		return sendError(to, fmt.Errorf("%w: this host has no IPv6", unix.EAFNOSUPPORT))
	}
	scope := to.key.scope
	if zone := to.dst.Addr().Zone(); zone != "" && scope == 0 {
		// Looked up each time, as interfaces come and go. The first datagram received brings the index along.
		ifi, err := interfaceIndex(zone)
		if err != nil {
			return sendError(to, err)
		}
		scope = ifi
	}
	m := s.out.Get().(*outgoing)
	defer m.release()
	m.setDestination(to.dst, scope)
	var tooLarge error
	for len(bufs) > 0 {
		n := 1
		if s.segment.Load() && to.path.segmentable(len(bufs[0])) {
			n = runLength(bufs)
		}
		sent, err := s.sendRun(m, bufs[:n], to, scope, done)
		if sent == 0 && errors.Is(err, unix.EMSGSIZE) {
			tooLarge, sent, err = err, 1, nil // it is lost, smaller ones are not
		}
		if err != nil {
			return sendError(to, err)
		}
		bufs = bufs[sent:]
	}
	if tooLarge != nil {
		return sendError(to, tooLarge)
	}
	return nil
}

// sendRun sends a run as one message. When that is refused for a reason that is not to last it remembers the reason
// and tries again without what was refused. It returns 0, nil if the run has to be sent piece by piece.
func (s *linuxSocket) sendRun(m *outgoing, run [][]byte, to *endpoint, scope uint32, done <-chan struct{}) (int, error) {
	for refused := false; ; {
		src := to.SrcIP()
		m.setRun(run, src)
		if err := s.raw.Control(m.try); err != nil {
			return 0, err
		}
		if m.errno == unix.EAGAIN {
			if err := s.wait(m, done); err != nil {
				return 0, err
			}
		}
		switch err := m.errno; {
		case err == 0:
			return len(run), nil
		case src.IsValid() && isSourceError(err):
			to.ClearSrc() // our address or its route is gone
		case len(run) > 1 && err == unix.EIO:
			// udp(7), UDP_SEGMENT: the network card computes no checksums.
			if s.segment.Swap(false) {
				s.log.Info("the network card refuses UDP segmentation, sending datagrams one by one")
			}
			return 0, nil
		case len(run) > 1 && (err == unix.EMSGSIZE || err == unix.EINVAL):
			// The path's MTU is below the datagrams' size: alone they are fragmented (fault 47).
			s.refuse(run[0], to, scope)
			return 0, nil
		case err == unix.ECONNREFUSED && !refused:
			refused = true // reported for an earlier datagram, this one was not sent
		default:
			if err == unix.EMSGSIZE { // the user's Control hook forbids fragments (IP_MTU_DISCOVER, ip(7))
				s.refuse(run[0], to, scope)
			}
			return 0, os.NewSyscallError("sendmsg", err)
		}
	}
}

// refuse notes that a path does not take a datagram. Those that are lost for it may be many: the system is not asked for
// each.
func (s *linuxSocket) refuse(b []byte, to *endpoint, scope uint32) {
	if !to.path.known(len(b)) {
		to.path.refuse(len(b), s.largest(to.dst, scope))
	}
}

// wait sends m once the send buffer has room. The result is in m.errno.
func (s *linuxSocket) wait(m *outgoing, done <-chan struct{}) error {
	deadline := time.Now().Add(sendTimeout)
	timer := time.NewTimer(sendTimeout)
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-done:
		return net.ErrClosed
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
	for {
		if err := s.udp.SetWriteDeadline(deadline); err != nil {
			return err
		}
		if isClosed(done) {
			return net.ErrClosed
		}
		err := s.raw.Write(m.wait)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
			continue // a Close has woken us, of our session or of another
		}
		return err
	}
}

func (s *linuxSocket) setReadDeadline(t time.Time) error  { return s.udp.SetReadDeadline(t) }
func (s *linuxSocket) setWriteDeadline(t time.Time) error { return s.udp.SetWriteDeadline(t) }
func (s *linuxSocket) port() uint16                       { return s.localPort }
func (s *linuxSocket) batchSize() int                     { return receiveBatch }
func (s *linuxSocket) close() error                       { return s.udp.Close() }

func (s *linuxSocket) setMark(mark uint32) error {
	var setErr error
	err := s.raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
	if errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	if err = errors.Join(err, setErr); err != nil {
		return fmt.Errorf("mark sent datagrams with %#x (it needs CAP_NET_ADMIN): %w", mark, err)
	}
	return nil
}

// isSourceError reports whether a send may have failed because its source address is not, or no longer, ours or
// has no route. Without a source the system chooses a new one.
func isSourceError(err syscall.Errno) bool {
	switch err {
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV:
		return true
	}
	return false
}

// interfaceIndex finds the interface of a zone, which is a name or an index.
func interfaceIndex(zone string) (uint32, error) {
	if index, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(index), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("zone %q: %w", zone, err)
	}
	return uint32(ifi.Index), nil
}
