// SPDX-License-Identifier: MIT

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
)

var testSides = []side{{"upstream", newUpstream}, {"wgnet", newWgnet}}

// What is measured is right in the first place: both sides carry the same bytes.
func TestVerify(t *testing.T) {
	for _, s := range testSides {
		t.Run(s.name, func(t *testing.T) {
			if err := s.verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSummarize(t *testing.T) {
	var results []result
	for round, v := range []float64{1, 10, 2} {
		results = append(results,
			result{round, "upstream", []figure{{Name: "x", Unit: "s", Value: v}}},
			result{round, "wgnet", []figure{{Name: "x", Unit: "s", Value: 4}}})
	}
	rows := summarize(results)
	if len(rows) != 1 || rows[0] != (row{"x", "s", 2, 4, 2, 0.4, 4}) {
		t.Errorf("rows %+v", rows)
	}
	var b bytes.Buffer
	if err := printTable(&b, rows); err != nil {
		t.Fatal(err)
	}
	if want := "| x, s | 2.00 "; !strings.Contains(strings.Join(strings.Fields(b.String()), " "), strings.TrimSpace(want)) {
		t.Errorf("the table has no %q:\n%s", want, b.String())
	}
}

// benchmark runs f for both sides, on a pair with one connection to an echo or to a sink.
func benchmark(b *testing.B, serve func(net.Conn), f func(b *testing.B, p *pair, c net.Conn)) {
	for _, s := range testSides {
		b.Run(s.name, func(b *testing.B) {
			p, err := s.open()
			if err != nil {
				b.Fatal(err)
			}
			l, err := p.listen(7)
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() { // ends with the listener
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					serve(c)
				}
			}()
			c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "7"))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			f(b, p, c)
			b.StopTimer()
			if err := c.Close(); err != nil {
				b.Error(err)
			}
			if err := l.Close(); err != nil {
				b.Error(err)
			}
			if err := p.close(); err != nil {
				b.Error(err)
			}
			<-done
		})
	}
}

func BenchmarkStream(b *testing.B) {
	const size = 1 << 20
	block := make([]byte, size)
	read := make(chan error, 1)
	benchmark(b, func(c net.Conn) {
		go func() { // ends with its connection
			_, err := io.Copy(io.Discard, c)
			read <- err
		}()
	}, func(b *testing.B, _ *pair, c net.Conn) {
		b.SetBytes(size)
		for range b.N {
			if _, err := c.Write(block); err != nil {
				b.Fatal(err)
			}
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			b.Fatal(err)
		}
		if err := <-read; err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	benchmark(b, func(c net.Conn) {
		go func() { // ends with its connection
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}, func(b *testing.B, _ *pair, c net.Conn) {
		one := make([]byte, 1)
		for range b.N {
			if _, err := c.Write(one); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, one); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDial(b *testing.B) {
	benchmark(b, func(c net.Conn) { _ = c.Close() }, func(b *testing.B, p *pair, _ net.Conn) {
		for range b.N {
			c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "7"))
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
