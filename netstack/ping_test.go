// SPDX-License-Identifier: MIT

package netstack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"example.com/wgnet/netstack"
)

func TestPing(t *testing.T) {
	a, b := newPair(t)
	loopbacks := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.9.9.9"), netip.IPv6Loopback(), netip.IPv4Unspecified()}
	for _, dst := range append(loopbacks, addrB4, addrB6, addrA4, addrA6, netip.AddrFrom16(addrB4.As16())) {
		t.Run(dst.String(), func(t *testing.T) {
			for _, size := range []int{0, 1, 56, 1372} {
				r, err := a.Ping(testContext(t), dst, 7, size)
				if err != nil || r.Size != size || r.TTL != 64 || r.RTT <= 0 {
					t.Errorf("%d bytes: %+v, %v", size, r, err)
				}
			}
		})
	}
	if n := a.Endpoints() + b.Endpoints(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

func TestPingErrors(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	ctx := testContext(t)
	tests := []struct {
		name string
		dst  netip.Addr
		size int
		want error
	}{
		{"too long", addrB4, 1420 - 28 + 1, syscall.EMSGSIZE},
		{"too long for IPv6", addrB6, 1420 - 48 + 1, syscall.EMSGSIZE},
		{"negative", addrB4, -1, nil},
		{"no address", netip.Addr{}, 8, nil},
	}
	for _, test := range tests {
		_, err := a.Ping(ctx, test.dst, 1, test.size)
		if e := (*net.OpError)(nil); !errors.As(err, &e) || e.Op != "ping" || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// fault 38: an answer is not missed by whoever is slow, and what is not the answer is ignored.
func TestPingIgnoresStrangers(t *testing.T) {
	for _, family := range []struct{ own, peer, stranger netip.Addr }{
		{addrA4, addrB4, netip.MustParseAddr("10.0.0.99")},
		{addrA6, addrB6, netip.MustParseAddr("fd00::99")},
	} {
		a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
		w := newWire(t, a)
		const seq = 300
		type result struct {
			netstack.EchoReply
			err error
		}
		got := make(chan result)
		go func() { // ended by the answer
			r, err := a.Ping(testContext(t), family.peer, seq, 32)
			got <- result{r, err}
		}()
		_, _, _, request := dissect(w.next())
		id := binary.BigEndian.Uint16(request[4:])
		reply, request4 := uint8(header.ICMPv4EchoReply), uint8(header.ICMPv4Echo)
		if family.own.Is6() {
			reply, request4 = uint8(header.ICMPv6EchoReply), uint8(header.ICMPv6EchoRequest)
		}
		if request[0] != request4 || binary.BigEndian.Uint16(request[6:]) != seq || len(request) != 40 {
			t.Fatalf("the request: %x", request)
		}
		answer := func(src netip.Addr, id, seq uint16, data []byte) []byte {
			var rest [4]byte
			binary.BigEndian.PutUint16(rest[:], id)
			binary.BigEndian.PutUint16(rest[2:], seq)
			return rawICMP(src, family.own, reply, 0, rest, data)
		}
		wrong := answer(family.peer, id, seq, bytes.Repeat([]byte{9}, 11))
		wrong[len(wrong)-1] ^= 1 // the checksum does not hold
		w.send(
			answer(family.stranger, id, seq, nil),
			answer(family.peer, id+1, seq, nil),
			answer(family.peer, id, seq+1, nil),
			answer(family.peer, id, seq-1, request[8:]),
			wrong,
			answer(family.peer, id, seq, request[8:]),
			answer(family.peer, id, seq, nil), // a second one is too late
		)
		if r := <-got; r.err != nil || r.Size != 32 || r.TTL != 64 {
			t.Errorf("ping: %+v, %v", r.EchoReply, r.err)
		}
	}
}

// fault 38: deadlines that have expired again and again.
func TestPingDeadlines(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24")})
	newWire(t, a) // swallows it all
	for range 5 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if _, err := a.Ping(ctx, addrB4, 1, 8); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := a.Ping(ctx, addrB4, 1, 8); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	if n := a.Endpoints(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}

// fault 38: pings that go on at once do not take one another's answers, also with one sequence number.
func TestConcurrentPings(t *testing.T) {
	a, _ := newPair(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			dst := []netip.Addr{addrB4, addrB6}[i%2]
			for range 10 {
				if r, err := a.Ping(testContext(t), dst, 5, i); err != nil || r.Size != i {
					t.Errorf("ping %d: %+v, %v", i, r, err)
				}
			}
		})
	}
	wg.Wait()
}

// Answers to echo requests of any size, as the other side's ping sends them.
func TestAnswersPings(t *testing.T) {
	a := newStack(t, netstack.Config{Addresses: prefixes("10.0.0.1/24", "fd00::1/64")})
	w := newWire(t, a)
	for _, family := range []struct {
		own, peer      netip.Addr
		request, reply uint8
	}{
		{addrA4, addrB4, uint8(header.ICMPv4Echo), uint8(header.ICMPv4EchoReply)},
		{addrA6, addrB6, uint8(header.ICMPv6EchoRequest), uint8(header.ICMPv6EchoReply)},
	} {
		for _, size := range []int{0, 56, 1200} {
			data := []byte(fmt.Sprintf("%0*d", size, 7))[:size]
			w.send(rawICMP(family.peer, family.own, family.request, 0, [4]byte{1, 2, 3, 4}, data))
			src, dst, _, msg := dissect(w.next())
			if src != family.own || dst != family.peer || msg[0] != family.reply || !bytes.Equal(msg[4:8], []byte{1, 2, 3, 4}) || !bytes.Equal(msg[8:], data) {
				t.Errorf("answer from %s to %s: %x", src, dst, msg[:8])
			}
		}
	}
}
