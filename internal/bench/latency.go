// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// latencies are the times of many round trips, sorted.
type latencies []time.Duration

// quantile returns the time that a share of the round trips stayed below, in microseconds.
func (l latencies) quantile(share float64) float64 {
	return float64(l[int(share*float64(len(l)-1))].Nanoseconds()) / 1e3
}

// echo is a connection on which each byte comes back.
type echo struct {
	conn   net.Conn
	listen net.Listener
}

func newEcho(p *pair) (*echo, error) {
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
	return &echo{c, l}, err
}

// measure sends one byte there and back, again and again.
func (e *echo) measure(length time.Duration) (latencies, error) {
	var times latencies
	b := make([]byte, 1)
	for end := time.Now().Add(length); time.Now().Before(end); {
		begin := time.Now()
		if _, err := e.conn.Write(b); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(e.conn, b); err != nil {
			return nil, err
		}
		times = append(times, time.Since(begin))
	}
	slices.Sort(times)
	return times, nil
}

func (e *echo) close() error { return errors.Join(e.conn.Close(), e.listen.Close()) }

// roundTrips measures one byte there and back on an idle tunnel.
func roundTrips(open func() (*pair, error), length time.Duration) ([]figure, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	e, err := newEcho(p)
	if err != nil {
		return nil, err
	}
	times, err := e.measure(length)
	if err := errors.Join(err, e.close(), p.close()); err != nil {
		return nil, err
	}
	return []figure{
		{Name: "round trip, p50", Unit: "us", Value: times.quantile(0.5), Less: true},
		{Name: "round trip, p99", Unit: "us", Value: times.quantile(0.99), Less: true},
	}, nil
}

// loadedRoundTrips measures the same beside a bulk stream to the same host, and what part of it is the stream's doing.
func loadedRoundTrips(open func() (*pair, error), length time.Duration) ([]figure, error) {
	p, err := open()
	if err != nil {
		return nil, err
	}
	e, err := newEcho(p)
	if err != nil {
		return nil, err
	}
	idle, err := e.measure(length / 2)
	if err != nil {
		return nil, err
	}
	var received atomic.Int64
	stop, err := transfer(p, 1, 0, &received)
	if err != nil {
		return nil, err
	}
	if _, err := e.measure(length / 4); err != nil { // past slow start
		return nil, err
	}
	loaded, err := e.measure(length)
	if err := errors.Join(err, stop(), e.close(), p.close()); err != nil {
		return nil, err
	}
	return []figure{
		{Name: "round trip beside a stream, p50", Unit: "us", Value: loaded.quantile(0.5), Less: true},
		{Name: "round trip beside a stream, p99", Unit: "us", Value: loaded.quantile(0.99), Less: true},
		{Name: "the same to that of an idle tunnel", Value: loaded.quantile(0.99) / idle.quantile(0.99), Less: true},
	}, nil
}
