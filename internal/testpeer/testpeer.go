// SPDX-License-Identifier: MIT

// Package testpeer is a WireGuard peer for tests that shares no code with this module: golang.zx2c4.com/wireguard's
// own device, its own UDP bind and its own userspace stack, all in the process. A mistake of ours cannot agree with
// itself against it, so what it understands is WireGuard.
//
//	peer := testpeer.New(t, testpeer.Options{Addresses: []string{"10.0.0.2"}})
//	us := testpeer.GenerateKey()
//	peer.AddPeer(testpeer.Remote{PublicKey: us.Public(), AllowedIPs: []string{"10.0.0.1/32"}})
//	conf := peer.ConfigFor(testpeer.Local{PrivateKey: us, Addresses: []string{"10.0.0.1"}}) // our wg0.conf
//
// It is made of real parts and does what they do, warts included, but for one: it may be closed under load.
package testpeer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// TB is the part of testing.TB that New uses.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(func())
}

// Options describe a Peer. The zero value is a peer with a new key on a free port.
type Options struct {
	PrivateKey Key      // zero: a new one
	Addresses  []string // IPs of the peer inside the tunnel, without prefix length; nil: 10.0.0.2 and fd00::2
	ListenPort uint16   // of the outer UDP sockets, which listen on every address of the host; 0: a free one
	MTU        int      // of the tunnel; 0: 1420
	DNS        []string // IPs of the name servers inside the tunnel that DialContext asks for names; nil: none

	// ListenPacket opens the peer's transport in the place of the UDP sockets, as net.ListenConfig.ListenPacket does; nil:
	// UDP. It is called with "udp" and ":port", again after a restart. Endpoint says nothing of it.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

	// Logf gets the device's log, line by line, from any goroutine; nil discards it.
	Logf func(format string, args ...any)
}

// A Peer is a running WireGuard peer. Its methods may be called from any goroutine, but Restart, RestartPassive and
// Close not while another of the three runs.
type Peer struct {
	opts      Options
	addresses []netip.Addr
	dns       []netip.Addr

	mu      sync.Mutex // guards what follows
	port    uint16
	remotes []Remote
	run     *run // never nil; after Close a closed one
}

// A run is one life of the peer, from its start to a Restart or Close.
type run struct {
	tun      *shim
	dev      *device.Device
	routines *routines

	ctx    context.Context // ends when the run does
	cancel context.CancelFunc

	mu      sync.Mutex     // guards servers and closed
	servers []*http.Server // those that serve now
	closed  bool
	serving sync.WaitGroup
}

// New starts a peer for a test and closes it in the test's Cleanup. It fails the test if it cannot.
func New(tb TB, opts Options) *Peer {
	tb.Helper()
	p, err := Start(opts)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return p
}

// Start is New for programs. The caller closes the peer.
func Start(opts Options) (*Peer, error) {
	if opts.PrivateKey.IsZero() {
		opts.PrivateKey = GenerateKey()
	}
	if opts.Addresses == nil {
		opts.Addresses = []string{"10.0.0.2", "fd00::2"}
	}
	if opts.MTU == 0 {
		opts.MTU = device.DefaultMTU
	}
	p := &Peer{opts: opts, port: opts.ListenPort}
	var err error
	if p.addresses, err = parseAddrs("Addresses", opts.Addresses); err != nil {
		return nil, err
	}
	if p.dns, err = parseAddrs("DNS", opts.DNS); err != nil {
		return nil, err
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	return p, nil
}

func parseAddrs(field string, list []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("testpeer: Options.%s takes plain IP addresses: %w", field, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// PrivateKey is the peer's private key.
func (p *Peer) PrivateKey() Key { return p.opts.PrivateKey }

// PublicKey is the peer's public key.
func (p *Peer) PublicKey() Key { return p.opts.PrivateKey.Public() }

// Addresses are the peer's addresses inside the tunnel.
func (p *Peer) Addresses() []netip.Addr { return append([]netip.Addr(nil), p.addresses...) }

// Port is the port of the outer UDP sockets. A restart keeps it.
func (p *Peer) Port() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port
}

// Endpoint is where the peer is reached over IPv4 on this host, 127.0.0.1:port.
func (p *Peer) Endpoint() string { return p.EndpointOn("127.0.0.1") }

// Endpoint6 is where the peer is reached over IPv6 on this host, [::1]:port.
func (p *Peer) Endpoint6() string { return p.EndpointOn("::1") }

// EndpointOn is the peer's endpoint on another address of this host.
func (p *Peer) EndpointOn(host string) string {
	return net.JoinHostPort(host, strconv.Itoa(int(p.Port())))
}

// Restart is the peer's process killed and started again with the same key, port and remotes: sessions, connections,
// listeners and servers are gone, and nobody is told.
func (p *Peer) Restart() error { return p.restart(true) }

// RestartPassive is Restart with all endpoints forgotten, so that the peer cannot be the first to talk.
func (p *Peer) RestartPassive() error { return p.restart(false) }

func (p *Peer) restart(keepEndpoints bool) error {
	if err := p.Close(); err != nil {
		return err
	}
	p.mu.Lock()
	if !keepEndpoints {
		for i := range p.remotes {
			p.remotes[i].Endpoint = ""
		}
	}
	p.mu.Unlock()
	return p.start()
}

// Rebind moves the peer to a free outer port, as a NAT that forgets a mapping does. Its sessions live on, and nobody is
// told.
func (p *Peer) Rebind() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.run.dev.IpcSet("listen_port=0\n")
	if err == nil {
		p.port, err = listenPort(p.run.dev)
	}
	if err != nil {
		return fmt.Errorf("testpeer: rebind: %w", err)
	}
	return nil
}

// Close ends the peer and returns when all its goroutines have ended and its port is free. It is idempotent.
func (p *Peer) Close() error { return p.current().close() }

func (p *Peer) current() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// start begins a new run.
func (p *Peer) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, err := newShim(p.addresses, p.dns, p.opts.MTU)
	if err != nil {
		return err
	}
	r := &run{tun: t, routines: newRoutines()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	bind := conn.NewStdNetBind()
	if p.opts.ListenPacket != nil {
		bind = &packetBind{listen: p.opts.ListenPacket}
	}
	r.dev = device.NewDevice(t, bind, r.routines.logger(p.opts.Logf))

	var uapi strings.Builder
	fmt.Fprintf(&uapi, "private_key=%s\nlisten_port=%d\n", p.opts.PrivateKey.hex(), p.port)
	for _, remote := range p.remotes {
		remote.writeUAPI(&uapi)
	}
	err = r.dev.IpcSet(uapi.String())
	if err == nil {
		err = r.dev.Up()
	}
	if err == nil {
		p.port, err = listenPort(r.dev)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("testpeer: start on port %d: %w", p.port, err), r.close())
	}
	p.run = r
	return nil
}

// close ends the run. The order matters: see shim.
func (r *run) close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	servers := r.servers
	r.mu.Unlock()

	r.cancel()
	r.dev.Close() // first, so that servers end without a farewell on the wire, as in a killed process
	err := r.routines.wait()
	err = errors.Join(err, r.tun.destroy())
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	r.serving.Wait()
	return err
}

// routines counts the device's goroutines by what they log: device.Close returns before the last of them end.
type routines struct {
	mu      sync.Mutex // guards what follows
	started int
	running int
	changed chan struct{} // closed and replaced with each change
}

func newRoutines() *routines { return &routines{changed: make(chan struct{})} }

func (r *routines) logger(logf func(string, ...any)) *device.Logger {
	if logf == nil {
		logf = device.DiscardLogf
	}
	return &device.Logger{
		Errorf: logf,
		Verbosef: func(format string, args ...any) {
			if strings.Contains(format, "Routine: ") {
				switch {
				case strings.HasSuffix(format, "- started"):
					r.add(1)
				case strings.HasSuffix(format, "- stopped"):
					r.add(-1)
				}
			}
			logf(format, args...)
		},
	}
}

func (r *routines) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running += n
	if n > 0 {
		r.started += n
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns when all of the device's goroutines have logged their end.
func (r *routines) wait() error {
	// A worker that has not even begun must be waited for too: the device starts three for each CPU, and the TUN's two.
	least := 3*runtime.NumCPU() + 2
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for {
		r.mu.Lock()
		started, running, changed := r.started, r.running, r.changed
		r.mu.Unlock()
		if started >= least && running == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("testpeer: %d of the device's %d goroutines still run %v after its Close",
				running, started, closeTimeout)
		}
	}
}
