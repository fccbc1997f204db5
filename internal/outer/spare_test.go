// SPDX-License-Identifier: MIT

package outer

import (
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// fault 22: a port that is taken is an error, and the old socket still works.
func TestPrepareTakenPort(t *testing.T) {
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		a, b, other := open(t, Config{}), open(t, Config{}), open(t, Config{})
		pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
		before := a.Port()
		if _, err := a.Prepare(other.Port()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Prepare of a taken port: %v", err)
		}
		if a.Port() != before {
			t.Errorf("port %d, want %d", a.Port(), before)
		}
		want := datagrams(100)
		if err := pb.bind.Send(want, pb.endpoint(t, loopback, before)); err != nil {
			t.Fatal(err)
		}
		got, from := pa.get(t, 1)
		checkEqual(t, got, want)
		if err := pa.bind.Send(want, from); err != nil {
			t.Fatal(err)
		}
		got, _ = pb.get(t, 1)
		checkEqual(t, got, want)
	})
}

// A receive that waits goes on in the new socket, and the facade sends from it.
func TestSpareTakesOver(t *testing.T) {
	eachKind(t, func(t *testing.T, open func(testing.TB, Config) *Sockets, loopback string) {
		var log lockedBuffer
		a, b := open(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}), open(t, Config{})
		pa, pb := openBind(t, a.Bind()), openBind(t, b.Bind())
		before := a.Port()
		received := make(chan error, 1)
		go func() { // ends with the datagram below
			n, err := pa.receive(pa.bufs, pa.sizes, pa.eps)
			if err == nil && (n != 1 || pa.sizes[0] != 100) {
				err = errors.New("not the datagram that was sent")
			}
			received <- err
		}()
		spare, err := a.Prepare(0)
		if err != nil {
			t.Fatal(err)
		}
		if err := spare.Use(); err != nil {
			t.Fatal(err)
		}
		if err := spare.Close(); err != nil { // does nothing
			t.Fatal(err)
		}
		if a.Port() == before || a.Port() == 0 {
			t.Errorf("port %d, had %d", a.Port(), before)
		}
		want := datagrams(100)
		if err := pb.bind.Send(want, pb.endpoint(t, loopback, a.Port())); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "receive", received); err != nil {
			t.Fatal(err)
		}
		if err := pa.bind.Send(want, pa.endpoint(t, loopback, b.Port())); err != nil {
			t.Fatal(err)
		}
		_, from := pb.get(t, 1)
		if got := from.(*endpoint).dst.Port(); got != a.Port() {
			t.Errorf("sent from port %d, want %d", got, a.Port())
		}
		if free, err := net.ListenPacket("udp", net.JoinHostPort(loopback, strconv.Itoa(int(before)))); err != nil {
			t.Errorf("the old port is not free: %v", err)
		} else {
			free.Close()
		}
		if lines := log.String(); lines != "" {
			t.Errorf("logged: %s", lines)
		}
	})
}

// fault 19: Close at any moment of a change of ports.
func TestSpareAndClose(t *testing.T) {
	for range 50 {
		s := openSystem(t, Config{})
		p := openBind(t, s.Bind())
		received := make(chan error, 1)
		go func() { // Close ends it
			_, err := p.receive(p.bufs, p.sizes, p.eps)
			received <- err
		}()
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				spare, err := s.Prepare(0)
				if err == nil {
					err = spare.Use()
					if closeErr := spare.Close(); closeErr != nil {
						t.Error(closeErr)
					}
				}
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if err := await(t, "receive", received); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}
