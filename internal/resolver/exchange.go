// SPDX-License-Identifier: MIT

package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/dns/dnsmessage"
)

// maxForged bounds the datagrams of one exchange that do not answer our question. So many are an attack or a broken
// server, and the question goes over TCP, where guessing an ID does not help (RFC 5452 section 9.3 has the arithmetic).
const maxForged = 1024

var (
	errForged  = errors.New("too many datagrams that do not answer the question")
	errInvalid = errors.New("invalid DNS response")
)

// exchange asks one server one question: over UDP, then over TCP if the answer did not fit (RFC 7766 section 5), and
// once more without EDNS0 if the server does not know it (RFC 6891 section 6.2.2).
func (c *Client) exchange(ctx context.Context, server netip.AddrPort, q dnsmessage.Question) (response, error) {
	for edns := true; ; edns = false {
		r, err := c.roundTrip(ctx, "udp", server, q, edns)
		if errors.Is(err, errForged) || err == nil && r.header.Truncated {
			r, err = c.roundTrip(ctx, "tcp", server, q, edns)
		}
		if err != nil || !edns || !refusesEDNS(r.header.RCode) {
			return r, err
		}
	}
}

// roundTrip sends one query on a conn of its own and returns the answer. An error at the timeout wraps
// os.ErrDeadlineExceeded.
func (c *Client) roundTrip(
	ctx context.Context, network string, server netip.AddrPort, q dnsmessage.Question, edns bool,
) (response, error) {
	timeout := orDefault(c.Timeout, defaultTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	conn, err := c.Dial(ctx, network, server.String())
	if err != nil {
		return response{}, err
	}
	// A closed conn answers at once, whatever it makes of deadlines.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		close(closed)
	})
	defer func() {
		if stop() {
			conn.Close()
		} else {
			<-closed
		}
	}()

	r, err := converse(conn, network, q, edns)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %v: %w", timeout, os.ErrDeadlineExceeded)
	}
	return r, err
}

// converse writes the query and reads until there is an answer.
func converse(conn net.Conn, network string, q dnsmessage.Question, edns bool) (response, error) {
	// The ID is one half of what a forger has to guess, the port is the other (RFC 5452 section 9.2): it comes from
	// crypto/rand because that is the generator that promises not to be guessed.
	var random [2]byte
	rand.Read(random[:])
	id := binary.BigEndian.Uint16(random[:])
	query, err := newQuery(id, q, edns)
	if err != nil {
		return response{}, err
	}

	if network == "tcp" {
		// One write, so that the length does not travel in a segment of its own (RFC 7766 section 8).
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	}
	if _, err := conn.Write(query); err != nil {
		return response{}, err
	}

	if network == "tcp" {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return response{}, err
		}
		msg := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, msg); err != nil {
			return response{}, err
		}
		r, ok := parseResponse(msg, id, q)
		if !ok {
			return response{}, errInvalid
		}
		return r, nil
	}

	// Not udpPayload: a server may send more than it was offered.
	msg := make([]byte, maxMessage)
	for range maxForged {
		n, err := conn.Read(msg)
		if err != nil {
			return response{}, err
		}
		if r, ok := parseResponse(msg[:n], id, q); ok {
			return r, nil
		}
	}
	return response{}, errForged
}
