// SPDX-License-Identifier: MIT

package outer

import (
	"sync/atomic"
	"time"
)

// segmentationRetry is when a path that has refused large sends is tried again: RFC 1191 section 6.3 wants ten minutes
// between attempts to find a larger path MTU.
const segmentationRetry = 10 * time.Minute

// path is what is known of the way to an endpoint. The system learns of a smaller MTU by ICMP or by its own routes; then it
// fragments datagrams that are sent alone, and refuses a large send that is to be cut into datagrams of such a size. That
// refusal is how we learn of it. Where nothing is heard from routers, large datagrams are lost in a black hole.
type path struct {
	unsegmented atomic.Int64 // when a large send was refused, in Unix nanoseconds, or 0
	fits        atomic.Int32 // the largest datagram that the path takes unfragmented, as far as known; 0 if not
	untold      atomic.Bool  // fits is news
}

// segmentable reports whether the path may take large sends of datagrams of a size.
func (p *path) segmentable(size int) bool {
	t := p.unsegmented.Load()
	return t == 0 || size <= int(p.fits.Load()) || time.Since(time.Unix(0, t)) > segmentationRetry
}

// refuse remembers that the path did not take datagrams of a size, and that it is said to take those of another; 0 means
// that nothing is known.
func (p *path) refuse(size, fits int) {
	if fits >= size {
		fits = 0 // it is not about the size, or was asked of the wrong path
	}
	p.fits.Store(int32(fits))
	p.untold.Store(fits > 0)
	p.unsegmented.Store(time.Now().UnixNano())
}

// known reports whether it was just now that the path did not take datagrams of a size.
func (p *path) known(size int) bool {
	return size > int(p.fits.Load()) && time.Since(time.Unix(0, p.unsegmented.Load())) < time.Second
}

// news returns what fits, once after each refusal.
func (p *path) news() (fits int, ok bool) {
	if !p.untold.Load() || !p.untold.Swap(false) {
		return 0, false
	}
	return int(p.fits.Load()), true
}

// follow takes over what is known of the same path.
func (p *path) follow(old *path) {
	p.unsegmented.Store(old.unsegmented.Load())
	p.fits.Store(old.fits.Load())
}
