// SPDX-License-Identifier: MIT

package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxMessage is the largest DNS message: over TCP its length has 16 bits (RFC 1035 section 4.2.2).
	maxMessage = 65535
	// udpPayload is the size that we offer by EDNS0 (RFC 6891 section 6.2.3). 1,232 octets pass any IPv6 path in one
	// piece: the least MTU of 1,280 less 48 of headers.
	udpPayload = 1232
	// maxRecords bounds the records of one answer: as many as a full message holds of the smallest useful kind,
	// A records of 16 octets.
	maxRecords = maxMessage / 16
	// maxAliases bounds the CNAME records from the name that was asked to the one that has the records.
	maxAliases = 16
)

const noSuchHost = "no such host"

// newQuery packs one question. With edns it offers udpPayload.
func newQuery(id uint16, q dnsmessage.Question, edns bool) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q},
	}
	if edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(udpPayload, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		m.Additionals = append(m.Additionals, opt)
	}
	return m.Pack()
}

// response is a message that answers our question; body stands at its answer section.
type response struct {
	header dnsmessage.Header
	body   dnsmessage.Parser
}

// parseResponse reports whether msg answers the question q that was sent under id, by the rules of RFC 5452 section
// 9.1 (the source is the conn's affair). What fails here may be a forgery and says nothing about the server.
func parseResponse(msg []byte, id uint16, q dnsmessage.Question) (response, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != 0 {
		return response{}, false
	}
	got, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) && refusesEDNS(h.RCode) {
		// A server too old for EDNS0 may not have read as far as the question.
		return response{h, p}, true
	}
	if err != nil || got.Type != q.Type || got.Class != q.Class || lower(got.Name.String()) != lower(q.Name.String()) {
		return response{}, false
	}
	if err := p.SkipQuestion(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return response{}, false
	}
	return response{h, p}, true
}

// refusesEDNS reports whether the code is one with which a server refuses an OPT record that it does not know (RFC
// 6891 section 7).
func refusesEDNS(code dnsmessage.RCode) bool {
	return code == dnsmessage.RCodeFormatError || code == dnsmessage.RCodeNotImplemented
}

// answer is what a response says about our question: the records of the type that was asked, and who owns them.
type answer struct {
	owner  string
	bodies []dnsmessage.ResourceBody
}

// answer finds the records that belong to q: those of the name at the end of the chain of CNAME records that begins
// with q's (RFC 1034 section 3.6.2), in whatever order they come. Other records are none of our business; to believe
// them would let a server's answer for one name speak for another. The error has neither Name nor Server yet.
func (r response) answer(q dnsmessage.Question) (answer, *net.DNSError) {
	switch code := r.rcode(); code {
	case dnsmessage.RCodeSuccess:
	case dnsmessage.RCodeNameError:
		return answer{}, &net.DNSError{Err: noSuchHost, IsNotFound: true}
	default:
		text := "server misbehaving: it answered " + rcodeName(code)
		return answer{}, &net.DNSError{Err: text, IsTemporary: code == dnsmessage.RCodeServerFailure}
	}

	aliases := map[string]dnsmessage.Name{}
	found := map[string][]dnsmessage.ResourceBody{}
	malformed := &net.DNSError{Err: "cannot unmarshal DNS message"}
	p := r.body
	for n := 0; ; n++ {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			if n == 0 && r.isLame() {
				return answer{}, &net.DNSError{Err: "lame referral"}
			}
			break
		}
		if err != nil || n == maxRecords {
			return answer{}, malformed
		}
		if h.Class != dnsmessage.ClassINET || h.Type != q.Type && h.Type != dnsmessage.TypeCNAME {
			if err := p.SkipAnswer(); err != nil {
				return answer{}, malformed
			}
			continue
		}
		record, err := p.Answer()
		if err != nil {
			return answer{}, malformed
		}
		owner := lower(h.Name.String())
		switch body := record.Body.(type) {
		case *dnsmessage.CNAMEResource:
			if _, ok := aliases[owner]; !ok {
				aliases[owner] = body.CNAME
			}
			continue
		case *dnsmessage.AResource:
			if h.Length != 4 {
				return answer{}, malformed
			}
		case *dnsmessage.AAAAResource:
			if h.Length != 16 {
				return answer{}, malformed
			}
			if netip.AddrFrom16(body.AAAA).Is4In6() {
				// Not an address of any host on any wire (RFC 4038 section 4.2).
				continue
			}
		}
		found[owner] = append(found[owner], record.Body)
	}

	owner := q.Name
	for range maxAliases {
		next, ok := aliases[lower(owner.String())]
		if !ok {
			break
		}
		owner = next
	}
	bodies := found[lower(owner.String())]
	if len(bodies) == 0 {
		return answer{}, &net.DNSError{Err: noSuchHost, IsNotFound: true}
	}
	return answer{owner.String(), bodies}, nil
}

// rcode is the response's code with the upper bits of an OPT record, if it has one that can be read (RFC 6891 section
// 6.1.3). What comes after the answers need not be whole: servers that cut a message short spoil that part first.
func (r response) rcode() dnsmessage.RCode {
	p := r.body
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return r.header.RCode
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return r.header.RCode
		}
		if h.Type == dnsmessage.TypeOPT {
			return h.ExtendedRCode(r.header.RCode)
		}
		if p.SkipAdditional() != nil {
			return r.header.RCode
		}
	}
}

// isLame reports whether a response without answers comes from a server that neither knows nor asks on our behalf. A
// SOA record would make it a proper "no data" (RFC 2308 section 2.2).
func (r response) isLame() bool {
	if r.header.Authoritative || r.header.RecursionAvailable {
		return false
	}
	p := r.body
	if p.SkipAllAnswers() != nil {
		return true
	}
	for {
		h, err := p.AuthorityHeader()
		if err != nil {
			return true
		}
		if h.Type == dnsmessage.TypeSOA {
			return false
		}
		if p.SkipAuthority() != nil {
			return true
		}
	}
}

// rcodeName is the code as dig prints it.
func rcodeName(code dnsmessage.RCode) string {
	switch code {
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return fmt.Sprintf("code %d", code)
}
