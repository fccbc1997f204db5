// SPDX-License-Identifier: MIT

package outer

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// scriptedPacketConn has received what it was given, and then nothing more.
type scriptedPacketConn struct {
	datagrams [][]byte
	from      netip.AddrPort
	sent      int
}

func (c *scriptedPacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(c.datagrams) == 0 {
		return 0, nil, net.ErrClosed
	}
	n := copy(b, c.datagrams[0])
	c.datagrams = c.datagrams[1:]
	return n, net.UDPAddrFromAddrPort(c.from), nil
}

func (c *scriptedPacketConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.sent++
	return len(b), nil
}

func (c *scriptedPacketConn) LocalAddr() net.Addr              { return &net.UDPAddr{IP: net.IPv6loopback, Port: 1} }
func (c *scriptedPacketConn) Close() error                     { return nil }
func (c *scriptedPacketConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptedPacketConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptedPacketConn) SetWriteDeadline(time.Time) error { return nil }

// scriptedBatchConn gives them several at a time.
type scriptedBatchConn struct{ *scriptedPacketConn }

func (c scriptedBatchConn) ReadBatch(bufs [][]byte, sizes []int, from []netip.AddrPort) (n int, err error) {
	for n < len(bufs) && (len(c.datagrams) > 0 || n == 0) {
		if sizes[n], _, err = c.ReadFrom(bufs[n]); err != nil {
			return n, err
		}
		from[n] = c.from
		n++
	}
	return n, nil
}

func (c scriptedBatchConn) WriteBatch(bufs [][]byte, _ netip.AddrPort) (int, error) {
	c.sent += len(bufs)
	return len(bufs), nil
}

// cut takes datagrams from a text of two bytes of length each and as many bytes as there are.
func cut(text []byte) (list [][]byte) {
	for len(text) >= 2 && len(list) < 100 {
		n := min(int(text[0])<<8|int(text[1]), len(text)-2)
		list = append(list, text[2:2+n])
		text = text[2+n:]
	}
	return list
}

// message is a datagram of a type and a length, as cut reads it.
func message(kind byte, length int) []byte {
	return append([]byte{byte(length >> 8), byte(length), kind}, make([]byte, length-1)...)
}

// FuzzReceive: whatever comes, one by one or several at a time, gets to the device as it came and from where it did, is
// counted, and can be answered.
func FuzzReceive(f *testing.F) {
	seeds := [][]byte{
		message(1, device.MessageInitiationSize),                                       // a handshake begins
		message(responseMessage, responseLen),                                          // an answer to it
		append(message(3, 64), message(dataMessage, keepaliveLen)...),                  // a cookie and a keepalive
		append(message(dataMessage, 1452), message(dataMessage, 31)...),                // data, and what is too short for it
		{0, 0, 0, 0, 0, 1, 4, 0xff, 0xff, 4, 0, 0, 0},                                  // empty ones, one byte, a length that lies
		bytes.Repeat(message(dataMessage, keepaliveLen+1), 3*receiveBatch),             // more than a batch
		append(message(0, 1), append(message(255, 3), message(dataMessage, 64)...)...), // types that there are not
	}
	for i, seed := range seeds {
		f.Add(seed, i%2 == 0, []byte{192, 0, 2, byte(i)}, uint16(i))
	}
	f.Add(seeds[3], true, append(make([]byte, 10), 0xff, 0xff, 192, 0, 2, 1), uint16(51820)) // from an IPv4 address in IPv6 clothes
	f.Fuzz(func(t *testing.T, text []byte, batch bool, from []byte, port uint16) {
		addr, ok := netip.AddrFromSlice(from)
		if !ok {
			return
		}
		datagrams := cut(text)
		script := &scriptedPacketConn{datagrams: datagrams, from: netip.AddrPortFrom(addr, port)}
		var pc net.PacketConn = script
		if batch {
			pc = scriptedBatchConn{script}
		}
		keepalives := 0
		s := newSockets(newPacketSocket(pc), Config{
			MaxBacklog: 1 << 20,
			Keepalive:  func([]byte) { keepalives++ },
		})
		defer s.Close()
		var want [][]byte
		data, wantKeepalives := 0, 0
		for _, b := range datagrams {
			if len(b) > 0 || batch {
				want = append(want, b) // packetSocket passes over an empty one, the device does the same
			}
			if len(b) >= keepaliveLen && b[0] == dataMessage {
				data++
				if len(b) == keepaliveLen {
					wantKeepalives++
				}
			}
		}
		p := openBind(t, s.Bind())
		if len(want) > 0 {
			got, e := p.get(t, len(want))
			for i, b := range got {
				if !bytes.Equal(b, want[i]) {
					t.Fatalf("datagram %d is %x, want %x", i, b, want[i])
				}
			}
			if e.DstToString() != netip.AddrPortFrom(addr.Unmap(), port).String() {
				t.Errorf("from %s, want %v", e.DstToString(), script.from)
			}
			if again, err := p.bind.ParseEndpoint(e.DstToString()); err != nil || again.DstToString() != e.DstToString() {
				t.Errorf("endpoint %s is read back as %v, %v", e.DstToString(), again, err)
			}
			if err := p.bind.Send(want, e); err != nil || script.sent != len(want) {
				t.Errorf("%d of %d are sent back: %v", script.sent, len(want), err)
			}
		}
		if s.received.total != uint64(data) || keepalives != wantKeepalives {
			t.Errorf("%d data messages and %d keepalives, want %d and %d", s.received.total, keepalives, data, wantKeepalives)
		}
	})
}
