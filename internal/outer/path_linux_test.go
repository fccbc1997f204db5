// SPDX-License-Identifier: MIT

package outer

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fault 47: the system knows that the path takes less than what is sent, and what it does take is told. Large sends of
// datagrams that fit are tried again at once.
func TestPathMTU(t *testing.T) {
	const fits = 1252
	message := func(size int) []byte {
		b := make([]byte, size)
		b[0] = dataMessage
		return b
	}
	for _, c := range []struct {
		name      string
		fragments bool // those sent alone are fragmented, else refused too
	}{{"fragments", true}, {"no fragments", false}} {
		t.Run(c.name, func(t *testing.T) {
			var told []int
			a, b := openSystem(t, Config{PathMTU: func(m []byte, size int) {
				if len(m) != 1452 {
					t.Errorf("told with a message of %d bytes", len(m))
				}
				told = append(told, size)
			}}), openSystem(t, Config{})
			pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
			sock := a.sock().socket.(*linuxSocket)
			if !sock.segment.Load() {
				t.Skip("this kernel has no UDP_SEGMENT")
			}
			segmented, asked := 0, 0
			sock.sendmsg = func(fd uintptr, m *unix.Msghdr, flags int) syscall.Errno {
				if isSegmented(m) {
					segmented++
				}
				if m.Iov.Len > fits && (!c.fragments || isSegmented(m)) {
					return unix.EMSGSIZE
				}
				return sendmsg(fd, m, flags)
			}
			sock.largest = func(to netip.AddrPort, _ uint32) int {
				if asked++; to != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.Port()) {
					t.Errorf("asked for the path to %s", to)
				}
				return fits
			}
			to := pa.endpoint(t, "127.0.0.1", b.Port())
			large := [][]byte{message(1452), message(1452), message(1452), message(60)}
			for range 2 {
				want := large
				if err := pa.bind.Send(large, to); c.fragments != (err == nil) || !c.fragments && !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("Send: %v", err)
				}
				if !c.fragments {
					want = large[3:] // what fits is sent
				}
				got, _ := pb.get(t, len(want))
				checkEqual(t, got, want)
			}
			if len(told) != 1 || told[0] != fits || asked != 1 || segmented != 1 {
				t.Errorf("told %v after asking %d times and %d large sends, want %d once", told, asked, segmented, fits)
			}
			small := [][]byte{message(fits), message(fits), message(fits)}
			if err := pa.bind.Send(small, to); err != nil {
				t.Error(err)
			}
			got, _ := pb.get(t, len(small))
			checkEqual(t, got, small)
			if segmented != 2 {
				t.Errorf("%d large sends, want another one for what fits", segmented)
			}
		})
	}
}

// What the system says of a path without limits is not believed to be the reason of a refusal.
func TestLargestDatagram(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		needLoopback(t, addr)
		if got := largestDatagram(netip.AddrPortFrom(netip.MustParseAddr(addr), 9), 0); got < 1<<14 {
			t.Errorf("the largest datagram to %s is %d", addr, got)
		}
	}
	var p path
	p.refuse(1452, 65507)
	if _, ok := p.news(); ok || p.segmentable(100) {
		t.Error("a path that is large enough and refuses all the same is taken to be known")
	}
	p.unsegmented.Store(time.Now().Add(-segmentationRetry - time.Second).UnixNano())
	if !p.segmentable(1452) {
		t.Error("the path is not tried again after ten minutes")
	}
}
