// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	echoWait      = 10 * time.Second // for an answer, as ping(8) waits
	maxEchoes     = 16384            // that wait for an answer, in each family; further ones take the place of the oldest
	maxPeerEchoes = 1024             // of one peer; further ones are lost
	maxReplies    = 16               // that wait to be written to one flow; further ones are lost
	probePort     = 9                // discard: nothing is sent to it

	icmpProtocol4 = 1  // RFC 792
	icmpProtocol6 = 58 // RFC 4443
)

// servePing sends the peer's echo requests by the socket that all share, and its replies back. A host that does not
// answer is not answered for. It returns why the flow ended.
func (g *Gateway) servePing(f *flow) error {
	// A UDP socket finds out whether there is a way at all, and applies the policy to it. It sends nothing.
	probe, err := g.dial(f, networkUDP, netip.AddrPortFrom(f.dst.Addr(), probePort))
	if err != nil {
		return g.turnAway(f, err)
	}
	probe.Close()
	p := &g.pingers[0]
	if f.dst.Addr().Is6() {
		p = &g.pingers[1]
	}
	if err := p.open(); err != nil {
		f.count(func(c *counters) { c.failed.Add(1) })
		f.Refuse(syscall.EACCES)
		return err
	}
	inside, err := g.accept(f)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(f.ctx, func() { inside.Close() })
	defer stop()
	defer inside.Close()
	replies := make(chan []byte, maxReplies)
	told := refusals{flow: f}
	var back sync.WaitGroup
	back.Go(func() { // ends with f
		for {
			select {
			case b := <-replies:
				switch _, err := inside.Write(b); {
				case err == nil:
					f.moved(false, len(b)-2)
				case !lost(err) && refusal(err) == nil:
					f.end(err)
					return
				}
			case <-f.ctx.Done():
				return
			}
		}
	})
	f.end(readMessages(inside, func(b []byte) error {
		if len(b) < 2 || !g.verdict(&f.request).allowed {
			return nil
		}
		told.row.Store(0)
		f.moved(true, len(b)-2)
		return p.send(&told, replies, binary.BigEndian.Uint16(b), b[2:])
	}, told.again))
	back.Wait()
	return context.Cause(f.ctx)
}

// An echo is a request that waits for its reply.
type echo struct {
	peer    string
	replies chan<- []byte
	dst     netip.Addr
	theirs  uint16 // the peer's sequence number
	sent    time.Time
}

// A pinger has the socket for the echo requests of one family. All peers share it, so requests get sequence numbers of
// our own, and a reply belongs to who sent the request with its number to its source.
type pinger struct {
	gateway *Gateway
	v6      bool
	id      uint16         // of our requests, where the system does not choose it
	reading sync.WaitGroup // the reader
	told    atomic.Bool    // that there is no socket

	mu     sync.Mutex // guards what follows
	conn   net.PacketConn
	raw    bool // conn is a raw socket
	closed bool
	next   uint16
	oldest uint16           // the requests that wait are among oldest to next-1
	echoes map[uint16]*echo // by our number
	ofPeer map[string]int   // how many of them are a peer's
}

func (p *pinger) init(g *Gateway, v6 bool) {
	p.gateway, p.v6, p.id = g, v6, uint16(rand.Uint32())
	p.echoes, p.ofPeer = map[uint16]*echo{}, map[string]int{}
}

// open opens the socket if there is none. That it cannot is said once. No lock is held in the user's code, so two may open
// one at a time: the first stays.
func (p *pinger) open() error {
	p.mu.Lock()
	have, closed := p.conn != nil, p.closed
	p.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case have:
		return nil
	}
	cfg := &p.gateway.cfg
	raw := false
	conn, err := listenPing(p.v6, cfg.Control)
	if err != nil && cfg.RawPing {
		raw = true
		var rawErr error
		if conn, rawErr = listenRawPing(p.v6, cfg.Control); rawErr != nil {
			err = errors.Join(err, rawErr)
		} else {
			err = nil
		}
	}
	if err != nil {
		if !p.told.Swap(true) {
			p.gateway.log.LogAttrs(context.Background(), slog.LevelWarn, "pings are refused: this host gives no socket for them. "+
				"On Linux, have net.ipv4.ping_group_range include a group of this process, which is for IPv6 too; "+
				"or set RawPing and give the process the capability CAP_NET_RAW", slog.Bool("ipv6", p.v6), slog.Any("error", err))
		}
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil || p.closed {
		return conn.Close()
	}
	p.conn, p.raw = conn, raw
	p.reading.Go(func() { p.read(conn) }) // ends when conn is closed
	return nil
}

func (p *pinger) close() {
	p.mu.Lock()
	p.closed = true
	if p.conn != nil {
		p.conn.Close()
	}
	p.mu.Unlock()
	p.reading.Wait()
}

// send sends a request of a flow. Only an error that ends the flow is returned; that there is no way is told to the peer.
func (p *pinger) send(told *refusals, replies chan<- []byte, seq uint16, data []byte) error {
	f := told.flow
	if err := p.open(); err != nil { // the socket may have broken
		return err
	}
	dst := f.dst.Addr()
	p.mu.Lock()
	ours, ok := p.add(&echo{peer: f.peer.id, replies: replies, dst: dst, theirs: seq, sent: time.Now()})
	conn, raw := p.conn, p.raw
	p.mu.Unlock()
	if !ok || conn == nil {
		return nil
	}
	request, err := (&icmp.Message{Type: p.request(), Body: &icmp.Echo{ID: int(p.id), Seq: int(ours), Data: data}}).Marshal(nil)
	if err != nil {
		return err
	}
	var to net.Addr = &net.UDPAddr{IP: dst.AsSlice()}
	if raw {
		to = &net.IPAddr{IP: dst.AsSlice()}
	}
	if _, err = conn.WriteTo(request, to); err != nil {
		p.mu.Lock()
		p.take(ours)
		p.mu.Unlock()
		if !told.pass(err) {
			p.gateway.failed.log(p.gateway.log, slog.LevelDebug, "ping not sent", &f.request, slog.Any("error", err))
		}
	}
	return nil
}

func (p *pinger) request() icmp.Type {
	if p.v6 {
		return ipv6.ICMPTypeEchoRequest
	}
	return ipv4.ICMPTypeEcho
}

// add gives a request a number. The caller holds mu, as for take.
func (p *pinger) add(e *echo) (seq uint16, ok bool) {
	for p.oldest != p.next { // forget what has waited for too long, or stands in the way
		old := p.echoes[p.oldest]
		if old != nil && len(p.echoes) < maxEchoes && e.sent.Sub(old.sent) < echoWait && p.next+1 != p.oldest {
			break
		}
		p.take(p.oldest)
		p.oldest++
	}
	if p.ofPeer[e.peer] >= maxPeerEchoes {
		return 0, false
	}
	seq = p.next
	p.next++
	p.echoes[seq] = e
	p.ofPeer[e.peer]++
	return seq, true
}

// take removes a request and returns it, or nil.
func (p *pinger) take(seq uint16) *echo {
	e := p.echoes[seq]
	if e == nil {
		return nil
	}
	delete(p.echoes, seq)
	if p.ofPeer[e.peer]--; p.ofPeer[e.peer] == 0 {
		delete(p.ofPeer, e.peer)
	}
	return e
}

// read passes replies on until the socket ends.
func (p *pinger) read(conn net.PacketConn) {
	var err error
	for {
		buf := datagrams.Get().(*[maxDatagram]byte)
		var n int
		var from net.Addr
		n, from, err = conn.ReadFrom(buf[:])
		if err == nil {
			p.reply(buf[:n], from)
		}
		datagrams.Put(buf)
		if err != nil && !lost(err) && refusal(err) == nil {
			break
		}
	}
	conn.Close()
	p.mu.Lock()
	p.conn = nil // the next request opens another one
	closed := p.closed
	p.mu.Unlock()
	if !closed {
		p.gateway.failed.log(p.gateway.log, slog.LevelWarn, "the socket for pings ended", nil, slog.Any("error", err))
	}
}

// reply gives a reply to who has asked for it.
func (p *pinger) reply(b []byte, from net.Addr) {
	id, seq, data, ok := parseReply(b, p.v6)
	if !ok {
		return
	}
	src := addrOf(from).WithZone("")
	p.mu.Lock()
	e := p.echoes[seq]
	if e == nil || e.dst != src || (p.raw || !systemPicksID) && id != p.id {
		p.mu.Unlock()
		return
	}
	p.take(seq)
	p.mu.Unlock()
	message := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(data)), e.theirs)
	select {
	case e.replies <- append(message, data...):
	default: // the flow is slow, or has ended
	}
}

// parseReply parses an echo reply.
func parseReply(b []byte, v6 bool) (id, seq uint16, data []byte, ok bool) {
	protocol, want := icmpProtocol4, icmp.Type(ipv4.ICMPTypeEchoReply)
	if v6 {
		protocol, want = icmpProtocol6, ipv6.ICMPTypeEchoReply
	} else if len(b) > 0 && b[0]>>4 == 4 {
		// Some systems leave the IP header where it was. No echo reply begins like one.
		h, err := icmp.ParseIPv4Header(b)
		if err != nil || h.Len > len(b) {
			return 0, 0, nil, false
		}
		b = b[h.Len:]
	}
	m, err := icmp.ParseMessage(protocol, b)
	if err != nil || m.Type != want || m.Code != 0 {
		return 0, 0, nil, false
	}
	e, isEcho := m.Body.(*icmp.Echo)
	if !isEcho {
		return 0, 0, nil, false
	}
	return uint16(e.ID), uint16(e.Seq), e.Data, true
}

// listenRawPing opens a socket that sees all ICMP packets of a family, which takes privileges.
func listenRawPing(v6 bool, control func(string, string, syscall.RawConn) error) (net.PacketConn, error) {
	network, address := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, address = "ip6:ipv6-icmp", "::"
	}
	l := net.ListenConfig{Control: control}
	return l.ListenPacket(context.Background(), network, address)
}
