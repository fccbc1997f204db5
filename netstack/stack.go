// SPDX-License-Identifier: MIT

package netstack

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wgnet/internal/tcptune"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	// DefaultMTU fits into a path of 1,500 bytes with the outer headers of IPv6: 1500 - 40 - 8 - 32.
	DefaultMTU = 1420
	// MinMTU is the least that IPv4 hosts have to take (RFC 791, section 3.1); IPv6 needs MinMTU6.
	MinMTU = 576
	// MinMTU6 is the least MTU of a link that carries IPv6 (RFC 8200, section 5).
	MinMTU6 = 1280
	// MaxMTU keeps a packet with WireGuard's 32 bytes of header and tag inside of the largest datagram.
	MaxMTU = 65_507 - 32

	tunnelNIC   tcpip.NICID = 1
	loopbackNIC tcpip.NICID = 2
)

// Socket buffers: where TCP's auto-tuning starts and ends, and UDP's sizes. What comes while the program is kept from the
// processor is lost beyond UDP's receive buffer.
const (
	minBuffer     = 4 << 10
	defaultBuffer = 212 << 10
	udpSend       = 1 << 20
	udpReceive    = 4 << 20
	// maxBuffer bounds every buffer, and the growth of TCP's. gVisor offers half of a receive buffer as the window, and has
	// half of a send buffer in flight, so 1 Gbit/s over a round trip of 100 ms, 12.5 MB, needs twice that.
	maxBuffer = 32 << 20
)

// Config says what a [Stack] is to be.
type Config struct {
	// Addresses are the stack's own. The prefix length says which source address is used for a destination: that of
	// the prefix which contains it, else the first of its family. At least one is needed.
	Addresses []netip.Prefix
	// MTU is the size of the largest packet to and from the device in bytes. 0 means [DefaultMTU].
	MTU int
	// Silent, if not nil, is called when a peer has not answered for 500 ms: see [Stack.Resend]. It is called again
	// with growing pauses while packets to that peer go on unanswered, each time in a goroutine of its own for which
	// [Stack.Close] waits. It must not call Close.
	Silent func(PeerID)
	// NeedSession, if not nil, makes packets to a peer wait, at most 16 of them, until [Stack.SetSession] says that there
	// is a session with it, and for 90 s at most. It is called while packets wait, once a second for each peer and after
	// each SetSession, without a lock held, from the goroutine that reads the [Device].
	NeedSession func(PeerID)
	// Read, if not nil, is told how many packets to a peer a Device.Read returns. It must not block.
	Read func(peer PeerID, packets int)
	// MaxInFlight, if not 0, bounds the packets to each peer that Device.Read has returned and [Stack.Sent] was not told
	// of. A batch may pass it. In all there may be four times as many.
	MaxInFlight int
	// Unhandled, if not nil, is told of the first packet of a peer that is for an address which is not the stack's own,
	// while there is no handler for it: see [Stack.HandleFlows]. It must not block.
	Unhandled func(src PeerID, dst netip.Addr)
}

// Stack is a TCP/IP host inside the process. Its methods are safe for concurrent use.
type Stack struct {
	stack   *stack.Stack
	link    *link
	inbound inbound
	silence *silenceWatch
	senders *senderWatch
	transit *transit
	closing closingList
	taps    tapList

	own    atomic.Pointer[ownAddresses]
	routes atomic.Pointer[routeTable] // nil until the first SetRoutes: everything is peer 0's

	closeOnce sync.Once
	done      chan struct{} // closed when Close begins

	drainOnce sync.Once
	draining  chan struct{}          // closed when Drain begins
	drained   atomic.Bool            // by Drain, with everything delivered
	drainMu   sync.Mutex             // guards what follows, and is held during a look. Lock order: drainMu, transit.mu.
	waiting   map[*tcp.Endpoint]bool // what the last look of Drain has found
	lost      int                    // connections that have failed after the program had closed them

	addressMu sync.Mutex // held by SetAddresses. Lock order: addressMu, mu; moveMu, mu; moveMu, transit.mu.
	// moveMu is held while addresses change hands, from before the device knows of it until what was connected to them
	// has ended. Who pins a connection to a peer holds it for reading.
	moveMu sync.RWMutex
	moving atomic.Bool // moveMu is held, for who may not wait

	mu     sync.Mutex // guards what follows, and routes for those who write them
	dials  map[*pendingDial]struct{}
	claims map[*claim]struct{} // of the listeners
}

// pendingDial is a connection that is being made, which has to end when its route does.
type pendingDial struct {
	dst      netip.Addr
	lostOnce sync.Once
	lost     chan struct{} // closed when dst is not the same peer's any more
}

// New makes a stack. It fails if the configuration is not one that a host can have, and leaves nothing behind then.
func New(cfg Config) (*Stack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	own, err := newOwnAddresses(cfg.Addresses)
	if err != nil {
		return nil, err
	}
	least := MinMTU
	if own.first6.IsValid() {
		least = MinMTU6
	}
	if cfg.MTU < least || cfg.MTU > MaxMTU {
		return nil, fmt.Errorf("netstack: MTU %d, want %d to %d", cfg.MTU, least, MaxMTU)
	}

	quiet()
	s := &Stack{
		done: make(chan struct{}), draining: make(chan struct{}),
		dials: map[*pendingDial]struct{}{}, claims: map[*claim]struct{}{},
	}
	s.own.Store(own)
	s.inbound.own = &s.own
	s.silence = newSilenceWatch(&s.routes, cfg.Silent)
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true,
	})
	s.senders = newSenderWatch(s.endpoints)
	s.link = newLink(s, cfg)
	s.transit = newTransit(s, cfg)
	if err := s.setUp(own); err != nil {
		s.stack.Destroy()
		return nil, err
	}
	return s, nil
}

func (s *Stack) setUp(own *ownAddresses) error {
	if err := setOptions(s.stack); err != nil {
		return err
	}
	if err := s.stack.CreateNIC(tunnelNIC, s.link); err != nil {
		return fmt.Errorf("netstack: create the tunnel's interface: %v", err)
	}
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		ep, err := s.stack.GetNetworkEndpoint(tunnelNIC, proto)
		if err != nil {
			return fmt.Errorf("netstack: the tunnel's interface without protocol %d: %v", proto, err)
		}
		s.link.endpoints[proto] = ep
	}
	if err := s.stack.CreateNIC(loopbackNIC, loopback.New()); err != nil {
		return fmt.Errorf("netstack: create the loopback interface: %v", err)
	}
	for _, prefix := range own.prefixes {
		// No prefix length is given to gVisor: a subnet would have a broadcast address, which a tunnel has not.
		if err := s.addAddress(tunnelNIC, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen())); err != nil {
			return err
		}
	}
	for _, prefix := range []netip.Prefix{netip.PrefixFrom(loopback4, 8), netip.PrefixFrom(loopback6, 128)} {
		if err := s.addAddress(loopbackNIC, prefix); err != nil {
			return err
		}
	}
	s.stack.SetRouteTable(own.routeTable())
	return nil
}

func (s *Stack) addAddress(nic tcpip.NICID, prefix netip.Prefix) error {
	err := s.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol: protocolOf(prefix.Addr()),
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address:   gvisorAddr(prefix.Addr()),
			PrefixLen: prefix.Bits(),
		},
	}, stack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("netstack: add address %s: %v", prefix, err)
	}
	return nil
}

// setOptions makes a gVisor stack as we want it.
func setOptions(st *stack.Stack) error {
	tune := tcpSettings()
	sack := tcpip.TCPSACKEnabled(true)
	congestion := tcpip.CongestionControlOption(tune.Congestion)
	recovery := recoveryOption()
	// A port in TIME_WAIT may be taken again for a new connection after a second, as timestamps allow (RFC 6191);
	// else 49,536 connections to one address within a minute are all there can be.
	reuse := tcpip.TCPTimeWaitReuseGlobal
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: tune.MaxSend}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: defaultBuffer, Max: tune.MaxReceive}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &congestion, &recovery, &reuse, &moderate, &send, &receive} {
		if err := st.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("netstack: set TCP option %T: %v", opt, err)
		}
	}
	for _, opt := range []any{
		tcpip.SendBufferSizeOption{Min: minBuffer, Default: udpSend, Max: maxBuffer},
		tcpip.ReceiveBufferSizeOption{Min: minBuffer, Default: udpReceive, Max: maxBuffer},
	} {
		if err := st.SetOption(opt); err != nil {
			return fmt.Errorf("netstack: set option %T: %v", opt, err)
		}
	}
	return nil
}

// tcpSettings are the stack's choices, made from the tables in PERFORMANCE.md (go run ./internal/bench -weather), unless
// a new measurement wants others. SACK is always on: without it a round trip repairs one loss.
func tcpSettings() tcptune.Settings {
	tune := tcptune.Settings{Congestion: "reno", Recovery: "rack", MaxSend: maxBuffer, MaxReceive: maxBuffer}
	if other := tcptune.Override.Load(); other != nil {
		tune.Congestion = cmp.Or(other.Congestion, tune.Congestion)
		tune.Recovery = cmp.Or(other.Recovery, tune.Recovery)
		tune.MaxSend = cmp.Or(other.MaxSend, tune.MaxSend)
		tune.MaxReceive = cmp.Or(other.MaxReceive, tune.MaxReceive)
	}
	return tune
}

// recoveryOption is how TCP finds losses: by RACK, unless that is not wanted or its faults cannot be mended.
func recoveryOption() tcpip.TCPRecovery {
	if tcpSettings().Recovery == "sack" || senderFields() == nil {
		return 0
	}
	return tcpip.TCPRACKLossDetection
}

// Device returns a new facade for a WireGuard device: see [Device].
func (s *Stack) Device() *Device { return newDevice(s) }

// PeerFor returns the peer that serves addr. It reports false for the stack's own addresses, the loopback's, and
// those that no peer serves.
func (s *Stack) PeerFor(addr netip.Addr) (PeerID, bool) {
	addr = localHost(addr.Unmap().WithZone(""))
	if s.isLocal(addr) {
		return 0, false
	}
	return s.routes.Load().lookup(addr)
}

// Resend sends the first packets of conversations (SYN, echo request) that a peer has not answered again. It is
// for the moment in which a new session with a peer is up that was reported as silent, and had restarted.
func (s *Stack) Resend(peer PeerID) { s.link.resend(s.silence.take(peer)) }

// SetSession says until when the device has a session with a peer. The zero time means that there is none.
// It has an effect only if [Config.NeedSession] is set, and for a peer that has a route: [Stack.SetRoutes] forgets the others.
func (s *Stack) SetSession(peer PeerID, until time.Time) {
	s.link.setSession(peer, until.Sub(s.link.begin))
}

// PeerOf returns to whom a message goes that the WireGuard device has made of a packet of Device.Read, in the buffer that
// it has read it into. It needs [Config.MaxInFlight]: then Read leaves a mark in each buffer, behind the longest message
// that the MTU allows. It reports false for a message that is in no such buffer.
func (s *Stack) PeerOf(message []byte) (PeerID, bool) { return s.link.peerOf(message) }

// Sending says that packets to a peer that Device.Read had returned are about to be sent. A call of Sent has to follow it.
func (s *Stack) Sending(peer PeerID) { s.link.beginSend(peer) }

// Sent says that n of these packets have left, or more: see [Config.MaxInFlight]. What the device has dropped need not
// be told: after 5 ms in which nothing is sent to the peer, what is in flight to it is taken for lost.
func (s *Stack) Sent(peer PeerID, n int) { s.link.sent(peer, n) }

// Close ends the stack: its connections are aborted, its listeners closed, everything that waits returns
// [net.ErrClosed]. It returns when all goroutines of the stack have ended. It is idempotent and may be called at any
// moment. The other sides learn of it by the resets that the device still reads before it gets [os.ErrClosed]. After a
// [Stack.Drain] that delivered everything there is nothing to tell them.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() {
		close(s.done)
		s.silence.close()
		if s.drained.Load() {
			// Before the stack, whose resets would turn the orderly ends that the other sides have not read yet into errors.
			s.link.settle()
			s.link.close()
		}
		s.transit.close()
		s.stack.Close()
		if !s.drained.Load() {
			s.link.close()
		}
		s.stack.Wait()
		s.transit.wait()
		s.senders.close()
	})
	return nil
}

// isLocal says whether packets to addr stay inside of the stack.
func (s *Stack) isLocal(addr netip.Addr) bool {
	return addr.IsLoopback() || s.own.Load().has(addr)
}

// reachable says whether packets to addr have somewhere to go.
func (s *Stack) reachable(addr netip.Addr) bool {
	own := s.own.Load()
	if s.isLocal(addr) {
		return true
	}
	if !own.first(addr.Is4()).IsValid() {
		return false // without an address of its family there is no source
	}
	_, ok := s.routes.Load().lookup(addr)
	return ok && addr != broadcast4
}

// source6 returns the source address to bind before something is sent to dst. It reports false where gVisor finds
// the right one by itself: among IPv4 addresses by the routes' hints, and where there is only one.
func (s *Stack) source6(dst netip.Addr) (netip.Addr, bool) {
	own := s.own.Load()
	if dst.Is4() || own.count6 < 2 || s.isLocal(dst) {
		return netip.Addr{}, false
	}
	return own.source(dst), true
}

func (s *Stack) addDial(dst netip.Addr) *pendingDial {
	d := &pendingDial{dst: dst, lost: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials[d] = struct{}{}
	return d
}

func (s *Stack) removeDial(d *pendingDial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dials, d)
}

// ownAddresses are the stack's addresses, in the order given. It is immutable.
type ownAddresses struct {
	prefixes       []netip.Prefix
	set            map[netip.Addr]struct{}
	first4, first6 netip.Addr
	count6         int
}

func newOwnAddresses(prefixes []netip.Prefix) (*ownAddresses, error) {
	own := &ownAddresses{prefixes: slices.Clone(prefixes), set: map[netip.Addr]struct{}{}}
	for _, p := range prefixes {
		addr := p.Addr()
		switch {
		case !p.IsValid():
			return nil, errors.New("netstack: an address is not valid: want a unicast IPv4 or IPv6 address with a prefix length")
		case addr.Is4In6(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLoopback(), addr == broadcast4:
			return nil, fmt.Errorf("netstack: address %s is not one that a host can have: want a unicast IPv4 or IPv6 address", p)
		}
		own.set[addr] = struct{}{}
		if addr.Is4() && !own.first4.IsValid() {
			own.first4 = addr
		}
		if addr.Is6() {
			own.count6++
			if !own.first6.IsValid() {
				own.first6 = addr
			}
		}
	}
	if len(prefixes) == 0 {
		return nil, errors.New("netstack: no address: want at least one")
	}
	return own, nil
}

func (o *ownAddresses) has(addr netip.Addr) bool {
	_, ok := o.set[addr]
	return ok
}

func (o *ownAddresses) first(v4 bool) netip.Addr {
	if v4 {
		return o.first4
	}
	return o.first6
}

// source is the address to send to dst from: that of the longest prefix which contains dst, else the first one.
func (o *ownAddresses) source(dst netip.Addr) netip.Addr {
	best, bits := o.first(dst.Is4()), -1
	for _, p := range o.prefixes {
		if p.Bits() > bits && p.Contains(dst) {
			best, bits = p.Addr(), p.Bits()
		}
	}
	return best
}

// routeTable sends everything into the tunnel and tells gVisor the source address to use, which it would choose by
// the longest common prefix otherwise (RFC 6724, section 5, rule 8): the one that source returns. gVisor follows
// the hint for IPv4 alone; for IPv6 there is Stack.source6.
func (o *ownAddresses) routeTable() []tcpip.Route {
	var table []tcpip.Route
	add := func(p netip.Prefix, nic tcpip.NICID, source netip.Addr) {
		subnet := tcpip.AddressWithPrefix{
			Address:   gvisorAddr(p.Masked().Addr()),
			PrefixLen: p.Bits(),
		}.Subnet()
		table = append(table, tcpip.Route{Destination: subnet, NIC: nic, SourceHint: gvisorAddr(source)})
	}
	for _, p := range o.prefixes {
		add(p, tunnelNIC, p.Addr())
	}
	add(netip.PrefixFrom(loopback4, 8), loopbackNIC, loopback4)
	add(netip.PrefixFrom(loopback6, 128), loopbackNIC, loopback6)
	slices.SortStableFunc(table, func(a, b tcpip.Route) int { return b.Destination.Prefix() - a.Destination.Prefix() })
	if o.first4.IsValid() {
		table = append(table, tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: tunnelNIC, SourceHint: gvisorAddr(o.first4)})
	}
	if o.first6.IsValid() {
		table = append(table, tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: tunnelNIC, SourceHint: gvisorAddr(o.first6)})
	}
	return table
}

// opError is the form of every error of a socket. io.EOF and nil stay what they are.
func opError(op, network string, source, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: network, Source: source, Addr: addr, Err: err}
}
