// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
)

const (
	// datagramSize is the payload of the datagrams in bytes: QUIC's usual one.
	datagramSize = 1200
	// burst is how many datagrams may go out at once, as much as QUIC's pacers allow (RFC 9002, section 7.7): a sender
	// that the scheduler has kept waiting does not catch up, so that what is lost is the tunnel's doing.
	burst = 10
	// maxLost is the share of datagrams that may be lost.
	maxLost = 0.001
)

// datagrams tries higher and higher rates until datagrams are lost, or the sender, who may have to wait, gets no faster.
// The figure is the highest rate that was reached without loss. Each rate has three tries, of which one may fail: a busy
// machine now and then stops a process for longer than any buffer holds.
func datagrams(open func() (*pair, error), length time.Duration) ([]figure, error) {
	most := 0.0
	for rate := 5_000; rate <= 1_000_000; rate = rate * 4 / 3 {
		var good []float64
		for try := 0; try < 3 && len(good) < 2 && len(good)+1 >= try; try++ {
			r, err := paced(open, rate, length/4)
			if err != nil {
				return nil, err
			}
			if r.lost() <= maxLost {
				good = append(good, r.rate())
			}
		}
		if len(good) < 2 {
			break
		}
		reached := median(good)
		most = max(most, reached)
		if reached < float64(rate)/2 {
			break
		}
	}
	return []figure{{Name: "UDP without loss, 1,200 bytes", Unit: "1/s", Value: most}}, nil
}

// pacedRun is what became of datagrams that were sent at a rate.
type pacedRun struct {
	sent, received int
	took           time.Duration // to send them
}

func (r pacedRun) lost() float64 { return 1 - float64(r.received)/float64(r.sent) }
func (r pacedRun) rate() float64 { return float64(r.sent) / r.took.Seconds() }

// paced sends datagrams at a rate.
func paced(open func() (*pair, error), rate int, length time.Duration) (pacedRun, error) {
	p, err := open()
	if err != nil {
		return pacedRun{}, err
	}
	pc, err := p.listenPacket(53)
	if err != nil {
		return pacedRun{}, err
	}
	c, err := p.dial(context.Background(), "udp", net.JoinHostPort(serverAddr.String(), "53"))
	if err != nil {
		return pacedRun{}, err
	}
	if err := warmUp(c, pc); err != nil {
		return pacedRun{}, err
	}
	received := make(chan int, 1)
	go func() { // ends with the socket's deadline
		n, b := 0, make([]byte, 1<<16)
		for {
			size, _, err := pc.ReadFrom(b)
			if err != nil {
				received <- n
				return
			}
			if size == datagramSize {
				n++
			}
		}
	}()
	r, err := send(c, rate, length)
	if err != nil {
		return pacedRun{}, err
	}
	// All that is still under way comes within this time, or it is lost.
	if err := pc.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		return pacedRun{}, err
	}
	r.received = <-received
	return r, errors.Join(c.Close(), pc.Close(), p.close())
}

// warmUp returns when a datagram has come through: there is a session.
func warmUp(c net.Conn, pc net.PacketConn) error {
	b := make([]byte, 1)
	for range 50 {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if err := pc.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		if _, _, err := pc.ReadFrom(b); err == nil {
			return pc.SetReadDeadline(time.Time{})
		}
	}
	return errors.New("no datagram came through within 5 s")
}

// send keeps the rate as closely as it gets the processor, in bursts of at most burst; what it misses it does not catch
// up with.
func send(c net.Conn, rate int, length time.Duration) (pacedRun, error) {
	var r pacedRun
	b := make([]byte, datagramSize)
	interval := time.Second / time.Duration(rate)
	begin := time.Now()
	next := begin
	for {
		now := time.Now()
		if now.Sub(begin) >= length {
			break
		}
		if late := now.Sub(next); late < 0 {
			if late < -200*time.Microsecond {
				time.Sleep(-late)
			} else {
				runtime.Gosched()
			}
			continue
		} else if late > burst*interval {
			next = now.Add(-burst * interval)
		}
		if _, err := c.Write(b); err != nil {
			return r, fmt.Errorf("datagram %d: %w", r.sent, err)
		}
		r.sent++
		next = next.Add(interval)
	}
	r.took = time.Since(begin)
	return r, nil
}
