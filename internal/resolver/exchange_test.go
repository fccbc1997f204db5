// SPDX-License-Identifier: MIT

package resolver

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestForgeries is fault 61: what does not answer the question is passed over, and the true answer after it counts.
func TestForgeries(t *testing.T) {
	evil := []dnsmessage.Resource{resource("v4.example.", a("203.0.113.66"))}
	edited := func(edit func(*dnsmessage.Message)) func(request) []byte {
		return func(r request) []byte { return reply(r, evil, edit) }
	}
	tests := []struct {
		name  string
		forge func(request) []byte
	}{
		{"wrong ID", edited(func(m *dnsmessage.Message) { m.ID++ })},
		{"not a response", edited(func(m *dnsmessage.Message) { m.Response = false })},
		{"another operation", edited(func(m *dnsmessage.Message) { m.OpCode = 4 })},
		{"another name", edited(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("x.example.") })},
		{"another type", edited(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeAAAA })},
		{"another class", edited(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS })},
		{"no question", edited(func(m *dnsmessage.Message) { m.Questions = nil })},
		{"two questions", edited(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) })},
		{"empty datagram", func(request) []byte { return nil }},
		{"half a header", func(r request) []byte { return reply(r, evil, nil)[:6] }},
		{"question cut short", func(r request) []byte { return reply(r, evil, nil)[:18] }},
		{"question that points at itself", func(r request) []byte {
			return append(reply(r, nil, func(m *dnsmessage.Message) { m.Additionals = nil })[:12], 0xc0, 12, 0, 1, 0, 1)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s := &script{answer: func(r request) [][]byte {
					return append([][]byte{tt.forge(r), tt.forge(r)}, world.answer(r)...)
				}}
				got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
				if err != nil || !slices.Equal(got, ips("192.0.2.4")) {
					t.Errorf("then the answer: got %v, %v", got, err)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("then the answer: took %v", took)
				}

				s = &script{answer: func(r request) [][]byte { return [][]byte{tt.forge(r)} }}
				_, err = s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
				if e := dnsError(t, err); !e.IsTimeout {
					t.Errorf("nothing else: got %#v, want a timeout", e)
				}

				// Over TCP nobody else can have sent it: an error at once.
				s = &script{answer: func(r request) [][]byte {
					if r.network == "udp" {
						return [][]byte{reply(r, nil, func(m *dnsmessage.Message) { m.Truncated = true })}
					}
					return [][]byte{tt.forge(r)}
				}}
				_, err = s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
				if e := dnsError(t, err); e.IsTimeout || !strings.Contains(e.Err, "invalid DNS response") {
					t.Errorf("over TCP: got %#v", e)
				}
			})
		})
	}
}

// TestFlood: forgeries without end do not hold a lookup up (fault 61); TCP gives the answer.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(r request) [][]byte {
			if r.network == "tcp" {
				return world.answer(r)
			}
			r.id++
			return slices.Repeat([][]byte{reply(r, nil, nil)}, maxForged)
		}}
		got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
		if err != nil || !slices.Equal(got, ips("192.0.2.4")) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

// TestSource is the source of fault 61, on real sockets: a connected conn takes nothing from anybody but the server,
// not even the right ID and question.
func TestSource(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	served := make(chan error, 1)
	go func() { // ends after one query, or when server is closed
		buf := make([]byte, maxMessage)
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			served <- err
			return
		}
		r := readRequest(buf[:n])
		r.network = "udp"
		stranger.WriteToUDPAddrPort(reply(r, []dnsmessage.Resource{resource("v4.example.", a("203.0.113.66"))}, nil), from)
		_, err = server.WriteToUDPAddrPort(world.answer(r)[0], from)
		served <- err
	}()

	var d net.Dialer
	c := &Client{Dial: d.DialContext, Servers: []netip.AddrPort{server.LocalAddr().(*net.UDPAddr).AddrPort()}}
	got, err := c.LookupNetIP(t.Context(), "ip4", "v4.example.")
	if err != nil || !slices.Equal(got, ips("192.0.2.4")) {
		t.Errorf("got %v, %v", got, err)
	}
	server.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestEDNS: what is offered, and the second try with servers that do not know EDNS0.
func TestEDNS(t *testing.T) {
	plain := func(c dnsmessage.RCode, withQuestion bool) func(request) [][]byte {
		return func(r request) [][]byte {
			if !r.edns {
				return world.answer(r)
			}
			return [][]byte{reply(r, nil, func(m *dnsmessage.Message) {
				m.RCode, m.Additionals = c, nil
				if !withQuestion {
					m.Questions = nil
				}
			})}
		}
	}
	once := []string{"udp v4.example. A"}
	twice := []string{"udp v4.example. A", "udp v4.example. A without EDNS"}
	tests := []struct {
		name   string
		answer func(request) [][]byte
		asked  []string
	}{
		{"known", world.answer, once},
		{"FORMERR", plain(dnsmessage.RCodeFormatError, true), twice},
		{"NOTIMP", plain(dnsmessage.RCodeNotImplemented, true), twice},
		{"FORMERR without the question", plain(dnsmessage.RCodeFormatError, false), twice},
		{"answer without OPT", func(r request) [][]byte { r.edns = false; return world.answer(r) }, once},
		// Fault 61, a truncated OPT: the answers before it are whole and count.
		{"OPT cut short", func(r request) [][]byte { m := world.answer(r)[0]; return [][]byte{m[:len(m)-3]} }, once},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answer: tt.answer}
			got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
			if err != nil || !slices.Equal(got, ips("192.0.2.4")) {
				t.Errorf("got %v, %v", got, err)
			}
			if asked := s.queries(); !slices.Equal(asked, tt.asked) {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
			if p := s.asked[0].payload; p != 1232 {
				t.Errorf("offered %d octets, want 1232", p)
			}
		})
	}
}

// TestOversized: a server that sends more over UDP than it was offered is understood.
func TestOversized(t *testing.T) {
	s := &script{answer: func(r request) [][]byte { r.payload = maxMessage; return world.answer(r) }}
	got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "big.example")
	if err != nil || len(got) != 200 || len(s.queries()) != 1 {
		t.Errorf("got %d addresses, %v, asked %q", len(got), err, s.queries())
	}
}

// TestTCPFails: a truncated answer is never passed off as a whole one.
func TestTCPFails(t *testing.T) {
	tests := []struct {
		name string
		tcp  func(request, net.Conn)
		text string
	}{
		{"silence", func(request, net.Conn) {}, "no answer within 5s"},
		{"closed", func(_ request, c net.Conn) { c.Close() }, "EOF"},
		{"closed in the middle", func(_ request, c net.Conn) { c.Write([]byte{0, 100, 1, 2, 3}); c.Close() }, "unexpected EOF"},
		{"length 0", func(_ request, c net.Conn) { c.Write([]byte{0, 0}) }, "invalid DNS response"},
		{"length and no more", func(_ request, c net.Conn) { c.Write([]byte{0xff, 0xff}) }, "no answer within 5s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(r request) [][]byte {
					return [][]byte{reply(r, []dnsmessage.Resource{resource("v4.example.", a("192.0.2.4"))},
						func(m *dnsmessage.Message) { m.Truncated = true })}
				}}
				c := s.client(server1)
				c.Attempts = 1
				c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if network == "udp" {
						return s.Dial(ctx, network, address)
					}
					client, server := net.Pipe()
					go func() { // ends when the client closes its end
						buf := make([]byte, maxMessage)
						n, _ := server.Read(buf)
						tt.tcp(readRequest(buf[2:n]), server)
						server.Read(buf)
						server.Close()
					}()
					return client, nil
				}
				_, err := c.LookupNetIP(t.Context(), "ip4", "v4.example")
				if e := dnsError(t, err); !strings.Contains(e.Err, tt.text) {
					t.Errorf("got %#v, want %q", e, tt.text)
				}
			})
		})
	}
}

// TestIDs: 200 queries do not share or count up their IDs (RFC 5452 section 9.2).
func TestIDs(t *testing.T) {
	s := &script{answer: world.answer}
	for range 200 {
		if _, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example"); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint16]bool{}
	following := 0
	for i, r := range s.asked {
		seen[r.id] = true
		if i > 0 && r.id == s.asked[i-1].id+1 {
			following++
		}
	}
	if len(seen) < 190 || following > 10 {
		t.Errorf("%d different IDs of 200, %d one more than the one before", len(seen), following)
	}
}
