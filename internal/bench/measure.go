// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
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
	{"loaded round trip", loadedRoundTrips},
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

// idle measures what pairs cost that do nothing.
func idle(open func() (*pair, error), _ time.Duration) ([]figure, error) {
	const pairs = 10
	heap, memory, goroutines := heapAlloc(), resident(), runtime.NumGoroutine()
	var all []*pair
	for range pairs {
		p, err := open()
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	heap, memory, goroutines = heapAlloc()-heap, resident()-memory, runtime.NumGoroutine()-goroutines
	for _, p := range all {
		if err := p.close(); err != nil {
			return nil, err
		}
	}
	return []figure{
		{Name: "idle host with a peer, heap", Unit: "MB", Value: float64(heap) / (2 * pairs) / 1e6, Less: true},
		{Name: "idle host with a peer, resident", Unit: "MB", Value: float64(memory) / (2 * pairs) / 1e6, Less: true},
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
