// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// figure is one number of one measurement.
type figure struct {
	Name  string
	Unit  string
	Value float64
	// Less says that less is better.
	Less bool
}

// measurement measures a fresh pair for about as long as it is told.
type measurement struct {
	name    string
	measure func(open func() (*pair, error), length time.Duration) ([]figure, error)
}

func (m measurement) matches(part string) bool { return strings.Contains(m.name, part) }

var measurements = []measurement{
	{"1 TCP stream", streams(1, 0)},
	{"8 TCP streams", streams(8, 0)},
	{"both ways", streams(1, 1)},
	{"round trip", roundTrips},
	{"dials", dials},
	{"UDP", datagrams},
	{"idle", idle},
	{"start", start},
}

// streams measures n streams from the client to the server, and back ones the other way, at the same time.
func streams(n, back int) func(func() (*pair, error), time.Duration) ([]figure, error) {
	name := fmt.Sprintf("%d TCP stream", n)
	switch {
	case back > 0:
		name = "both ways, sum"
	case n > 1:
		name += "s"
	}
	return func(open func() (*pair, error), length time.Duration) ([]figure, error) {
		p, err := open()
		if err != nil {
			return nil, err
		}
		var received atomic.Int64
		stop, err := transfer(p, n, back, &received)
		if err != nil {
			return nil, err
		}
		time.Sleep(length / 4) // past slow start
		before, bytes, begin := usage(), received.Load(), time.Now()
		time.Sleep(length)
		took, bytes := time.Since(begin), received.Load()-bytes
		used := usage().minus(before)
		if err := errors.Join(stop(), p.close()); err != nil {
			return nil, err
		}
		figures := []figure{{Name: name, Unit: "Gbit/s", Value: float64(bytes) * 8 / took.Seconds() / 1e9}}
		if n == 1 && back == 0 {
			figures = append(figures,
				figure{Name: "CPU per KiB, both ends", Unit: "ns", Value: float64(used.cpu.Nanoseconds()) / (float64(bytes) / 1024), Less: true},
				figure{Name: "allocations per MiB", Value: float64(used.allocs) / (float64(bytes) / (1 << 20)), Less: true})
		}
		return figures, nil
	}
}

// transfer starts the streams. The returned function ends them and waits.
func transfer(p *pair, n, back int, received *atomic.Int64) (stop func() error, err error) {
	l, err := p.listen(80)
	if err != nil {
		return nil, err
	}
	var conns []net.Conn
	var wg sync.WaitGroup // all end when their connections are closed
	for i := range n + back {
		c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "80"))
		if err != nil {
			return nil, err
		}
		s, err := l.Accept()
		if err != nil {
			return nil, err
		}
		conns = append(conns, c, s)
		from, to := c, s
		if i >= n {
			from, to = s, c
		}
		wg.Go(func() {
			block := make([]byte, 256<<10)
			for {
				if _, err := from.Write(block); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			block := make([]byte, 256<<10)
			for {
				k, err := to.Read(block)
				received.Add(int64(k))
				if err != nil {
					return
				}
			}
		})
	}
	return func() error {
		err := l.Close()
		for _, c := range conns {
			_ = c.Close() // the transfer is cut off on purpose
		}
		wg.Wait()
		return err
	}, nil
}

// roundTrips measures one byte there and back on an idle tunnel.
func roundTrips(open func() (*pair, error), length time.Duration) ([]figure, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	l, err := p.listen(7)
	if err != nil {
		return nil, err
	}
	go func() { // ends with its connection
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "7"))
	if err != nil {
		return nil, err
	}
	var times []time.Duration
	b := make([]byte, 1)
	for end := time.Now().Add(length); time.Now().Before(end); {
		begin := time.Now()
		if _, err := c.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	at := func(q float64) float64 {
		return float64(times[int(q*float64(len(times)-1))].Nanoseconds()) / 1e3
	}
	return []figure{
		{Name: "round trip, p50", Unit: "us", Value: at(0.5), Less: true},
		{Name: "round trip, p99", Unit: "us", Value: at(0.99), Less: true},
	}, errors.Join(c.Close(), l.Close(), p.close())
}

// dials measures connections made and closed one after the other.
func dials(open func() (*pair, error), length time.Duration) ([]figure, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	l, err := p.listen(80)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	n := 0
	begin := time.Now()
	for time.Since(begin) < length {
		c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "80"))
		if err != nil {
			return nil, fmt.Errorf("dial %d: %w", n, err)
		}
		if err := c.Close(); err != nil {
			return nil, err
		}
		n++
	}
	took := time.Since(begin)
	return []figure{{Name: "dials", Unit: "1/s", Value: float64(n) / took.Seconds()}}, errors.Join(l.Close(), p.close())
}

// datagramSize is the payload of the datagrams in bytes: QUIC's usual one.
const datagramSize = 1200

// datagrams finds the highest of some rates of datagrams at which less than 1 in 1,000 is lost.
func datagrams(open func() (*pair, error), length time.Duration) ([]figure, error) {
	most := 0.0
	for rate := 20_000; rate <= 640_000; rate = rate * 5 / 4 {
		sent, got, err := paced(open, rate, length/4)
		if err != nil {
			return nil, err
		}
		reached := float64(sent) / (length / 4).Seconds()
		if float64(sent-got) > float64(sent)/1000 || reached < 0.9*float64(rate) {
			break
		}
		most = reached
	}
	return []figure{{Name: "UDP without loss, 1,200 bytes", Unit: "1/s", Value: most}}, nil
}

// paced sends datagrams at a rate and says how many were sent and how many came.
func paced(open func() (*pair, error), rate int, length time.Duration) (sent, got int64, err error) {
	p, err := open()
	if err != nil {
		return 0, 0, err
	}
	pc, err := p.listenPacket(53)
	if err != nil {
		return 0, 0, err
	}
	c, err := p.dial(context.Background(), "udp", net.JoinHostPort(serverAddr.String(), "53"))
	if err != nil {
		return 0, 0, err
	}
	var count atomic.Int64
	done := make(chan struct{})
	go func() { // ends with its socket, or with the last datagram
		defer close(done)
		b := make([]byte, 1<<16)
		for {
			n, _, err := pc.ReadFrom(b)
			if err != nil || n == 1 {
				return
			}
			if n == datagramSize {
				count.Add(1)
			}
		}
	}()
	b := make([]byte, datagramSize)
	begin := time.Now()
	for time.Since(begin) < length {
		// As many as are due by now, in bursts of a tenth of a millisecond or what the scheduler makes of it.
		for due := int64(time.Since(begin).Seconds() * float64(rate)); sent < due; sent++ {
			binary.BigEndian.PutUint64(b, uint64(sent))
			if _, err := c.Write(b); err != nil {
				return 0, 0, err
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	end := time.NewTimer(5 * time.Second)
	defer end.Stop()
	for waiting := true; waiting; {
		if _, err := c.Write(b[:1]); err != nil { // says that this was all, until one gets through
			return 0, 0, err
		}
		select {
		case <-done:
			waiting = false
		case <-end.C:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	err = errors.Join(c.Close(), pc.Close())
	<-done
	return sent, count.Load(), errors.Join(err, p.close())
}

// idle measures what pairs cost that do nothing.
func idle(open func() (*pair, error), _ time.Duration) ([]figure, error) {
	const pairs = 10
	heap, goroutines := heapAlloc(), runtime.NumGoroutine()
	var all []*pair
	for range pairs {
		p, err := open()
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	heap, goroutines = heapAlloc()-heap, runtime.NumGoroutine()-goroutines
	for _, p := range all {
		if err := p.close(); err != nil {
			return nil, err
		}
	}
	return []figure{
		{Name: "idle host with a peer, heap", Unit: "MB", Value: float64(heap) / (2 * pairs) / 1e6, Less: true},
		{Name: "idle host with a peer, goroutines", Value: float64(goroutines) / (2 * pairs), Less: true},
	}, nil
}

// start measures the time from nothing to the first byte of an HTTP answer.
func start(open func() (*pair, error), _ time.Duration) ([]figure, error) {
	begin := time.Now()
	p, err := open()
	if err != nil {
		return nil, err
	}
	l, err := p.listen(80)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }() // ends with srv.Close
	transport := &http.Transport{DialContext: p.dial}
	resp, err := (&http.Client{Transport: transport}).Get("http://" + net.JoinHostPort(serverAddr.String(), strconv.Itoa(80)))
	if err != nil {
		return nil, err
	}
	_, err = resp.Body.Read(make([]byte, 1))
	took := time.Since(begin)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	err = resp.Body.Close()
	transport.CloseIdleConnections()
	err = errors.Join(err, srv.Close())
	<-done
	return []figure{{Name: "start to first HTTP byte", Unit: "ms", Value: took.Seconds() * 1e3, Less: true}}, errors.Join(err, p.close())
}
