// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// A flow is a TCP connection that carries, each way, what chance makes of a seed. The client's header says of which, and
// how much; the server ends its own with how much it has seen. So both know each byte that has to come, whatever ends the
// connection.
const (
	flowMagic   = 0x776762_63686173
	headerSize  = 24
	trailerSize = 8
	// maxFlow is the most that a header may ask for, each way.
	maxFlow = 4 << 20
	// serverLimit is how long a server waits for its client.
	serverLimit = 30 * time.Second
)

func flowHeader(seed uint64, up, down int) []byte {
	b := binary.BigEndian.AppendUint64(nil, flowMagic)
	b = binary.BigEndian.AppendUint64(b, seed)
	b = binary.BigEndian.AppendUint32(b, uint32(up))
	return binary.BigEndian.AppendUint32(b, uint32(down))
}

// content is what a flow carries: way is 0 for what the client sends, and 1 for the server.
func content(seed uint64, way byte) io.Reader {
	key := [32]byte{31: way}
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// A verifier compares what is written to it with what should come.
type verifier struct {
	want io.Reader
	seen int
	buf  [16 << 10]byte
}

func (v *verifier) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		want := v.buf[:min(len(rest), len(v.buf))]
		if _, err := io.ReadFull(v.want, want); err != nil {
			return 0, err
		}
		if !bytes.Equal(rest[:len(want)], want) {
			return 0, fmt.Errorf("%w: TCP, among the %d bytes behind %d", errCorrupt, len(want), v.seen)
		}
		v.seen += len(want)
		rest = rest[len(want):]
	}
	return len(p), nil
}

// halfClose ends a connection's writing side.
func halfClose(c net.Conn) error { return c.(interface{ CloseWrite() error }).CloseWrite() }

// clientFlow is the client's end of a flow. It checks everything that it gets, and what the server has got.
func clientFlow(c *call, conn net.Conn, up, down int) error {
	r := c.world.run
	seed := c.rng.Uint64()
	sent := make(chan error, 1)
	go func() { // ends with the data, or when conn is closed
		_, err := conn.Write(flowHeader(seed, up, down))
		if err == nil {
			_, err = io.CopyN(conn, content(seed, 0), int64(up))
		}
		if err == nil {
			err = halfClose(conn)
		}
		sent <- err
	}()
	v := &verifier{want: content(seed, 1)}
	_, err := io.CopyN(v, conn, int64(down))
	r.verified.Add(uint64(v.seen))
	var trailer [trailerSize]byte
	if err == nil {
		_, err = io.ReadFull(conn, trailer[:])
	}
	if err == nil {
		if got := binary.BigEndian.Uint64(trailer[:]); got != uint64(up) {
			err = fmt.Errorf("%w: the server has seen %d bytes of %d", errCorrupt, got, up)
		}
	}
	if err == nil {
		if n, e := conn.Read(trailer[:]); n > 0 || !errors.Is(e, io.EOF) {
			err = fmt.Errorf("%w: %d bytes and %w behind the end", errCorrupt, n, e)
			if n == 0 {
				err = e
			}
		}
	}
	if err != nil {
		_ = conn.Close() // ends the writer
		<-sent
		return fmt.Errorf("after %d bytes of %d: %w", v.seen, down, err)
	}
	return <-sent
}

// serveFlow is the server's end of a flow. Its error is one that is wrong in any weather.
func serveFlow(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(serverLimit)); err != nil {
		return nil // it has ended
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(conn, header); err != nil {
		return nil // the client's matter
	}
	magic, seed := binary.BigEndian.Uint64(header), binary.BigEndian.Uint64(header[8:])
	up, down := binary.BigEndian.Uint32(header[16:]), binary.BigEndian.Uint32(header[20:])
	if magic != flowMagic || up > maxFlow || down > maxFlow {
		return fmt.Errorf("%w: TCP, a header of %x", errCorrupt, header)
	}
	sent := make(chan error, 1)
	go func() { // ends with the data, or when conn is closed
		_, err := io.CopyN(conn, content(seed, 1), int64(down))
		sent <- err
	}()
	v := &verifier{want: content(seed, 0)}
	_, err := io.Copy(v, conn)
	if err == nil && v.seen > int(up) {
		err = fmt.Errorf("%w: TCP, %d bytes of %d", errCorrupt, v.seen, up)
	}
	if err != nil {
		_ = conn.Close() // ends the writer
		<-sent
		if errors.Is(err, errCorrupt) {
			return err
		}
		return nil
	}
	if <-sent == nil {
		_, err = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(v.seen)))
	}
	if err == nil {
		_ = halfClose(conn) // the client misses the end otherwise
	}
	return nil
}

// A datagram of a flow has a magic number, a seed, and a number in its header, and then what chance makes of the two.
const (
	datagramMagic  = 0x63686173
	datagramHeader = 4 + 8 + 4
	// maxSeen bounds what a server remembers of its flows.
	maxSeen = 1000
)

func datagram(seed uint64, number uint32, size int) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, size), datagramMagic)
	b = binary.BigEndian.AppendUint64(b, seed)
	b = binary.BigEndian.AppendUint32(b, number)
	b = b[:max(size, datagramHeader)]
	io.ReadFull(content(seed, byte(number)), b[datagramHeader:]) // never fails
	return b
}

// checkDatagram says whether a datagram is one of ours, as it was sent.
func checkDatagram(b []byte) (seed uint64, number uint32, err error) {
	if len(b) < datagramHeader || binary.BigEndian.Uint32(b) != datagramMagic {
		return 0, 0, fmt.Errorf("%w: UDP, %d bytes that begin with %x", errCorrupt, len(b), b[:min(len(b), datagramHeader)])
	}
	seed, number = binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint32(b[12:])
	if !bytes.Equal(b, datagram(seed, number, len(b))) {
		return 0, 0, fmt.Errorf("%w: UDP, datagram %d of %d bytes", errCorrupt, number, len(b))
	}
	return seed, number, nil
}

// echo sends back what comes to the UDP server.
func (l *life) echo() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := l.packets.ReadFrom(buf)
		if err != nil {
			return
		}
		seed, number, err := checkDatagram(buf[:n])
		if err != nil {
			l.member.world.run.wrong("udp server", err)
			continue
		}
		l.mu.Lock()
		if l.seen == nil || len(l.seen) > maxSeen {
			l.seen = map[uint64]uint32{}
		}
		l.seen[seed] = number
		l.mu.Unlock()
		_, _ = l.packets.WriteTo(buf[:n], from) // the client misses it otherwise
	}
}

// lastSeen is the last datagram of a flow that came to the UDP server, as far as it remembers.
func (l *life) lastSeen(seed uint64) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[seed]
}

func udpFlow(c *call) error {
	from, to := c.ends(false)
	if from == nil || to == nil {
		return errSkipped
	}
	ctx := c.ctx
	conn, err := from.dial(ctx, "udp", c.address(from, to.member, port))
	if err != nil {
		return err
	}
	defer conn.Close()
	seed := c.rng.Uint64()
	seen := map[uint32]bool{}
	buf := make([]byte, 1<<16)
	// receive takes datagrams until one has come, or nothing comes any more.
	receive := func(number uint32, patience time.Duration) error {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		for !seen[number] {
			n, err := conn.Read(buf)
			if err != nil {
				return err
			}
			s, got, err := checkDatagram(buf[:n])
			if err == nil && s != seed {
				err = fmt.Errorf("%w: UDP, a datagram of another flow", errCorrupt)
			}
			if err == nil && seen[got] {
				err = fmt.Errorf("%w: UDP, datagram %d has come twice", errCorrupt, got)
			}
			if err != nil {
				return err
			}
			seen[got] = true
			c.world.run.verified.Add(uint64(2 * n))
		}
		return nil
	}
	// In a storm all are sent at once, in calm weather each when the one before has come. Even then one may get lost: with a
	// session that gives way to the next. So there is one more try.
	number := uint32(0)
	for range 1 + c.rng.IntN(16) {
		size := datagramHeader + c.rng.IntN(1300)
		if c.chance(0.1) {
			size = c.rng.IntN(8000) // in fragments
		}
		for try := 0; ; try++ {
			number++
			_, err := conn.Write(datagram(seed, number, size))
			if err == nil && c.strict {
				err = receive(number, 2*time.Second)
			}
			if err == nil {
				break
			}
			if !c.strict || try == 2 || !errors.Is(err, os.ErrDeadlineExceeded) {
				return c.tolerate(from, fmt.Errorf("datagram %d of %d bytes, of which the server has seen %d: %w",
					number, size, to.lastSeen(seed), err))
			}
			c.world.run.secondDatagrams.Add(1)
		}
	}
	if c.strict {
		return nil
	}
	for err == nil {
		number++
		err = receive(number, 100*time.Millisecond) // which never comes
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return c.tolerate(from, err)
}
