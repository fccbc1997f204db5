// SPDX-License-Identifier: MIT

package outer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// open4 opens the IPv4-only kind of the system's sockets.
func open4(tb testing.TB) *Sockets {
	return openSystem(tb, Config{Control: func(network, _ string, _ syscall.RawConn) error {
		if network == "udp6" {
			return unix.EAFNOSUPPORT
		}
		return nil
	}})
}

// An answer leaves from the address that the question was sent to.
func TestStickySource(t *testing.T) {
	for _, c := range []struct {
		name string
		open func(testing.TB) *Sockets
	}{
		{"dual stack", func(tb testing.TB) *Sockets { return openSystem(tb, Config{}) }},
		{"IPv4 only", open4},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server := c.open(t), c.open(t)
			pc, ps := openBind(t, client.Bind()), openBind(t, server.Bind())
			question := datagrams(100)
			answer := datagrams(1424, 1424, 1424, 7)
			for _, ip := range []string{"127.0.0.2", "127.0.0.1", "127.0.0.3"} {
				if err := pc.bind.Send(question, pc.endpoint(t, ip, server.Port())); err != nil {
					t.Fatal(err)
				}
				_, from := ps.get(t, 1)
				if from.SrcToString() != ip || from.SrcIP() != netip.MustParseAddr(ip) {
					t.Errorf("received at %s, want %s", from.SrcToString(), ip)
				}
				if err := ps.bind.Send(answer, from); err != nil {
					t.Fatal(err)
				}
				got, from2 := pc.get(t, len(answer))
				checkEqual(t, got, answer)
				if want := netip.MustParseAddr(ip); from2.DstIP() != want {
					t.Errorf("the answer comes from %s, want %s", from2.DstIP(), want)
				}
				// The device clears the source: the system chooses its own.
				from.ClearSrc()
				if err := ps.bind.Send(answer, from); err != nil {
					t.Fatal(err)
				}
				if _, from2 = pc.get(t, len(answer)); from2.DstToString() != net.JoinHostPort("127.0.0.1", strconv.Itoa(int(server.Port()))) {
					t.Errorf("after ClearSrc the answer comes from %s", from2.DstToString())
				}
			}
		})
	}
}

// Our address goes away: the send is repeated from another one.
func TestSourceThatIsNotOurs(t *testing.T) {
	for _, ip := range []struct{ loopback, gone string }{{"127.0.0.1", "198.51.100.77"}, {"::1", "2001:db8::1"}} {
		needLoopback(t, ip.loopback)
		a, b := openSystem(t, Config{}), openSystem(t, Config{})
		pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
		to := newEndpoint(endpointKey{
			dst: netip.AddrPortFrom(netip.MustParseAddr(ip.loopback), b.Port()),
			src: netip.MustParseAddr(ip.gone),
		})
		want := datagrams(1424, 1424, 10)
		if err := pa.bind.Send(want, to); err != nil {
			t.Fatal(err)
		}
		got, _ := pb.get(t, len(want))
		checkEqual(t, got, want)
		if to.SrcIP().IsValid() || !to.path.segmentable(1424) || !a.sock().socket.(*linuxSocket).segment.Load() {
			t.Errorf("%s: source %v, segmentation is given up", ip.loopback, to.SrcIP())
		}
	}
}

// isSegmented reports whether a message is to be cut into several datagrams.
func isSegmented(m *unix.Msghdr) bool {
	control := unsafe.Slice(m.Control, int(m.Controllen))
	for len(control) > 0 {
		hdr, _, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return false
		}
		if hdr.Level == unix.SOL_UDP && hdr.Type == unix.UDP_SEGMENT {
			return true
		}
		control = rest
	}
	return false
}

// A network card or a path refuses large sends: the datagrams still arrive, and the refusal is remembered.
func TestSegmentationRefused(t *testing.T) {
	for _, c := range []struct {
		name   string // fault 47 is EMSGSIZE
		errno  syscall.Errno
		socket bool // for all endpoints
	}{
		{"EIO", unix.EIO, true},
		{"EMSGSIZE, fault 47", unix.EMSGSIZE, false},
		{"EINVAL", unix.EINVAL, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := openSystem(t, Config{}), openSystem(t, Config{})
			pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
			sock := a.sock().socket.(*linuxSocket)
			if !sock.segment.Load() {
				t.Skip("this kernel has no UDP_SEGMENT")
			}
			refused := 0
			sock.sendmsg = func(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno {
				if isSegmented(m) {
					refused++
					return c.errno
				}
				return sendmsg(fd, m, flags)
			}
			want := datagrams(append(repeat(20, 1424), 60, 60, 10)...)
			send := func(to conn.Endpoint) {
				t.Helper()
				if err := pa.bind.Send(want, to); err != nil {
					t.Fatal(err)
				}
				got, _ := pb.get(t, len(want))
				checkEqual(t, got, want)
			}
			first := pa.endpoint(t, "127.0.0.1", b.Port())
			send(first)
			send(first)
			if refused != 1 {
				t.Errorf("%d large sends tried after the refusal, want none", refused-1)
			}
			send(pa.endpoint(t, "127.0.0.2", b.Port()))
			if another := refused == 2; another == c.socket {
				t.Errorf("another endpoint tries a large send: %v, want %v", another, !c.socket)
			}
		})
	}
}

func TestPendingErrorIsNotTheNextSends(t *testing.T) {
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
	calls := 0
	a.sock().socket.(*linuxSocket).sendmsg = func(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno {
		if calls++; calls == 1 {
			return unix.ECONNREFUSED
		}
		return sendmsg(fd, m, flags)
	}
	want := datagrams(100)
	if err := pa.bind.Send(want, pa.endpoint(t, "127.0.0.1", b.Port())); err != nil {
		t.Fatal(err)
	}
	got, _ := pb.get(t, 1)
	checkEqual(t, got, want)
}

// fullSocket answers EAGAIN to every send and tells so.
func fullSocket(s *Sockets) (sending chan struct{}) {
	sending = make(chan struct{}, 1000)
	s.sock().socket.(*linuxSocket).sendmsg = func(uintptr, *unix.Msghdr, int) syscall.Errno {
		select {
		case sending <- struct{}{}:
		default:
		}
		return unix.EAGAIN
	}
	return sending
}

func TestCloseEndsBlockedSend(t *testing.T) {
	for _, c := range []struct {
		name  string
		whole bool
	}{{"facade, fault 20", false}, {"Sockets, fault 19", true}} {
		t.Run(c.name, func(t *testing.T) {
			s := openSystem(t, Config{})
			checkBlockedSend(t, s, fullSocket(s), c.whole)
		})
	}
}

// A send buffer that stays full costs the datagrams, not the sender; when it has room again sending goes on.
func TestFullSendBuffer(t *testing.T) {
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
	to := pa.endpoint(t, "127.0.0.1", b.Port())
	want := datagrams(1424, 1424)
	sock := a.sock().socket.(*linuxSocket)
	fullSocket(a)
	const senders = 3
	ended := make(chan error, senders)
	for range senders {
		// Ends after sendTimeout.
		go func() { ended <- pa.bind.Send(want, to) }()
	}
	for range senders {
		if err := await(t, "Send", ended); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Send: %v, want os.ErrDeadlineExceeded", err)
		}
	}
	var calls atomic.Int32
	sock.sendmsg = func(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno {
		if calls.Add(1) == 1 {
			return unix.EAGAIN
		}
		return sendmsg(fd, m, flags)
	}
	if err := pa.bind.Send(want, to); err != nil {
		t.Fatal(err)
	}
	got, _ := pb.get(t, len(want))
	checkEqual(t, got, want)
}

// The kernel's own GRO is of use on one's own loopback, too: this is the fast path that the rest falls back from.
func TestOffloadIsUsed(t *testing.T) {
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	if !a.sock().socket.(*linuxSocket).segment.Load() {
		t.Skip("this kernel has no UDP_SEGMENT")
	}
	pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
	if err := pa.bind.Send(datagrams(repeat(20, 1424)...), pa.endpoint(t, "127.0.0.1", b.Port())); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{receiveBatch, 20 - receiveBatch} {
		n, err := pb.receive(pb.bufs, pb.sizes, pb.eps)
		if err != nil || n != want {
			t.Fatalf("received %d datagrams, %v; want %d", n, err, want)
		}
	}
}

func TestReceiveFillsItsBatch(t *testing.T) {
	s := openSystem(t, Config{})
	p := openBind(t, s.Bind())
	var want [][]byte
	for i := range 5 {
		other := openBind(t, openSystem(t, Config{}).Bind())
		b := datagrams(100 + i)
		if err := other.bind.Send(b, other.endpoint(t, "127.0.0.1", s.Port())); err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	n, err := p.receive(p.bufs, p.sizes, p.eps)
	if err != nil || n != len(want) {
		t.Fatalf("%d datagrams, %v; want %d", n, err, len(want))
	}
	seen := make(map[conn.Endpoint]bool)
	for i, b := range want {
		if !bytes.Equal(p.bufs[i][:p.sizes[i]], b) || seen[p.eps[i]] {
			t.Errorf("datagram %d: %d bytes from %s", i, p.sizes[i], p.eps[i].DstToString())
		}
		seen[p.eps[i]] = true
	}
}

func TestMark(t *testing.T) {
	s := openSystem(t, Config{})
	sock := s.sock().socket.(*linuxSocket)
	b := s.Bind()
	openBind(t, b)
	if err := b.SetMark(7); err != nil {
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("SetMark: %v", err)
		}
		t.Skip("it takes CAP_NET_ADMIN to set a mark")
	}
	mark := func() (v int) {
		err := sock.raw.Control(func(fd uintptr) { v, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) })
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if mark() != 7 {
		t.Errorf("mark %d, want 7", mark())
	}
	b.Close()
	openBind(t, s.Bind()) // of a device without a mark
	if mark() != 0 {
		t.Errorf("mark %d after the next device's Open, want 0", mark())
	}
}

// Link-local addresses carry their interface both ways.
func TestZone(t *testing.T) {
	ip, zone := linkLocal()
	if zone == "" {
		t.Skip("no interface with a link-local address is up")
	}
	a, b := openSystem(t, Config{}), openSystem(t, Config{})
	pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
	want := datagrams(1200, 1200, 3)
	if err := pa.bind.Send(want, pa.endpoint(t, ip+"%"+zone, b.Port())); err != nil {
		t.Fatal(err)
	}
	got, from := pb.get(t, len(want))
	checkEqual(t, got, want)
	if from.DstIP().Zone() != zone {
		t.Errorf("from %s, want zone %s", from.DstToString(), zone)
	}
	again, err := pb.bind.ParseEndpoint(from.DstToString())
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []conn.Endpoint{from, again} {
		if err := pb.bind.Send(want, to); err != nil {
			t.Fatal(err)
		}
		got, _ = pa.get(t, len(want))
		checkEqual(t, got, want)
	}
}

func linkLocal() (ip, zone string) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", ""
	}
	for _, ifi := range interfaces {
		addrs, err := ifi.Addrs()
		if err != nil || ifi.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
				return n.IP.String(), ifi.Name
			}
		}
	}
	return "", ""
}

func FuzzRunLength(f *testing.F) {
	f.Add([]byte{1, 1, 1, 1})                       // one run
	f.Add([]byte{5, 5, 3, 5, 5})                    // a smaller one ends a run
	f.Add([]byte{1, 2, 3})                          // growing sizes are runs of one
	f.Add([]byte{9, 0, 9})                          // an empty datagram would be lost in a run
	f.Add(bytes.Repeat([]byte{1}, 130))             // more than 64 segments
	f.Add(bytes.Repeat([]byte{255}, 20))            // more bytes than one send takes
	f.Add([]byte{0})                                // an empty datagram
	f.Add(append([]byte{0, 0}, make([]byte, 9)...)) // empty ones only
	f.Fuzz(func(t *testing.T, sizes []byte) {
		var bufs [][]byte
		for _, size := range sizes {
			bufs = append(bufs, make([]byte, int(size)*40))
		}
		for len(bufs) > 0 {
			n := runLength(bufs)
			if n < 1 || n > min(len(bufs), maxSegments) {
				t.Fatalf("a run of %d", n)
			}
			total := 0
			for i, b := range bufs[:n] {
				total += len(b)
				if last := i == n-1; len(b) > len(bufs[0]) || !last && len(b) != len(bufs[0]) || n > 1 && len(b) == 0 {
					t.Fatalf("datagram %d of %d has %d bytes, the first %d", i, n, len(b), len(bufs[0]))
				}
			}
			if n > 1 && total > maxRunBytes {
				t.Fatalf("a run of %d bytes", total)
			}
			bufs = bufs[n:]
		}
	})
}

func FuzzParseControl(f *testing.F) {
	message := func(level, kind int32, data []byte) []byte {
		b := make([]byte, unix.CmsgSpace(len(data)))
		putControl(b, level, kind, data)
		return b
	}
	source := func(ip string, ipv4 bool) []byte {
		b := make([]byte, 64)
		return b[:putSource(b, netip.MustParseAddr(ip), ipv4)]
	}
	segment := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	f.Add([]byte{})                                                                                    // no control messages
	f.Add(source("10.0.0.1", true))                                                                    // IP_PKTINFO
	f.Add(source("10.0.0.1", false))                                                                   // IPV6_PKTINFO, mapped
	f.Add(append(source("2001:db8::1", false), message(unix.SOL_UDP, unix.UDP_GRO, segment(1424))...)) // both
	f.Add(message(unix.SOL_UDP, unix.UDP_GRO, segment(-1)))                                            // a size that cannot be
	f.Add(message(unix.SOL_UDP, unix.UDP_GRO, []byte{1}))                                              // too short
	f.Add(message(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, []byte{1}))                                    // too short
	f.Add(message(unix.IPPROTO_IP, unix.IP_PKTINFO, make([]byte, 7)))                                  // too short
	f.Add(source("10.0.0.1", true)[:unix.SizeofCmsghdr+2])                                             // cut in the middle
	f.Add(message(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, segment(7)))                                      // what was lost
	f.Add(make([]byte, unix.SizeofCmsghdr))                                                            // a length of 0
	f.Fuzz(func(t *testing.T, control []byte) {
		src, _, _ := parseControl(control)
		if src.Is4In6() {
			t.Errorf("source %v is 4-in-6", src)
		}
	})
}

func TestControlRoundTrip(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "10.200.0.255", "::1", "2001:db8::1"} {
		src := netip.MustParseAddr(ip)
		for _, ipv4 := range []bool{true, false} {
			if ipv4 && src.Is6() {
				continue
			}
			var aligned [10]uint64
			b := unsafe.Slice((*byte)(unsafe.Pointer(&aligned)), 80)
			n := putSource(b, src, ipv4)
			n += putControl(b[n:], unix.SOL_UDP, unix.UDP_GRO, []byte{0, 0, 0, 0})
			if got, segment, _ := parseControl(b[:n]); got != src || segment != 0 {
				t.Errorf("%s: %v, %d", ip, got, segment)
			}
		}
	}
}
