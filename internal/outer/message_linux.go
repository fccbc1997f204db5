// SPDX-License-Identifier: MIT

package outer

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// receiveBufferSize holds the largest datagram and the largest run of datagrams that the kernel makes of several.
const receiveBufferSize = 1 << 16

// outgoing is the storage of a sendmsg call, made once and used again and again. Everything that it points to is on
// the heap, for it is the kernel that follows the pointers.
type outgoing struct {
	socket  *linuxSocket
	hdr     unix.Msghdr
	name    unix.RawSockaddrInet6 // or a RawSockaddrInet4 at its beginning
	iov     [maxSegments]unix.Iovec
	control [10]uint64 // aligned as control messages must be; IPV6_PKTINFO and UDP_SEGMENT need 64 bytes

	try   func(fd uintptr)      // sends without waiting
	wait  func(fd uintptr) bool // the same, false if there was no room
	errno syscall.Errno         // result of both
}

func newOutgoing(s *linuxSocket) *outgoing {
	m := &outgoing{socket: s}
	m.hdr.Name = (*byte)(unsafe.Pointer(&m.name))
	m.hdr.Iov = &m.iov[0]
	m.wait = func(fd uintptr) bool {
		for {
			m.errno = s.sendmsg(fd, &m.hdr, unix.MSG_DONTWAIT)
			if m.errno != unix.EINTR {
				return m.errno != unix.EAGAIN
			}
		}
	}
	m.try = func(fd uintptr) { m.wait(fd) }
	return m
}

// release gives m back to its pool, without the device's buffers.
func (m *outgoing) release() {
	clear(m.iov[:])
	m.socket.out.Put(m)
}

func (m *outgoing) setDestination(to netip.AddrPort, scope uint32) {
	if m.socket.ipv4 {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&m.name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
		putPort(&sa.Port, to.Port())
		m.hdr.Namelen = unix.SizeofSockaddrInet4
		return
	}
	m.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Scope_id: scope}
	putPort(&m.name.Port, to.Port())
	m.hdr.Namelen = unix.SizeofSockaddrInet6
}

// setRun points at the datagrams to send, and at the control messages for the source address and for more than one
// datagram. An invalid src leaves the choice to the system.
func (m *outgoing) setRun(run [][]byte, src netip.Addr) {
	for i, b := range run {
		m.iov[i].Base = unsafe.SliceData(b)
		m.iov[i].SetLen(len(b))
	}
	m.hdr.SetIovlen(len(run))

	control := unsafe.Slice((*byte)(unsafe.Pointer(&m.control)), unsafe.Sizeof(m.control))
	used := 0
	if src.IsValid() {
		used += putSource(control[used:], src, m.socket.ipv4)
	}
	if len(run) > 1 {
		var size [2]byte
		binary.NativeEndian.PutUint16(size[:], uint16(len(run[0])))
		used += putControl(control[used:], unix.SOL_UDP, unix.UDP_SEGMENT, size[:])
	}
	m.hdr.Control = nil
	if used > 0 {
		m.hdr.Control = &control[0]
	}
	m.hdr.SetControllen(used)
}

// incoming is the storage of recvmsg, and the datagrams that it brought and that are not handed out yet.
type incoming struct {
	hdr     unix.Msghdr
	name    unix.RawSockaddrInet6 // or a RawSockaddrInet4 at its beginning
	iov     unix.Iovec
	control [32]uint64 // room for what the user's Control hook may ask for as well
	buffer  [receiveBufferSize]byte

	try   func(fd uintptr)      // receives without waiting
	wait  func(fd uintptr) bool // the same, false if there was nothing
	n     int                   // result of both
	errno syscall.Errno         // result of both

	rest    []byte    // of buffer, to be handed out
	segment int       // size of all datagrams in rest but the last
	from    *endpoint // of rest
	lost    uint32    // as the kernel said last: it counts from the socket's beginning, and wraps
}

func newIncoming() *incoming {
	in := new(incoming)
	in.hdr.Name = (*byte)(unsafe.Pointer(&in.name))
	in.hdr.Iov = &in.iov
	in.hdr.SetIovlen(1)
	in.hdr.Control = (*byte)(unsafe.Pointer(&in.control))
	in.iov.Base = &in.buffer[0]
	in.iov.SetLen(len(in.buffer))
	in.wait = func(fd uintptr) bool {
		in.hdr.Namelen = unix.SizeofSockaddrInet6
		in.hdr.SetControllen(int(unsafe.Sizeof(in.control)))
		for {
			in.n, in.errno = recvmsg(fd, &in.hdr, unix.MSG_DONTWAIT)
			if in.errno != unix.EINTR {
				return in.errno != unix.EAGAIN
			}
		}
	}
	in.try = func(fd uintptr) { in.wait(fd) }
	return in
}

// parse makes ready to be handed out what the last call has received. A message whose control data was cut is
// dropped: how its bytes are to be cut cannot be known.
func (in *incoming) parse(cache *endpointCache) {
	if in.n == 0 || in.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return
	}
	control := unsafe.Slice((*byte)(unsafe.Pointer(&in.control)), int(in.hdr.Controllen))
	src, segment, lost := parseControl(control)
	if segment <= 0 {
		segment = in.n
	}
	if lost != 0 {
		in.lost = lost
	}
	key := endpointKey{src: src}
	switch in.name.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&in.name))
		key.dst = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), port(&sa.Port))
	case unix.AF_INET6:
		key.dst = netip.AddrPortFrom(netip.AddrFrom16(in.name.Addr).Unmap(), port(&in.name.Port))
		key.scope = in.name.Scope_id
	default:
		return
	}
	in.rest, in.segment, in.from = in.buffer[:in.n], segment, cache.get(key)
}

// handOut copies datagrams to the device's buffers and returns how many. One larger than its buffer is dropped.
func (in *incoming) handOut(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	n := 0
	for n < len(bufs) && len(in.rest) > 0 {
		size := min(in.segment, len(in.rest))
		if size <= len(bufs[n]) {
			sizes[n] = copy(bufs[n], in.rest[:size])
			eps[n] = in.from
			n++
		}
		in.rest = in.rest[size:]
	}
	return n
}

// parseControl finds our address that a message was sent to, not 4-in-6, the size of the datagrams that the kernel has
// joined, or 0, and how many messages it had lost before for want of room in the receive buffer.
func parseControl(control []byte) (src netip.Addr, segment int, lost uint32) {
	for len(control) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		control = rest
		switch {
		case hdr.Level == unix.SOL_UDP && hdr.Type == unix.UDP_GRO && len(data) >= 4:
			segment = int(int32(binary.NativeEndian.Uint32(data)))
		case hdr.Level == unix.SOL_SOCKET && hdr.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			lost = binary.NativeEndian.Uint32(data)
		case hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			src = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst
		case hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			src = netip.AddrFrom16([16]byte(data)).Unmap() // ipi6_addr
		}
	}
	return src, segment, lost
}

// putSource writes the control message that sets a source address and returns its length. It leaves the interface
// index 0: the routing table decides which way a datagram goes, as with the kernel's WireGuard; a pinned interface
// would override it, and outlive a change of routes.
func putSource(control []byte, src netip.Addr, ipv4 bool) int {
	if ipv4 {
		var info [unix.SizeofInet4Pktinfo]byte
		addr := src.As4()
		copy(info[4:], addr[:]) // ipi_spec_dst
		return putControl(control, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	}
	var info [unix.SizeofInet6Pktinfo]byte
	addr := src.As16()
	copy(info[:], addr[:]) // ipi6_addr, mapped for IPv4
	return putControl(control, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
}

// putControl writes a control message to the beginning of control and returns its length with padding.
func putControl(control []byte, level, kind int32, data []byte) int {
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(control)))
	hdr.Level, hdr.Type = level, kind
	hdr.SetLen(unix.CmsgLen(len(data)))
	copy(control[unix.CmsgLen(0):], data)
	return unix.CmsgSpace(len(data))
}

// putPort stores a port in a socket address, in network byte order.
func putPort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

func port(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

func sendmsg(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(m)), uintptr(flags))
	return errno
}

func recvmsg(fd uintptr, m *unix.Msghdr, flags int) (int, syscall.Errno) {
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(m)), uintptr(flags))
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
