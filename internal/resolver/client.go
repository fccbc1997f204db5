// SPDX-License-Identifier: MIT

// Package resolver is a DNS stub resolver that asks the servers it is given, through the dialer it is given, and
// nothing else. net.Resolver with a Dial of our own would still answer from the host's /etc/hosts and obey its
// resolv.conf, so a name could be answered, or completed, from outside of the tunnel; this package reads no file and
// no environment.
//
// Results and errors are those of [net.Resolver]: the same signatures, and every error is a *[net.DNSError].
package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// What the zero values of a Client's fields mean: the defaults of resolv.conf(5), which people know.
const (
	defaultTimeout  = 5 * time.Second
	defaultAttempts = 2
	defaultNdots    = 1
	defaultPort     = 53
)

// Client looks names up. It keeps no state between lookups and caches nothing, so it is safe for concurrent use as
// long as nobody changes its fields.
type Client struct {
	// Dial opens a conn to a server. Network is "udp" or "tcp", address a literal IP and port. A "udp" conn must be
	// connected: it delivers the server's datagrams alone, one for each Read, from a random local port (RFC 5452
	// section 9.2). Dial must return soon after its context is done, and the conn's Close must end a blocked Read or
	// Write. Required.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Servers are recursive resolvers, asked in this order: the next one when one does not answer or has nothing to
	// say. A port of 0 means 53. With none, every lookup that needs a server fails with an error that says so.
	Servers []netip.AddrPort

	// Search are the domains that complete a name without a final dot, with or without a final dot of their own.
	Search []string

	// Ndots is how many dots a name needs to be tried as it stands before the search domains are. 0 means 1.
	Ndots int

	// Timeout bounds one exchange with one server. 0 means 5 seconds.
	Timeout time.Duration

	// Attempts is how often each server is asked before the lookup fails. 0 means 2.
	Attempts int

	// ResolutionDelay is how much longer a lookup for network "ip" waits for IPv6 addresses once it has IPv4 ones: for
	// who dials, since there are servers that never answer to AAAA (RFC 8305 section 3, which says 50 ms). 0 means as
	// long as it takes.
	ResolutionDelay time.Duration
}

// LookupNetIP returns host's addresses: network "ip" asks for both families, "ip4" and "ip6" for one. IPv6 addresses
// come first, each family in the server's order; whoever dials leaves out what it has no source address for.
// A literal address is its own answer, and localhost is 127.0.0.1 and ::1 (RFC 6761 section 6.3); neither asks a server.
//
// The error is a *[net.DNSError]; when ctx ends the lookup, it unwraps to ctx's error and cause.
func (c *Client) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	types, ok := map[string][]dnsmessage.Type{
		"ip":  {dnsmessage.TypeAAAA, dnsmessage.TypeA},
		"ip4": {dnsmessage.TypeA},
		"ip6": {dnsmessage.TypeAAAA},
	}[network]
	if !ok {
		err := net.UnknownNetworkError(network)
		return nil, &net.DNSError{UnwrapErr: err, Err: err.Error() + `: want "ip", "ip4" or "ip6"`, Name: host}
	}

	var addrs []netip.Addr
	if literal, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{literal.Unmap()}
	} else if isUnder(host, "localhost") {
		// IPv4 first: what listens on one loopback address alone mostly listens on this one.
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	if addrs != nil {
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
			return network == "ip4" && !a.Is4() || network == "ip6" && !a.Is6()
		})
		if len(addrs) == 0 {
			return nil, &net.DNSError{Err: "no suitable address found", Name: host, IsNotFound: true}
		}
		return addrs, nil
	}

	answers, err := c.lookup(ctx, host, types...)
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		for _, body := range a.bodies {
			switch body := body.(type) {
			case *dnsmessage.AResource:
				addrs = append(addrs, netip.AddrFrom4(body.A))
			case *dnsmessage.AAAAResource:
				addrs = append(addrs, netip.AddrFrom16(body.AAAA))
			}
		}
	}
	return addrs, nil
}

// LookupHost is LookupNetIP of both families as strings; a literal address comes back as it was written.
func (c *Client) LookupHost(ctx context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	addrs, err := c.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	hosts := make([]string, len(addrs))
	for i, a := range addrs {
		hosts[i] = a.String()
	}
	return hosts, nil
}

// LookupTXT returns name's TXT records, the strings of each record joined. Errors are as LookupNetIP's.
func (c *Client) LookupTXT(ctx context.Context, name string) ([]string, error) {
	answers, err := c.lookup(ctx, name, dnsmessage.TypeTXT)
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, a := range answers {
		for _, body := range a.bodies {
			if txt, ok := body.(*dnsmessage.TXTResource); ok {
				texts = append(texts, strings.Join(txt.TXT, ""))
			}
		}
	}
	return texts, nil
}

// LookupSRV returns the servers of a service by priority, and within one priority shuffled by weight (RFC 2782),
// with the name that owns the records. It asks for _service._proto.name, or for name as it stands if service and
// proto are empty. Records whose target is no domain name are left out, and an error comes beside the others.
// Errors are as LookupNetIP's.
func (c *Client) LookupSRV(
	ctx context.Context, service, proto, name string,
) (cname string, addrs []*net.SRV, err error) {
	owner := name
	if service != "" || proto != "" {
		owner = "_" + service + "._" + proto + "." + name
	}
	answers, err := c.lookup(ctx, owner, dnsmessage.TypeSRV)
	if err != nil {
		return "", nil, err
	}
	malformed := false
	for _, a := range answers {
		cname = a.owner
		for _, body := range a.bodies {
			srv, ok := body.(*dnsmessage.SRVResource)
			if !ok {
				continue
			}
			target := srv.Target.String()
			if !isDomainName(target) {
				malformed = true
				continue
			}
			addrs = append(addrs, &net.SRV{Target: target, Port: srv.Port, Priority: srv.Priority, Weight: srv.Weight})
		}
	}
	sortSRV(addrs)
	if malformed {
		err = &net.DNSError{Err: "DNS response contained records which contain invalid names", Name: name}
	}
	return cname, addrs, err
}

// lookup asks for one name and returns what the types have, in the order of types, under the first of the name's
// candidates that has anything. The error is a *net.DNSError, or nil.
func (c *Client) lookup(ctx context.Context, name string, types ...dnsmessage.Type) ([]answer, error) {
	notFound := &net.DNSError{Err: noSuchHost, Name: name, IsNotFound: true}
	if name == "" || neverAsked(name) {
		return nil, notFound
	}
	if len(c.Servers) == 0 {
		return nil, &net.DNSError{Err: "no DNS server is configured: set DNS in the tunnel's configuration", Name: name}
	}
	if ctx.Err() != nil {
		err := contextError(ctx, "")
		err.Name = name
		return nil, err
	}

	err := notFound
	for i, candidate := range c.candidates(name) {
		answers, failed, silent := c.queryAll(ctx, candidate, types)
		if len(answers) > 0 {
			return answers, nil
		}
		// The error for the name as it was asked tells a person more than one for a completed name.
		if i == 0 || silent || candidate == name+"." {
			err = failed
		}
		// The same servers would stay silent as long again for the next name.
		if silent {
			break
		}
	}
	// The name that was asked, not the one that a search domain completed.
	err.Name = name
	return nil, err
}

// queryAll asks for all types of one rooted name at once. Without any answer it returns the error that matters most,
// and whether no server answered at all or ctx ended.
func (c *Client) queryAll(ctx context.Context, name string, types []dnsmessage.Type) ([]answer, *net.DNSError, bool) {
	results := make([]answer, len(types))
	errs := make([]*net.DNSError, len(types))
	var wg sync.WaitGroup
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	for i, t := range types {
		// Ends when its query does, at the latest soon after ctx is done; waited for right here.
		wg.Go(func() {
			results[i], errs[i] = c.query(ctx, name, t)
			if errs[i] == nil && t == dnsmessage.TypeA && c.ResolutionDelay > 0 {
				time.AfterFunc(c.ResolutionDelay, enough) // of no effect when all queries have ended
			}
		})
	}
	wg.Wait()

	var answers []answer
	var worst *net.DNSError
	silent := true
	for i, err := range errs {
		if err == nil {
			answers = append(answers, results[i])
			continue
		}
		silent = silent && isSilence(err)
		// "Not found" only if every type says so: a name of which we know half is not known to be missing.
		if worst == nil || worst.IsNotFound {
			worst = err
		}
	}
	if len(answers) == 0 && ctx.Err() != nil {
		return nil, contextError(ctx, worst.Server), true
	}
	return answers, worst, silent
}

// isSilence reports whether err is of the transport or of ctx, not a server's answer: only those wrap a cause.
func isSilence(err *net.DNSError) bool { return err.UnwrapErr != nil }

// query asks the servers in turn for one type of one rooted name, until one of them knows.
func (c *Client) query(ctx context.Context, name string, t dnsmessage.Type) (answer, *net.DNSError) {
	packed, err := dnsmessage.NewName(name)
	if err != nil {
		return answer{}, &net.DNSError{Err: noSuchHost, IsNotFound: true}
	}
	q := dnsmessage.Question{Name: packed, Type: t, Class: dnsmessage.ClassINET}

	var last *net.DNSError
	for range orDefault(c.Attempts, defaultAttempts) {
		for _, server := range c.Servers {
			if server.Port() == 0 {
				server = netip.AddrPortFrom(server.Addr(), defaultPort)
			}
			var found answer
			response, err := c.exchange(ctx, server, q)
			if err != nil {
				last = transportError(ctx, err)
			} else if found, last = response.answer(q); last == nil {
				return found, nil
			}
			last.Server = server.String()
			// A server that knows the name and has nothing speaks for the next one too (RFC 2308 section 2).
			if last.IsNotFound || ctx.Err() != nil {
				return answer{}, last
			}
		}
	}
	return answer{}, last
}

// contextError is the error of a lookup that ctx ended while it asked server, in the net package's words.
func contextError(ctx context.Context, server string) *net.DNSError {
	e := &net.DNSError{Err: "operation was canceled", UnwrapErr: ctx.Err(), Server: server}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Err = "i/o timeout"
		e.IsTimeout, e.IsTemporary = true, true
		e.UnwrapErr = errors.Join(ctx.Err(), os.ErrDeadlineExceeded)
	}
	if cause := context.Cause(ctx); cause != ctx.Err() {
		// Whoever ended ctx said why: net.ErrClosed, for example.
		e.Err = cause.Error()
		e.UnwrapErr = errors.Join(e.UnwrapErr, cause)
	}
	return e
}

// transportError is the error of one exchange that brought no answer.
func transportError(ctx context.Context, err error) *net.DNSError {
	if ctx.Err() != nil {
		return contextError(ctx, "")
	}
	e := &net.DNSError{Err: err.Error(), UnwrapErr: err, IsTemporary: true}
	if errors.Is(err, context.DeadlineExceeded) {
		// The dialer's context had the exchange's timeout, and ctx goes on.
		e.UnwrapErr = os.ErrDeadlineExceeded
	}
	var timeout net.Error
	e.IsTimeout = errors.As(e.UnwrapErr, &timeout) && timeout.Timeout()
	return e
}

// orDefault returns v, or fallback if v is not positive.
func orDefault[T int | time.Duration](v, fallback T) T {
	if v <= 0 {
		return fallback
	}
	return v
}
