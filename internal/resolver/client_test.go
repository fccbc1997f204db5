// SPDX-License-Identifier: MIT

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestUnknownNetwork(t *testing.T) {
	_, err := (&Client{}).LookupNetIP(t.Context(), "tcp", "192.0.2.1")
	var unknown net.UnknownNetworkError
	if e := dnsError(t, err); !errors.As(e, &unknown) || !strings.Contains(e.Err, `"ip4"`) {
		t.Errorf("got %#v, want net.UnknownNetworkError and what is expected", e)
	}
}

func TestLookupHost(t *testing.T) {
	s := &script{answer: world.answer}
	for host, want := range map[string][]string{
		"db.example":       {"2001:db8::1", "192.0.2.1"},
		"::FFFF:192.0.2.1": {"::FFFF:192.0.2.1"}, // as it was written, as the net package does
		"localhost":        {"127.0.0.1", "::1"},
	} {
		if got, err := s.client(server1).LookupHost(t.Context(), host); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", host, got, err, want)
		}
	}
}

// TestNoServers is fault 60.
func TestNoServers(t *testing.T) {
	c := &Client{Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, net.ErrClosed
	}}
	lookups := map[string]func() error{
		"LookupNetIP": func() error { _, err := c.LookupNetIP(t.Context(), "ip", "db.example"); return err },
		"LookupHost":  func() error { _, err := c.LookupHost(t.Context(), "db.example"); return err },
		"LookupTXT":   func() error { _, err := c.LookupTXT(t.Context(), "db.example"); return err },
		"LookupSRV":   func() error { _, _, err := c.LookupSRV(t.Context(), "", "", "db.example"); return err },
	}
	for name, lookup := range lookups {
		t.Run(name, func(t *testing.T) {
			e := dnsError(t, lookup())
			if !strings.Contains(e.Err, "no DNS server is configured") || e.Name != "db.example" || e.IsNotFound {
				t.Errorf("got %#v", e)
			}
		})
	}
	if got, err := c.LookupNetIP(t.Context(), "ip4", "localhost"); err != nil || len(got) != 1 {
		t.Errorf("localhost needs no server: got %v, %v", got, err)
	}
}

func TestLookupTXT(t *testing.T) {
	s := &script{answer: world.answer}
	for name, want := range map[string][]string{
		"txt.example":   {"v=spf1 -all", "second"},
		"alias.example": {"v=spf1 -all", "second"},
	} {
		if got, err := s.client(server1).LookupTXT(t.Context(), name); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
}

// TestTruncated is fault 59: what does not fit comes over TCP, whole.
func TestTruncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: world.answer}
		got, err := s.client(server1).LookupNetIP(t.Context(), "ip4", "big.example")
		if err != nil || len(got) != 200 {
			t.Fatalf("got %d addresses, %v; want 200", len(got), err)
		}
		texts, err := s.client(server1).LookupTXT(t.Context(), "bigtxt.example") // some 43 kB
		if err != nil || len(texts) != 200 {
			t.Fatalf("got %d texts, %v; want 200", len(texts), err)
		}
		want := []string{"tcp big.example. A", "tcp bigtxt.example. TXT", "udp big.example. A", "udp bigtxt.example. TXT"}
		if asked := s.queries(); !slices.Equal(asked, want) {
			t.Errorf("asked %q, want %q", asked, want)
		}
	})
}

// TestServers is what each way to fail means for the next server and for the error.
func TestServers(t *testing.T) {
	fail := func(edit func(*dnsmessage.Message)) func(request) [][]byte {
		return func(r request) [][]byte { return [][]byte{reply(r, nil, edit)} }
	}
	lame := func(m *dnsmessage.Message) { m.RecursionAvailable = false }
	soa := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("example."), Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.SOAResource{NS: dnsmessage.MustNewName("."), MBox: dnsmessage.MustNewName(".")},
	}
	ns := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("example."), Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.NSResource{NS: dnsmessage.MustNewName("ns.example.")},
	}
	tests := []struct {
		name   string
		first  func(request) [][]byte // how the first server answers
		next   bool                   // whether the second is asked
		flags  string                 // the error's, when every server answers so
		err    string                 // a part of its text
		rounds int                    // how often the first server was asked then
	}{
		{"SERVFAIL", fail(code(dnsmessage.RCodeServerFailure)), true, "temporary", "SERVFAIL", 2},
		{"REFUSED", fail(code(dnsmessage.RCodeRefused)), true, "none", "REFUSED", 2},
		{"unknown code", fail(code(11)), true, "none", "code 11", 2},
		{"FORMERR with and without EDNS", fail(code(dnsmessage.RCodeFormatError)), true, "none", "FORMERR", 4},
		{"lame referral", fail(lame), true, "none", "lame referral", 2},
		{"NXDOMAIN", fail(code(dnsmessage.RCodeNameError)), false, "notfound", "no such host", 1},
		{"no data", fail(nil), false, "notfound", "no such host", 1},
		{
			"no data with a SOA record from a server without recursion",
			fail(func(m *dnsmessage.Message) { lame(m); m.Authorities = []dnsmessage.Resource{soa} }),
			false, "notfound", "no such host", 1,
		},
		{
			"extended code", fail(func(m *dnsmessage.Message) {
				var h dnsmessage.ResourceHeader
				h.SetEDNS0(udpPayload, 16, false) // BADVERS
				m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
			}), true, "none", "code 16", 2,
		},
		{"referral", fail(func(m *dnsmessage.Message) {
			lame(m)
			m.Authorities = []dnsmessage.Resource{ns, ns}
		}), true, "none", "lame referral", 2},
		{"extended code behind another record", fail(func(m *dnsmessage.Message) {
			var h dnsmessage.ResourceHeader
			h.SetEDNS0(udpPayload, 16, false) // BADVERS
			m.Additionals = []dnsmessage.Resource{ns, {Header: h, Body: &dnsmessage.OPTResource{}}}
		}), true, "none", "code 16", 2},
		{"NOTIMP with and without EDNS", fail(code(dnsmessage.RCodeNotImplemented)), true, "none", "NOTIMP", 4},
		{"silence", nothing, true, "timeout+temporary", "no answer within 5s", 2},
		{
			"answer that cannot be read", func(r request) [][]byte {
				return [][]byte{reply(r, []dnsmessage.Resource{resource("v4.example.", a("192.0.2.4"))}, nil)[:40]}
			}, true, "none", "cannot unmarshal", 2,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(r request) [][]byte {
					if r.server == server1.String() {
						return tt.first(r)
					}
					return world.answer(r)
				}}
				got, err := s.client(server1, server2).LookupNetIP(t.Context(), "ip4", "v4.example")
				if next := slices.Equal(got, ips("192.0.2.4")); next != tt.next {
					t.Errorf("two servers: got %v, %v; want the second one's answer: %v", got, err, tt.next)
				}

				s = &script{answer: tt.first}
				_, err = s.client(server1).LookupNetIP(t.Context(), "ip4", "v4.example")
				e := dnsError(t, err)
				if flags(e) != tt.flags || !strings.Contains(e.Err, tt.err) {
					t.Errorf("got %#v, want flags %s and text %q", e, tt.flags, tt.err)
				}
				if e.Server != server1.String() || e.Name != "v4.example" {
					t.Errorf("server %q, name %q; want %q, %q", e.Server, e.Name, server1, "v4.example")
				}
				if n := len(s.queries()); n != tt.rounds {
					t.Errorf("asked %d times, want %d", n, tt.rounds)
				}
			})
		})
	}
}

// TestHalfAnswered: what is known of one family is returned or said, whatever becomes of the other.
func TestHalfAnswered(t *testing.T) {
	tests := []struct {
		name      string
		a, aaaa   func(request) [][]byte
		want      string
		wantFlags string
	}{
		{"addresses and silence", world.answer, nothing, "192.0.2.4", ""},
		{"addresses and SERVFAIL", world.answer, servfail, "192.0.2.4", ""},
		{"no data and SERVFAIL", nodata, servfail, "", "temporary"},
		{"no data and silence", nodata, nothing, "", "timeout+temporary"},
		{"SERVFAIL and no data", servfail, nodata, "", "temporary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(r request) [][]byte {
					if r.q.Type == dnsmessage.TypeA {
						return tt.a(r)
					}
					return tt.aaaa(r)
				}}
				got, err := s.client(server1).LookupNetIP(t.Context(), "ip", "v4.example")
				if !slices.Equal(got, ips(tt.want)) {
					t.Errorf("got %v, %v; want %v", got, err, tt.want)
				}
				if tt.wantFlags != "" {
					if e := dnsError(t, err); flags(e) != tt.wantFlags {
						t.Errorf("got %#v, want %s", e, tt.wantFlags)
					}
				}
			})
		})
	}
}

func nothing(request) [][]byte  { return nil }
func nodata(r request) [][]byte { return [][]byte{reply(r, nil, nil)} }
func servfail(r request) [][]byte {
	return [][]byte{reply(r, nil, code(dnsmessage.RCodeServerFailure))}
}

// TestSilence: the time that silent servers take is the product of timeout, attempts and servers, and search domains
// do not multiply it; but one answer of "no" is enough to go on to the next name.
func TestSilence(t *testing.T) {
	tests := []struct {
		name   string
		client Client
		answer func(request) [][]byte
		want   string
		took   time.Duration
	}{
		{"defaults", Client{Servers: []netip.AddrPort{server1, server2}}, nothing, "", 20 * time.Second},
		{
			"own figures",
			Client{Servers: []netip.AddrPort{server1}, Timeout: time.Second, Attempts: 3},
			nothing, "", 3 * time.Second,
		},
		{
			"search domains",
			Client{Servers: []netip.AddrPort{server1}, Search: []string{"a", "b"}},
			nothing, "", 10 * time.Second,
		},
		{
			"a server that drops AAAA",
			Client{Servers: []netip.AddrPort{server1}, Search: []string{"a", "corp.test"}},
			func(r request) [][]byte {
				if r.q.Type == dnsmessage.TypeAAAA {
					return nil
				}
				return world.answer(r)
			}, "10.1.1.1", 20 * time.Second,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: tt.answer}
				tt.client.Dial = s.Dial
				start := time.Now()
				got, err := tt.client.LookupNetIP(t.Context(), "ip", "db")
				if !slices.Equal(got, ips(tt.want)) {
					t.Errorf("got %v, want %v", got, tt.want)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if tt.want == "" {
					if e := dnsError(t, err); !errors.Is(e, os.ErrDeadlineExceeded) || errors.Is(e, context.DeadlineExceeded) {
						t.Errorf("got %v: want os.ErrDeadlineExceeded, and not context's: ctx goes on", e)
					}
				}
			})
		})
	}
}

// TestContext is fault 57: a lookup ends with its context, not 50 ms later, and says why.
func TestContext(t *testing.T) {
	tests := []struct {
		name   string
		ctx    func(context.Context) (context.Context, context.CancelFunc)
		after  time.Duration // when the lookup has to end
		flags  string
		text   string
		is     []error
		server string
	}{
		{
			"canceled while waiting", func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(3*time.Second, cancel)
				return ctx, cancel
			}, 3 * time.Second, "none", "operation was canceled", []error{context.Canceled}, server1.String(),
		},
		{
			"canceled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancelCause(ctx)
				time.AfterFunc(time.Second, func() { cancel(net.ErrClosed) })
				return ctx, func() { cancel(nil) }
			}, time.Second, "none", net.ErrClosed.Error(), []error{context.Canceled, net.ErrClosed}, server1.String(),
		},
		{
			"deadline while the second server is asked", func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 7*time.Second)
			}, 7 * time.Second, "timeout+temporary", "i/o timeout",
			[]error{context.DeadlineExceeded, os.ErrDeadlineExceeded},
			server2.String(),
		},
		{
			"canceled before", func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				return ctx, cancel
			}, 0, "none", "operation was canceled", []error{context.Canceled}, "",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: nothing}
				c := s.client(server1, server2)
				c.Search = []string{"corp.test"}
				start := time.Now()
				ctx, cancel := tt.ctx(t.Context())
				defer cancel()
				_, err := c.LookupNetIP(ctx, "ip", "db.example")
				if took := time.Since(start); took != tt.after {
					t.Errorf("took %v, want %v", took, tt.after)
				}
				e := dnsError(t, err)
				if flags(e) != tt.flags || e.Err != tt.text || e.Name != "db.example" || e.Server != tt.server {
					t.Errorf("got %#v", e)
				}
				for _, target := range tt.is {
					if !errors.Is(err, target) {
						t.Errorf("errors.Is(err, %v) is false", target)
					}
				}
				synctest.Wait()
				if n := s.openConns(); n != 0 {
					t.Errorf("%d conns left open", n)
				}
			})
		})
	}
}

// TestContextDuringDial: the dialer gets the context, and its conn is closed if it comes late.
func TestContextDuringDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Servers: []netip.AddrPort{server1}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			conn, _ := net.Pipe()
			return conn, nil // a dialer that had it ready in the last moment
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.LookupTXT(ctx, "db.example")
		if e := dnsError(t, err); !errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("got %#v", e)
		}
	})
}

// TestDialTimeout: a dialer that answers with the error of its context speaks of the exchange's timeout, not of the
// caller's context, and what it says about it is kept.
func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Servers: []netip.AddrPort{server1}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("the tunnel is down: %w", ctx.Err())
		}}
		_, err := c.LookupTXT(t.Context(), "db.example")
		e := dnsError(t, err)
		if flags(e) != "timeout+temporary" || !strings.Contains(e.Err, "the tunnel is down") {
			t.Errorf("got %#v", e)
		}
		if errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v: want os.ErrDeadlineExceeded, and not context's", err)
		}
	})
}

// TestDialError: what the dialer says reaches the caller, and the next server is tried.
func TestDialError(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "udp", Err: syscall.ECONNREFUSED}
	var dialed []string
	c := &Client{
		Servers: []netip.AddrPort{netip.AddrPortFrom(server1.Addr(), 0), server2},
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			dialed = append(dialed, network+" "+address)
			return nil, refused
		},
	}
	_, err := c.LookupTXT(t.Context(), "db.example")
	e := dnsError(t, err)
	if !errors.Is(err, syscall.ECONNREFUSED) || flags(e) != "temporary" || e.Server != server2.String() {
		t.Errorf("got %#v", e)
	}
	want := []string{"udp 10.0.0.53:53", "udp [fd00::53]:53", "udp 10.0.0.53:53", "udp [fd00::53]:53"}
	if !slices.Equal(dialed, want) {
		t.Errorf("dialed %q, want %q (port 0 is 53)", dialed, want)
	}
}

// TestConcurrent: one Client serves many goroutines.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: world.answer}
		c := s.client(server1)
		done := make(chan error)
		for range 50 {
			go func() { // ends with its lookup; received below
				_, err := c.LookupNetIP(t.Context(), "ip", "db.example")
				done <- err
			}()
		}
		for range 50 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
