// SPDX-License-Identifier: MIT

package outer

import (
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
)

const (
	// maxCachedEndpoints bounds the cache against senders of forged source addresses. It is above the number of
	// peers that are active at once on most nodes; beyond it receiving allocates, and still works.
	maxCachedEndpoints = 4096
)

// endpointKey is what makes an endpoint, in the form in which it is received. Addresses are not 4-in-6.
type endpointKey struct {
	dst   netip.AddrPort // the peer; with a zone only where scope is 0
	scope uint32         // interface index for a link-local dst, as in sin6_scope_id
	src   netip.Addr     // our address that the peer sent to, if known
}

// endpoint is a peer's address and our own address that it talks to. The device keeps it, hands it to several
// goroutines and may have it for several peers: all but the atomic fields is immutable.
type endpoint struct {
	key endpointKey
	dst netip.AddrPort // key.dst with its zone by name

	// srcCleared says that key.src is not to be used any more. It is never taken back: the device's ClearSrc may
	// race with a Send and with the receiver, which makes a new endpoint when the peer sends again.
	srcCleared atomic.Bool
	// announced is Sockets.announced as it was when Config.Destination was called for this endpoint, or 0.
	announced atomic.Uint64
	path      path
}

func newEndpoint(key endpointKey) *endpoint { return &endpoint{key: key, dst: key.dst} }

// ClearSrc implements conn.Endpoint.
func (e *endpoint) ClearSrc() { e.srcCleared.Store(true) }

// SrcIP implements conn.Endpoint. It is the zero Addr if the system is to choose the source.
func (e *endpoint) SrcIP() netip.Addr {
	if e.srcCleared.Load() {
		return netip.Addr{}
	}
	return e.key.src
}

// SrcToString implements conn.Endpoint: our address without a port, or "" if the system chooses.
func (e *endpoint) SrcToString() string {
	if src := e.SrcIP(); src.IsValid() {
		return src.String()
	}
	return ""
}

// DstIP implements conn.Endpoint.
func (e *endpoint) DstIP() netip.Addr { return e.dst.Addr() }

// DstToString implements conn.Endpoint. ParseEndpoint reads it back.
func (e *endpoint) DstToString() string {
	if !e.dst.IsValid() {
		return NoEndpoint
	}
	return e.dst.String()
}

// DstToBytes implements conn.Endpoint. The bytes key our own cookies only (WireGuard paper, section 5.4.7), the
// other side never computes them.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary() // never fails
	return b
}

// endpointCache gives the same endpoint for the same addresses, so that receiving does not allocate. It is the
// receiver's: not safe for concurrent use.
type endpointCache struct {
	last  *endpoint
	known map[endpointKey]*endpoint
	zones map[uint32]string // interface names by index
}

func (c *endpointCache) get(key endpointKey) *endpoint {
	if e := c.last; e != nil && e.key == key && !e.srcCleared.Load() {
		return e
	}
	e := c.known[key]
	if e == nil || e.srcCleared.Load() {
		e = c.add(key, e)
	}
	c.last = e
	return e
}

// add makes the endpoint for key; old is the one that it follows, or nil.
func (c *endpointCache) add(key endpointKey, old *endpoint) *endpoint {
	if c.known == nil || len(c.known) >= maxCachedEndpoints {
		c.known = make(map[endpointKey]*endpoint)
		c.zones = make(map[uint32]string)
	}
	e := newEndpoint(key)
	if key.scope != 0 {
		addr := key.dst.Addr().WithZone(c.zone(key.scope))
		e.dst = netip.AddrPortFrom(addr, key.dst.Port())
	}
	if old != nil {
		e.path.follow(&old.path)
	}
	c.known[key] = e
	return e
}

// zone returns the name of the interface with that index, or the index in digits, which parses as well.
func (c *endpointCache) zone(index uint32) string {
	name, ok := c.zones[index]
	if !ok {
		name = strconv.FormatUint(uint64(index), 10)
		if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
			name = ifi.Name
		}
		c.zones[index] = name
	}
	return name
}
