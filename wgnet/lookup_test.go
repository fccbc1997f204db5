// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
	"golang.org/x/net/dns/dnsmessage"
)

// dnsServer answers at port 53 of upstream's peer, from a table: "A db.example." to records in the text form of zone
// files. It truncates what does not fit in 512 bytes over UDP.
type dnsServer struct {
	records map[string][]string

	mu    sync.Mutex // guards asked
	asked []string   // "udp A db.example.", in order
}

func (s *dnsServer) questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// newDNS makes a Net whose DNS server is upstream's peer. change may change the Net's config.
func newDNS(tb testing.TB, records map[string][]string, change func(*wgnet.Config)) (*wgnet.Net, *dnsServer) {
	tb.Helper()
	n, up := newUpstream(tb, func(cfg *wgnet.Config) {
		cfg.DNS = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
		if change != nil {
			change(cfg)
		}
	})
	s := &dnsServer{records: records}
	pc, err := up.ListenUDP("10.0.0.2:53")
	if err != nil {
		tb.Fatal(err)
	}
	l, err := up.Listen("10.0.0.2:53")
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { s.serveUDP(tb, pc) }) // ends when pc is closed
	serving.Go(func() { s.serveTCP(tb, l) })  // ends when l is closed
	tb.Cleanup(func() {
		_ = pc.Close()
		_ = l.Close()
		serving.Wait()
	})
	return n, s
}

func (s *dnsServer) serveUDP(tb testing.TB, pc net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer := s.answer(tb, "udp", buf[:n]); answer != nil {
			_, _ = pc.WriteTo(answer, from) // the client asks again
		}
	}
}

func (s *dnsServer) serveTCP(tb testing.TB, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		var length [2]byte
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, length[:]); err == nil {
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(c, query); err == nil {
				answer := s.answer(tb, "tcp", query)
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}
		_ = c.Close()
	}
}

func (s *dnsServer) answer(tb testing.TB, network string, query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		tb.Errorf("not a question: %v", err)
		return nil
	}
	q := m.Questions[0]
	key := strings.TrimPrefix(q.Type.String(), "Type") + " " + strings.ToLower(q.Name.String())
	s.mu.Lock()
	s.asked = append(s.asked, network+" "+key)
	s.mu.Unlock()
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	found, known := s.records[key]
	for name := range s.records {
		known = known || strings.HasSuffix(name, strings.ToLower(" "+q.Name.String()))
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range found {
		if text == "silence" {
			return nil
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: parseRecord(tb, q.Type, text),
		})
	}
	packed, err := m.Pack()
	if err != nil {
		tb.Errorf("pack: %v", err)
	}
	if network == "udp" && len(packed) > 512 {
		m.Truncated, m.Answers = true, nil
		packed, err = m.Pack()
		if err != nil {
			tb.Errorf("pack: %v", err)
		}
	}
	return packed
}

func parseRecord(tb testing.TB, t dnsmessage.Type, text string) dnsmessage.ResourceBody {
	switch t {
	case dnsmessage.TypeA:
		return &dnsmessage.AResource{A: netip.MustParseAddr(text).As4()}
	case dnsmessage.TypeAAAA:
		return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(text).As16()}
	case dnsmessage.TypeTXT:
		return &dnsmessage.TXTResource{TXT: []string{text}}
	case dnsmessage.TypeSRV:
		var r dnsmessage.SRVResource
		var target string
		if _, err := fmt.Sscan(text, &r.Priority, &r.Weight, &r.Port, &target); err != nil {
			tb.Error(err)
		}
		r.Target = dnsmessage.MustNewName(target)
		return &r
	}
	tb.Errorf("no records of type %v", t)
	return nil
}

// Faults 58 and 59, and what a look-up finds.
func TestLookup(t *testing.T) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("192.168.2.%d", i))
	}
	n, s := newDNS(t, map[string][]string{
		"A db.corp.example.":              {"192.168.1.123"},
		"AAAA db.corp.example.":           {"fd00::123"},
		"A only4.example.":                {"192.168.1.4"},
		"A many.example.":                 many,
		"TXT corp.example.":               {"v=spf1 -all", "two"},
		"SRV _sip._tcp.corp.example.":     {"20 0 5061 b.example.", "10 0 5060 a.example."},
		"A b.corp.example.":               {"192.168.1.99"}, // b is a peer's name, too
		"A xn--bcher-kva.example.":        {"192.168.1.5"},
		"A has.no.search.domain.example.": {"192.168.1.6"},
	}, func(cfg *wgnet.Config) {
		cfg.SearchDomains = []string{"nothing.example", "corp.example."}
		addPeer(cfg, "b", wgnet.NewPrivateKey().Public(), "", "10.0.0.7/32", "10.8.0.0/16", "fd00::7/128")
		addPeer(cfg, "lan", wgnet.NewPrivateKey().Public(), "", "10.9.0.0/16")
	})
	for _, c := range []struct {
		network, host string
		want          string
	}{
		{"ip", "db.corp.example", "fd00::123 192.168.1.123"},
		{"ip", "db.corp.example.", "fd00::123 192.168.1.123"},
		{"ip", "DB.Corp.Example", "fd00::123 192.168.1.123"},
		{"ip4", "db.corp.example", "192.168.1.123"},
		{"ip6", "db.corp.example", "fd00::123"},
		{"ip", "db", "fd00::123 192.168.1.123"}, // by the second search domain
		{"ip", "only4.example", "192.168.1.4"},
		{"ip", "xn--bcher-kva.example", "192.168.1.5"},
		{"ip", "has.no.search.domain.example", "192.168.1.6"},
		{"ip", "many.example", strings.Join(many, " ")}, // over TCP
		{"ip", "b", "10.0.0.7 fd00::7"},
		{"ip", "B.", "10.0.0.7 fd00::7"},
		{"ip6", "b", "fd00::7"},
		{"ip", "b.corp.example", "192.168.1.99"},
		{"ip", "localhost", "127.0.0.1 ::1"},
		{"ip", "LOCALHOST.", "127.0.0.1 ::1"},
		{"ip6", "db.localhost", "::1"},
		{"ip", "192.168.1.1", "192.168.1.1"},
		{"ip", "fd00::9", "fd00::9"},
	} {
		addrs, err := n.LookupNetIP(testContext(t), c.network, c.host)
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); got != c.want || err != nil {
			t.Errorf("%s %s: got %s, %v, want %s", c.network, c.host, got, err, c.want)
		}
		if c.network != "ip" {
			continue
		}
		hosts, err := n.LookupHost(testContext(t), c.host)
		if got := strings.Join(hosts, " "); got != c.want || err != nil {
			t.Errorf("host %s: got %s, %v, want %s", c.host, got, err, c.want)
		}
	}
	if asked := s.questions(); !slices.Contains(asked, "tcp A many.example.") {
		t.Errorf("the large answer did not come over TCP: %q", asked)
	}

	texts, err := n.LookupTXT(testContext(t), "corp.example")
	slices.Sort(texts)
	if err != nil || !slices.Equal(texts, []string{"two", "v=spf1 -all"}) {
		t.Errorf("TXT: %q, %v", texts, err)
	}
	for _, question := range [][3]string{{"sip", "tcp", "corp.example"}, {"", "", "_sip._tcp.corp.example."}} {
		name, records, err := n.LookupSRV(testContext(t), question[0], question[1], question[2])
		if err != nil || len(records) != 2 || name != "_sip._tcp.corp.example." ||
			*records[0] != (net.SRV{Target: "a.example.", Port: 5060, Priority: 10}) || records[1].Port != 5061 {
			t.Errorf("SRV: %q, %v, %v", name, records, err)
		}
	}
}

func TestLookupErrors(t *testing.T) {
	n, _ := newDNS(t, map[string][]string{"AAAA only6.example.": {"fd00::1"}}, func(cfg *wgnet.Config) {
		addPeer(cfg, "lan", wgnet.NewPrivateKey().Public(), "", "10.9.0.0/16")
		addPeer(cfg, "four", wgnet.NewPrivateKey().Public(), "", "10.0.0.4/32")
	})
	for _, c := range []struct {
		name, network, host string
		notFound            bool
		text                string
	}{
		{"no such host", "ip", "none.example", true, "lookup none.example on 10.0.0.2:53: no such host"},
		{"none of the family", "ip4", "only6.example", true, "lookup only6.example on 10.0.0.2:53: no such host"},
		{"a peer without an address", "ip", "lan", true, "lookup lan: peer lan has no address of its own: no /32 or /128 is in its AllowedIPs"},
		{"a peer without one of the family", "ip6", "four", true, "lookup four: four has no address for network ip6"},
		{"empty", "ip", "", true, "lookup : no such host"},
		{"no name", "ip", "a b", true, "lookup a b: no such host"},
		{"unknown network", "tcp", "localhost", false, `lookup localhost: unknown network tcp: want "ip", "ip4" or "ip6"`},
		{"unknown network for a peer", "ip5", "four", false, `lookup four: unknown network ip5: want "ip", "ip4" or "ip6"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := n.LookupNetIP(testContext(t), c.network, c.host)
			var failed *net.DNSError
			if !errors.As(err, &failed) || failed.IsNotFound != c.notFound || err.Error() != c.text {
				t.Errorf("got  %v\nwant %s", err, c.text)
			}
		})
	}

	// fault 60.
	n = newNet(t, newConfig("10.0.0.1/24"))
	_, texts := n.LookupTXT(testContext(t), "db.example")
	_, _, srv := n.LookupSRV(testContext(t), "sip", "tcp", "db.example")
	for _, err := range []error{texts, srv} {
		var failed *net.DNSError
		if !errors.As(err, &failed) || !strings.HasSuffix(err.Error(), ": no DNS server is configured: set DNS in the tunnel's configuration") {
			t.Errorf("without a server: got %v", err)
		}
	}
}

// fault 57.
func TestLookupCancel(t *testing.T) {
	n, s := newDNS(t, map[string][]string{"A db.example.": {"silence"}, "AAAA db.example.": {"silence"}}, nil)
	best := time.Hour
	for range 5 { // a busy machine may miss the bound, but not five times
		before := len(s.questions())
		ctx, cancel := context.WithCancel(testContext(t))
		failed := make(chan error, 1)
		go func() { // cancel ends it
			_, err := n.LookupHost(ctx, "db.example.")
			failed <- err
		}()
		waitFor(t, "the questions", func() bool { return len(s.questions()) >= before+2 })
		start := time.Now()
		cancel()
		err := <-failed
		best = min(best, time.Since(start))
		var dns *net.DNSError
		if !errors.Is(err, context.Canceled) || !errors.As(err, &dns) {
			t.Errorf("got %v", err)
		}
	}
	if best > 50*time.Millisecond {
		t.Errorf("a cancelled look-up returned after %v", best)
	}
}

// A server that does not answer, behind a tunnel that is up.
func TestLookupSilentServer(t *testing.T) {
	n, _ := newDNS(t, map[string][]string{"A db.example.": {"silence"}}, nil)
	if err := n.WaitPeer(testContext(t), n.PublicKey()); err == nil {
		t.Error("WaitPeer for ourselves")
	}
	if _, err := n.LookupHost(testContext(t), "none.example"); err == nil { // brings the tunnel up
		t.Error("found none.example")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	_, err := n.LookupNetIP(ctx, "ip4", "db.example")
	checkTimeout(t, err)
	const want = "lookup db.example on 10.0.0.2:53: i/o timeout: the tunnel to peer up is up (last handshake 0s ago), 10.0.0.2 does not answer"
	if got := secondsAgo.ReplaceAllString(fmt.Sprint(err), "0s ago"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// fault 62: the host's files and its resolver have no say, and no question leaves but through the tunnel.
func TestLookupIgnoresTheHost(t *testing.T) {
	name := hostsName(t)
	n, s := newDNS(t, nil, nil)
	addrs, err := n.LookupHost(testContext(t), name)
	var failed *net.DNSError
	if !errors.As(err, &failed) || !failed.IsNotFound {
		t.Errorf("%s is in the host's file only: got %v, %v", name, addrs, err)
	}
	if asked := s.questions(); !slices.Contains(asked, "udp A "+strings.ToLower(name)+".") {
		t.Errorf("the tunnel's server was asked %q", asked)
	}
	if _, err := n.DialContext(testContext(t), "tcp", name+":1"); !errors.As(err, &failed) {
		t.Errorf("dial %s: got %v", name, err)
	}

	// A server at the loopback is the Net's own, not the machine's.
	n, _ = newDNS(t, nil, func(cfg *wgnet.Config) { cfg.DNS = []netip.Addr{netip.MustParseAddr("127.0.0.1")} })
	if _, err := n.LookupHost(testContext(t), "db.example"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a server on our own loopback: got %v", err)
	}
	// A server that no peer serves is not asked by other ways.
	n, _ = newDNS(t, nil, func(cfg *wgnet.Config) { cfg.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.53")} })
	if _, err := n.LookupHost(testContext(t), "db.example"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("a server without a route: got %v", err)
	}
}

// hostsName finds a name that the machine's hosts file knows.
func hostsName(t *testing.T) string {
	f, err := os.Open("/etc/hosts")
	if err != nil {
		t.Skip("no hosts file here: ", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		for i, field := range strings.Fields(line) {
			if i > 0 && !strings.HasPrefix(field, "local") && !strings.HasPrefix(field, "ip6-") && !strings.HasSuffix(field, ".localdomain") {
				return field
			}
		}
	}
	t.Skip("the hosts file names nobody but localhost")
	return ""
}

// A name that DNS knows is dialed.
func TestDialDNSName(t *testing.T) {
	n, _ := newDNS(t, map[string][]string{
		"A db.example.":    {"192.0.2.1", "10.0.0.2"}, // no peer serves the first one
		"AAAA db.example.": {"fd00::2"},               // refuses
	}, nil)
	c, err := n.DialContext(testContext(t), "tcp", "db.example:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "10.0.0.2:53" {
		t.Errorf("connected to %s", got)
	}
}
