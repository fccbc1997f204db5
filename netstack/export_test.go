// SPDX-License-Identifier: MIT

package netstack

import (
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// What tests outside of the package may see of it.

const (
	MaxTimeWait        = maxTimeWait
	MaxClosing         = maxClosing
	MaxDatagramPackets = maxDatagramPackets
	MaxControlPackets  = maxControlPackets
	MaxAckPackets      = maxAckPackets
	MaxHeld            = maxHeld
	KeepaliveIdle      = keepaliveIdle
	KeepaliveInterval  = keepaliveInterval
	KeepaliveCount     = keepaliveCount
)

// Endpoints counts the sockets that gVisor knows of, half-closed ones included.
func (s *Stack) Endpoints() int { return len(s.stack.RegisteredEndpoints()) }

// TimeWait counts the connections in TIME_WAIT.
func (s *Stack) TimeWait() int {
	n := 0
	for _, ep := range s.stack.RegisteredEndpoints() {
		if ep, ok := ep.(*tcp.Endpoint); ok && ep.EndpointState() == tcp.StateTimeWait {
			n++
		}
	}
	return n
}

// PendingDials counts the dials and pings that wait.
func (s *Stack) PendingDials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dials)
}

// SetPortRange narrows the ephemeral ports.
func (s *Stack) SetPortRange(first, last uint16) {
	if err := s.stack.SetPortRange(first, last); err != nil {
		panic(err.String())
	}
}

// LinkQueue is the state of the link's queue.
type LinkQueue struct {
	Stream, Datagram, Ack, Control int
	Forwarded                      int
	Dropped                        uint64
	Waiting                        bool // a writer waits for room
}

func (s *Stack) LinkQueue() LinkQueue {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := false
	var c [classes]int
	for _, q := range l.queues {
		waiting = waiting || q.room != nil
		for class, n := range q.counts {
			c[class] += n
		}
	}
	return LinkQueue{c[classStream], c[classDatagram], c[classAck], c[classControl], c[classForwarded], l.dropped, waiting}
}

// SendRST puts an empty segment with the RST flag into the link's queue, as gVisor does.
func (s *Stack) SendRST() error {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: header.IPv4MinimumSize + header.TCPMinimumSize})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	h := header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize))
	h.Encode(&header.TCPFields{DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagRst})
	pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	ip := header.IPv4(pkt.NetworkHeader().Push(header.IPv4MinimumSize))
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(pkt.Size()), Protocol: uint8(header.TCPProtocolNumber), TTL: 64})
	var list stack.PacketBufferList
	list.PushBack(pkt)
	if _, err := s.link.WritePackets(list); err != nil {
		return sysError("write", err)
	}
	return nil
}

// Keepalive returns the connection's keepalive settings as gVisor holds them.
func (c *TCPConn) Keepalive() (on bool, idle, interval string, count int) {
	i, v, n := keepaliveOf(c.ep)
	return c.ep.SocketOptions().GetKeepAlive(), i.String(), v.String(), n
}

// NoDelay says whether Nagle's algorithm is off.
func (c *TCPConn) NoDelay() bool { return !c.ep.SocketOptions().GetDelayOption() }

// SetTimeWait shortens TIME_WAIT.
func (s *Stack) SetTimeWait(d time.Duration) {
	opt := tcpip.TCPTimeWaitTimeoutOption(d)
	if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &opt); err != nil {
		panic(err.String())
	}
}

// MaxBuffers are the bounds of the auto-tuning of TCP's buffers.
func (s *Stack) MaxBuffers() (send, receive int) {
	var sendRange tcpip.TCPSendBufferSizeRangeOption
	var receiveRange tcpip.TCPReceiveBufferSizeRangeOption
	for _, opt := range []tcpip.GettableTransportProtocolOption{&sendRange, &receiveRange} {
		if err := s.stack.TransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			panic(err.String())
		}
	}
	return sendRange.Max, receiveRange.Max
}

// Buffers are the sizes of the connection's buffers now.
func (c *TCPConn) Buffers() (send, receive int64) {
	o := c.ep.SocketOptions()
	return o.GetSendBufferSize(), o.GetReceiveBufferSize()
}

// SetFlowLimits lowers the bounds of flows: in all, of a peer, undecided ones in all and of a peer, and what is spared.
func (s *Stack) SetFlowLimits(flows, peerFlows, undecided, peerUndecided, spared int) {
	l := &s.transit.limits
	l.flows, l.peerFlows, l.undecided, l.peerUndecided, l.spared = flows, peerFlows, undecided, peerUndecided, spared
}

// SetBacklog lowers the bound of the connections that wait to be accepted.
func (l *TCPListener) SetBacklog(n int) {
	if err := l.ep.Listen(n); err != nil {
		panic(err.String())
	}
}

// SetPeerBuffered lowers the bound of what waits in a peer's flows, in bytes.
func (s *Stack) SetPeerBuffered(n int64) { s.transit.limits.peerBuffered = n }

// ExpireFlows does what happens when so much time has passed without a packet.
func (s *Stack) ExpireFlows(after time.Duration) { s.transit.expire(s.transit.now() + after) }

// AgeFlows lets time go by for flows.
func (s *Stack) AgeFlows(d time.Duration) {
	t := s.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin = t.begin.Add(-d)
}

// TransitEndpoints counts the TCP endpoints of the second stack.
func (s *Stack) TransitEndpoints() int {
	if tcp := s.transit.tcpStack(); tcp != nil {
		return len(tcp.RegisteredEndpoints())
	}
	return 0
}

// FlowTable counts the entries of the tables of flows, and what their lists hold.
func (s *Stack) FlowTable() (keys, idle, undecided int, buffered int64) {
	t := s.transit
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		buffered += p.buffered.Load()
		idle += p.idle.Len()
	}
	return len(t.flows), idle, t.undecided, buffered
}

const (
	UndecidedTimeout   = undecidedTimeout
	UDPTimeout         = udpTimeout
	PingTimeout        = pingTimeout
	TransitoryTimeout  = transitoryTimeout
	EstablishedTimeout = establishedTimeout
	ErrorBurst         = errorBurst
	MaxForwarded       = maxForwardedPackets
	MaxFlowBuffered    = maxFlowBuffered
	HeldPackets        = heldPackets
)

// LockEndpoint takes gVisor's lock of the connection, once that is in TIME_WAIT. It reports false if it is not.
func (c *TCPConn) LockEndpoint() (unlock func(), ok bool) {
	ep := c.ep.(*tcp.Endpoint)
	if ep.EndpointState() != tcp.StateTimeWait {
		return nil, false
	}
	ep.LockUser()
	return ep.UnlockUser, true
}

// Revived counts the retransmission timers that gVisor had not armed.
func (s *Stack) Revived() uint64 { return s.senders.revived.Load() }

// KnowsSender says whether gVisor's private fields are those that the watch over senders looks at.
func KnowsSender() bool { return senderFields() != nil }

// SegmentSize is the bound of the connection's segments now, in bytes.
func (c *TCPConn) SegmentSize() int {
	ep := c.ep.(*tcp.Endpoint)
	ep.LockUser()
	defer ep.UnlockUser()
	return int(*field[uint32](unsafe.Pointer(ep), senderFields().segment))
}
