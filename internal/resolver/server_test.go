// SPDX-License-Identifier: MIT

package resolver

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

var (
	server1 = netip.MustParseAddrPort("10.0.0.53:53")
	server2 = netip.MustParseAddrPort("[fd00::53]:53")
)

// request is one query as a scripted server sees it.
type request struct {
	network, server string
	id              uint16
	q               dnsmessage.Question
	edns            bool
	payload         int // the UDP payload size that EDNS0 offers
}

// String is the form in which tests compare what was asked.
func (r request) String() string {
	s := fmt.Sprintf("%s %s %s", r.network, r.q.Name, strings.TrimPrefix(r.q.Type.String(), "Type"))
	if !r.edns {
		s += " without EDNS"
	}
	return s
}

// script is a DNS server on in-memory conns: answer says what it sends back, message by message.
type script struct {
	answer func(request) [][]byte

	mu    sync.Mutex // guards asked and open
	asked []request
	open  int // conns that the client has not closed
}

// packetPipe is a pipe that net.Resolver takes for UDP, which it does for every net.PacketConn.
type packetPipe struct{ net.Conn }

func (packetPipe) ReadFrom([]byte) (int, net.Addr, error) { panic("not called: the conn is connected") }

func (packetPipe) WriteTo([]byte, net.Addr) (int, error) { panic("not called: the conn is connected") }
func (c packetPipe) Close() error                        { return c.Conn.Close() }
func (s *script) client(servers ...netip.AddrPort) *Client {
	return &Client{Dial: s.Dial, Servers: servers}
}
func (s *script) openConns() int { s.mu.Lock(); defer s.mu.Unlock(); return s.open }

// Dial has Client.Dial's signature, and net.Resolver.Dial's.
func (s *script) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	client, server := net.Pipe()
	// Ends when the client closes its end.
	go func() {
		s.serve(server, network, address)
		s.mu.Lock()
		s.open--
		s.mu.Unlock()
	}()
	if network == "udp" {
		return packetPipe{client}, nil
	}
	return client, nil
}

func (s *script) serve(conn net.Conn, network, address string) {
	defer conn.Close()
	msg := make([]byte, maxMessage)
	if network == "udp" {
		n, err := conn.Read(msg)
		if err != nil {
			return
		}
		msg = msg[:n]
	} else {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		msg = msg[:binary.BigEndian.Uint16(length[:])]
		if _, err := io.ReadFull(conn, msg); err != nil {
			return
		}
	}
	r := readRequest(msg)
	r.network, r.server = network, address
	s.mu.Lock()
	s.asked = append(s.asked, r)
	s.mu.Unlock()

	for _, reply := range s.answer(r) {
		if network == "tcp" {
			reply = append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
	io.Copy(io.Discard, conn)
}

func readRequest(msg []byte) request {
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil {
		panic(err) // our own query
	}
	r := request{id: m.ID, q: m.Questions[0]}
	for _, a := range m.Additionals {
		if a.Header.Type == dnsmessage.TypeOPT {
			r.edns, r.payload = true, int(a.Header.Class)
		}
	}
	return r
}

// queries returns what was asked, sorted because A and AAAA race.
func (s *script) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, r := range s.asked {
		all = append(all, r.String())
	}
	slices.Sort(all)
	return all
}

// reply is a well-formed answer; edit, if not nil, changes it before it is packed.
func reply(r request, records []dnsmessage.Resource, edit func(*dnsmessage.Message)) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: r.id, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{r.q},
		Answers:   records,
	}
	if r.edns {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(udpPayload, dnsmessage.RCodeSuccess, false); err != nil {
			panic(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	if edit != nil {
		edit(&m)
	}
	msg, err := m.Pack()
	if err != nil {
		panic(err) // a mistake in the test
	}
	return msg
}

// code is an edit that sets the response code.
func code(c dnsmessage.RCode) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) { m.RCode = c }
}

// zone is a name server's data: records by rooted name in lower case.
type zone map[string][]dnsmessage.ResourceBody

// answer answers as a recursive server does: CNAME chains in full, NXDOMAIN for unknown names, TC over UDP for what is
// longer than the client offered.
func (z zone) answer(r request) [][]byte {
	records, known := z.find(r.q)
	if !known {
		return [][]byte{reply(r, records, code(dnsmessage.RCodeNameError))}
	}
	msg := reply(r, records, nil)
	if r.network == "udp" && len(msg) > max(r.payload, 512) {
		msg = reply(r, nil, func(m *dnsmessage.Message) { m.Truncated = true })
	}
	return [][]byte{msg}
}

func (z zone) find(q dnsmessage.Question) (records []dnsmessage.Resource, known bool) {
	owner := q.Name
	for range 100 {
		bodies, ok := z[lower(owner.String())]
		if !ok {
			return records, false
		}
		next := owner
		for _, b := range bodies {
			rr := resource(owner.String(), b)
			if cname, ok := b.(*dnsmessage.CNAMEResource); ok {
				records = append(records, rr)
				next = cname.CNAME
			} else if rr.Header.Type == q.Type {
				records = append(records, rr)
			}
		}
		if next == owner {
			break
		}
		owner = next
	}
	return records, true
}

func resource(owner string, b dnsmessage.ResourceBody) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner), Class: dnsmessage.ClassINET, TTL: 60}
	switch b.(type) {
	case *dnsmessage.AResource:
		h.Type = dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		h.Type = dnsmessage.TypeAAAA
	case *dnsmessage.CNAMEResource:
		h.Type = dnsmessage.TypeCNAME
	case *dnsmessage.TXTResource:
		h.Type = dnsmessage.TypeTXT
	case *dnsmessage.SRVResource:
		h.Type = dnsmessage.TypeSRV
	}
	return dnsmessage.Resource{Header: h, Body: b}
}

func a(s string) dnsmessage.ResourceBody {
	ip := netip.MustParseAddr(s)
	if ip.Is4() {
		return &dnsmessage.AResource{A: ip.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: ip.As16()}
}

func cname(s string) dnsmessage.ResourceBody {
	return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(s)}
}

func txt(s ...string) dnsmessage.ResourceBody { return &dnsmessage.TXTResource{TXT: s} }

func srv(priority, weight, port uint16, target string) dnsmessage.ResourceBody {
	return &dnsmessage.SRVResource{
		Priority: priority, Weight: weight, Port: port, Target: dnsmessage.MustNewName(target),
	}
}

// world is the zone that most tests ask.
var world = func() zone {
	z := zone{
		"db.example.":             {a("192.0.2.1"), a("2001:db8::1")},
		"v4.example.":             {a("192.0.2.4")},
		"v6.example.":             {a("2001:db8::6")},
		"www.example.":            {cname("WWW.cdn.example.")},
		"www.cdn.example.":        {cname("edge.cdn.example.")},
		"edge.cdn.example.":       {a("192.0.2.80"), a("192.0.2.81")},
		"empty.example.":          {},
		"under_score.example.":    {a("192.0.2.5")},
		"9.example.":              {a("192.0.2.9")},
		"db.corp.test.":           {a("10.1.1.1")},
		"a.b.corp.test.":          {a("10.1.1.2")},
		"short.":                  {a("10.1.1.3")},
		"both.corp.test.":         {a("10.1.1.4")},
		"both.":                   {a("10.1.1.5")},
		"txt.example.":            {txt("v=spf1 ", "-all"), txt("second")},
		"alias.example.":          {cname("txt.example.")},
		"_sip._tcp.example.":      {srv(20, 0, 5062, "c.example."), srv(10, 1, 5061, "b.example.")},
		"direct.example.":         {srv(1, 1, 80, "db.example.")},
		"_none._tcp.example.":     {srv(0, 0, 0, ".")},
		"_bad._tcp.example.":      {srv(1, 0, 1, "ok.example."), srv(2, 0, 2, "not ok.example.")},
		"_alias._tcp.example.":    {cname("_sip._tcp.example.")},
		strings.Repeat("a.", 127): {a("192.0.2.126")},
	}
	for i := range 200 {
		z["big.example."] = append(z["big.example."], a(fmt.Sprintf("10.2.0.%d", i)))
		z["bigtxt.example."] = append(z["bigtxt.example."], txt(strings.Repeat("x", 200)))
	}
	return z
}()

// ips parses addresses, space-separated.
func ips(s string) []netip.Addr {
	var addrs []netip.Addr
	for f := range strings.FieldsSeq(s) {
		addrs = append(addrs, netip.MustParseAddr(f))
	}
	return addrs
}

// dnsError asserts that err is a *net.DNSError.
func dnsError(t *testing.T, err error) *net.DNSError {
	t.Helper()
	e, ok := err.(*net.DNSError)
	if !ok || e == nil {
		t.Fatalf("error is %T (%v), want a *net.DNSError", err, err)
	}
	return e
}

// flags is a DNSError's kind in one word, for tables.
func flags(e *net.DNSError) string {
	var f []string
	for _, flag := range []struct {
		set  bool
		name string
	}{{e.IsNotFound, "notfound"}, {e.IsTimeout, "timeout"}, {e.IsTemporary, "temporary"}} {
		if flag.set {
			f = append(f, flag.name)
		}
	}
	return cmp.Or(strings.Join(f, "+"), "none")
}
