// SPDX-License-Identifier: MIT

package resolver

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// parrot is a conn that answers every query with the same bytes, over UDP forever and over TCP once.
type parrot struct {
	net.Conn
	data    []byte
	rightID bool // whether data gets the query's ID
	tcp     bool
	stream  []byte // what is left to read over TCP
}

func (p *parrot) Close() error { return nil }

func (p *parrot) Write(query []byte) (int, error) {
	n := len(query)
	if p.tcp {
		query = query[2:]
	}
	if p.rightID && len(p.data) >= 2 {
		copy(p.data, query[:2])
	}
	if p.tcp {
		p.stream = append(binary.BigEndian.AppendUint16(nil, uint16(len(p.data))), p.data...)
	}
	return n, nil
}

func (p *parrot) Read(b []byte) (int, error) {
	if !p.tcp {
		return copy(b, p.data), nil
	}
	if len(p.stream) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.stream)
	p.stream = p.stream[n:]
	return n, nil
}

// FuzzAnswer takes arbitrary bytes as the server's answer to every lookup, over UDP and then over TCP. Whatever they
// are, the lookup ends without waiting for its timeout, with a *net.DNSError or with results that can be used.
func FuzzAnswer(f *testing.F) {
	r := request{q: dnsmessage.Question{
		Name: dnsmessage.MustNewName("v4.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}
	whole := func(typ dnsmessage.Type, edit func(*dnsmessage.Message), bodies ...dnsmessage.ResourceBody) []byte {
		r := r
		r.q.Type = typ
		var records []dnsmessage.Resource
		for _, b := range bodies {
			records = append(records, resource("v4.example.", b))
		}
		return reply(r, records, edit)
	}
	bare := whole(dnsmessage.TypeA, nil) // a header and a question: 12 + 16 octets
	withAnswers := func(count uint16, raw ...byte) []byte {
		m := append([]byte(nil), bare...)
		binary.BigEndian.PutUint16(m[6:], count)
		return append(m, raw...)
	}
	opt := func(raw ...byte) []byte {
		m := whole(dnsmessage.TypeA, nil, a("192.0.2.1"))
		m[11] = 1 // one additional record
		return append(append(m, 0, 0, 41, 4, 208, 0, 0, 0, 0), raw...)
	}

	// A proper answer of each type, so that the fuzzer starts behind the checks of ID and question.
	f.Add(whole(dnsmessage.TypeA, nil, a("192.0.2.1")), true)
	f.Add(whole(dnsmessage.TypeAAAA, nil, a("2001:db8::1")), true)
	f.Add(whole(dnsmessage.TypeTXT, nil, txt("a", "b")), true)
	f.Add(whole(dnsmessage.TypeSRV, nil, srv(1, 2, 3, "a.example."), srv(1, 0, 3, ".")), true)
	// The wrong ID, forever.
	f.Add(whole(dnsmessage.TypeA, nil, a("192.0.2.1")), false)
	// TC over UDP, and again over TCP.
	f.Add(whole(dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Truncated = true }, a("192.0.2.1")), true)
	// No question: a forgery, or a server that refuses EDNS0, here also the query without it.
	f.Add(whole(dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = nil }), true)
	f.Add(whole(dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = nil; m.RCode = 1 }), true)
	// An alias to nowhere, and one to itself.
	f.Add(whole(dnsmessage.TypeA, code(dnsmessage.RCodeNameError), cname("x.example.")), true)
	f.Add(whole(dnsmessage.TypeA, nil, cname("v4.example.")), true)
	// A 4-in-6 address, which must not come out.
	f.Add(whole(dnsmessage.TypeAAAA, nil, &dnsmessage.AAAAResource{AAAA: [16]byte{10: 255, 11: 255, 12: 1}}), true)
	// Compression loops: an owner that points at itself, two that point at each other, a pointer out of the message.
	f.Add(withAnswers(1, 0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4), true)
	f.Add(withAnswers(1, 0xc0, 30, 0xc0, 28, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4), true)
	f.Add(withAnswers(1, 0xff, 0xff), true)
	// Huge counts: 65,535 answers claimed, one there.
	f.Add(withAnswers(0xffff, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4), true)
	// A record longer than the message, and an A record without an address.
	f.Add(withAnswers(1, 0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 1), true)
	f.Add(withAnswers(1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0), true)
	// An OPT record, one cut short before its options, one cut short in its length.
	f.Add(opt(0, 0), true)
	f.Add(opt(0, 9), true)
	f.Add(opt(0), true)
	// A header alone, half a header, an empty datagram.
	f.Add(bare[:12], true)
	f.Add(bare[:5], true)
	f.Add([]byte{}, true)

	f.Fuzz(func(t *testing.T, data []byte, rightID bool) {
		if len(data) > maxMessage {
			return
		}
		c := &Client{
			Servers:  []netip.AddrPort{server1},
			Attempts: 1,
			Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
				return &parrot{data: append([]byte(nil), data...), rightID: rightID, tcp: network == "tcp"}, nil
			},
		}
		check := func(results int, err error) {
			t.Helper()
			if err == nil {
				if results == 0 {
					t.Error("neither results nor an error")
				}
				return
			}
			if e := dnsError(t, err); e.Err == "" || e.Name != "v4.example." || e.IsTimeout {
				t.Errorf("got %#v", e)
			}
		}
		addrs, err := c.LookupNetIP(t.Context(), "ip", "v4.example.")
		check(len(addrs), err)
		for _, a := range addrs {
			if !a.IsValid() || a.Is4In6() {
				t.Errorf("address %v", a)
			}
		}
		texts, err := c.LookupTXT(t.Context(), "v4.example.")
		check(len(texts), err)
		owner, services, err := c.LookupSRV(t.Context(), "", "", "v4.example.")
		check(len(services), err)
		if err == nil && owner == "" {
			t.Error("SRV records without an owner")
		}
		for _, s := range services {
			if !isDomainName(s.Target) {
				t.Errorf("SRV target %q", s.Target)
			}
		}
	})
}
