// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// transitTCP is the second gVisor stack: TCP alone, on a link to the same queues, and every address is its own. It sees
// a connection from its handler's Accept on, and answers segments of no connection with a reset.
type transitTCP struct {
	stack     *stack.Stack
	forwarder *tcp.Forwarder
	endpoints map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint // never changed

	// mu guards waiting and what is in it. It is held while the forwarder looks at a SYN, which waits for nobody: a SYN that
	// came again must not be taken for the one that accept has sent.
	mu      sync.Mutex
	waiting map[stack.TransportEndpointID]*acceptance
}

// acceptance is a SYN that gVisor is given, since a flow was accepted.
type acceptance struct {
	requests chan *tcp.ForwarderRequest // has room for the one that comes
	taken    bool                       // it comes
}

// transitLink is the link of the second stack: the way out is that of the first one, the way in is transitTCP.deliver.
type transitLink struct {
	*link
	attached atomic.Bool
}

// Attach implements [stack.NetworkLinkEndpoint].
func (l *transitLink) Attach(d stack.NetworkDispatcher) { l.attached.Store(d != nil) }

// IsAttached implements [stack.NetworkLinkEndpoint].
func (l *transitLink) IsAttached() bool { return l.attached.Load() }

func newTransitTCP(s *Stack) (*transitTCP, error) {
	x := &transitTCP{
		endpoints: map[tcpip.NetworkProtocolNumber]stack.NetworkEndpoint{},
		waiting:   map[stack.TransportEndpointID]*acceptance{},
	}
	x.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := x.setUp(s); err != nil {
		x.stack.Destroy()
		return nil, err
	}
	return x, nil
}

func (x *transitTCP) setUp(s *Stack) error {
	if err := setOptions(x.stack); err != nil {
		return err
	}
	if err := x.stack.CreateNIC(tunnelNIC, &transitLink{link: s.link}); err != nil {
		return fmt.Errorf("create the interface for transit: %v", err)
	}
	if err := x.stack.SetPromiscuousMode(tunnelNIC, true); err != nil {
		return fmt.Errorf("let the interface for transit receive: %v", err)
	}
	if err := x.stack.SetSpoofing(tunnelNIC, true); err != nil {
		return fmt.Errorf("let the interface for transit send: %v", err)
	}
	for _, proto := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		ep, err := x.stack.GetNetworkEndpoint(tunnelNIC, proto)
		if err != nil {
			return fmt.Errorf("the interface for transit without protocol %d: %v", proto, err)
		}
		x.endpoints[proto] = ep
	}
	x.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: tunnelNIC}, {Destination: header.IPv6EmptySubnet, NIC: tunnelNIC},
	})
	// It has as many requests as there are acceptances, which transit bounds.
	x.forwarder = tcp.NewForwarder(x.stack, defaultBuffer, defaultFlowLimits.flows, x.request)
	x.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, x.unknown)
	return nil
}

// deliver gives a packet to gVisor, which gets a copy. verified says that its checksums are right.
func (x *transitTCP) deliver(b []byte, verified bool) {
	proto := ipv6.ProtocolNumber
	if isIPv4(b) {
		proto = ipv4.ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	pkt.RXChecksumValidated = verified
	x.endpoints[proto].HandlePacket(pkt)
}

// unknown is called by gVisor for a segment of no connection, and reports whether that is a SYN which is to become one.
func (x *transitTCP) unknown(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.waiting[id]
	if a == nil {
		return false
	}
	if !a.taken {
		a.taken = x.forwarder.HandlePacket(id, pkt)
	}
	return true // a SYN that came again meanwhile needs no answer
}

// request is called by gVisor in a goroutine of its own, which ends here.
func (x *transitTCP) request(r *tcp.ForwarderRequest) {
	x.mu.Lock()
	a := x.waiting[r.ID()]
	x.mu.Unlock()
	a.requests <- r // accept waits for it
}

// endpointID names the endpoint of a flow.
func endpointID(key flowKey) stack.TransportEndpointID {
	return stack.TransportEndpointID{
		LocalAddress: gvisorAddr(key.dst.Addr()), LocalPort: key.dst.Port(),
		RemoteAddress: gvisorAddr(key.src.Addr()), RemotePort: key.src.Port(),
	}
}

// accept completes the handshake that a SYN begins, and waits for its end. It ends it itself when ctx is done.
func (x *transitTCP) accept(ctx context.Context, key flowKey, syn []byte) (tcpip.Endpoint, *waiter.Queue, error) {
	proto, id := protocolOf(key.src.Addr()), endpointID(key)
	a := &acceptance{requests: make(chan *tcp.ForwarderRequest, 1)}
	x.mu.Lock()
	busy := x.waiting[id] != nil
	if !busy {
		x.waiting[id] = a
	}
	x.mu.Unlock()
	if busy { // the one before is about to end
		return nil, nil, os.NewSyscallError("accept", syscall.ECONNABORTED)
	}
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.waiting, id)
	}()
	abortOld := func() {
		if old := x.stack.FindTransportEndpoint(proto, tcp.ProtocolNumber, id, tunnelNIC); old != nil {
			old.Abort()
		}
	}
	abortOld() // in TIME_WAIT, say: who begins anew with the same port has forgotten it
	x.deliver(syn, false)
	x.mu.Lock()
	taken := a.taken
	x.mu.Unlock()
	if !taken {
		return nil, nil, os.NewSyscallError("accept", syscall.ECONNABORTED)
	}
	r := <-a.requests
	defer r.Complete(false)
	type result struct {
		ep  tcpip.Endpoint
		err tcpip.Error
	}
	wq, results := new(waiter.Queue), make(chan result, 1)
	go func() { // ends with the handshake, which is waited for
		ep, err := r.CreateEndpoint(wq)
		results <- result{ep, err}
	}()
	end := ctx.Done()
	var again <-chan time.Time
	for {
		select {
		case res := <-results:
			switch {
			case res.err != nil && ctx.Err() != nil:
				return nil, nil, context.Cause(ctx)
			case res.err != nil:
				return nil, nil, acceptError(res.err)
			}
			return res.ep, wq, nil
		case <-end:
			// gVisor cannot be told to stop, and may not have begun yet.
			ticker := time.NewTicker(5 * time.Millisecond)
			defer ticker.Stop()
			end, again = nil, ticker.C
			abortOld()
		case <-again:
			abortOld()
		}
	}
}

// acceptError is why the handshake failed: what would be a refusal for who dials is a reset for who is dialed.
func acceptError(err tcpip.Error) error {
	if _, refused := err.(*tcpip.ErrConnectionRefused); refused {
		err = &tcpip.ErrConnectionReset{}
	}
	return sysError("accept", err)
}

// acceptTCP is Flow.Accept for TCP.
func (t *transit) acceptTCP(f *Flow) (*TCPConn, error) {
	t.mu.Lock()
	if err := f.decideLocked(flowAccepting); err != nil {
		t.mu.Unlock()
		return nil, err
	}
	f.used = t.now()
	syn, tcp := f.held[len(f.held)-1].b, t.tcp
	f.releaseLocked()
	t.accepting.Add(1)
	t.mu.Unlock()
	defer t.accepting.Done()

	ep, wq, err := tcp.accept(f.ctx, f.key, syn)
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if f.state != flowEnded {
			f.peer.stats.Dropped++
			f.endLocked(err)
		}
		return nil, err
	}
	c, err := newTCPConn(t.stack, "tcp", ep, wq, f.key.src, pinned{f.Peer(), true})
	t.stack.moveMu.RLock() // a change of routes that is under way may end the flow
	defer t.stack.moveMu.RUnlock()
	t.mu.Lock()
	switch {
	case err != nil: // and the endpoint is aborted
		f.endLocked(err)
		t.mu.Unlock()
		return nil, err
	case f.state == flowEnded:
		t.mu.Unlock()
		abort(ep)
		return nil, context.Cause(f.ctx)
	}
	defer t.mu.Unlock()
	c.onClose = f.finish
	f.state = flowOpen
	f.openLocked()
	f.peer.stats.Accepted++
	return c, nil
}

// reopen ends the flow that a SYN begins anew if its connection is in TIME_WAIT: see Stack.reopen. The program has not closed
// it yet. gVisor is called without t.mu, which all packets of transit want.
func (t *transit) reopen(p *transitPacket) {
	t.mu.Lock()
	f, tcp := t.flows[p.key], t.tcp
	open := f != nil && f.state == flowOpen
	t.mu.Unlock()
	if !open || !p.checksumValid() || !abortTimeWait(tcp.stack, protocolOf(f.key.src.Addr()), endpointID(f.key)) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f.endLocked(os.NewSyscallError("read", syscall.ECONNRESET))
}

// tcpStack is the second stack, or nil.
func (t *transit) tcpStack() *stack.Stack {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tcp == nil {
		return nil
	}
	return t.tcp.stack
}
