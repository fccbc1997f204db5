// SPDX-License-Identifier: MIT

// Package outer holds the UDP sockets that carry a tunnel's datagrams, and lends them to WireGuard devices.
//
// [Sockets] owns the sockets and its port. A device gets a [conn.Bind] from [Sockets.Bind]: a facade whose Close
// ends the facade and leaves the sockets open, so that a device can be taken down, brought up or replaced by
// another one without losing the port. On Linux one dual-stack socket serves IPv4 and IPv6, with segmentation
// offload both ways where the kernel and the network card have it; elsewhere it is one datagram a call.
//
// Invariants:
//   - at most one facade is open at a time;
//   - a receive function fails only when its facade or the Sockets are closed, with [net.ErrClosed]: the device
//     gives up its receive routine for good on other errors, so those are waited out here, and a socket that is lost is
//     replaced by another one on the same port;
//   - Send never waits longer than sendTimeout, and a Close of the facade or of the Sockets ends its wait;
//   - the port changes without the device's notice: a [Spare] takes the place of the socket under its facade;
//   - addresses that the device or a user sees are never 4-in-6: mapped addresses exist inside a socket only.
package outer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// Config says how to open the sockets. The zero value picks a free port.
type Config struct {
	// Port is the UDP port to listen on, the same for IPv4 and IPv6. 0 lets the system pick one.
	Port uint16
	// Control, if not nil, is called for each socket before it is bound and after our own options are set, as
	// [net.ListenConfig] does; network is "udp4" or "udp6" ("udp6" carries IPv4 too).
	Control func(network, address string, c syscall.RawConn) error
	// ListenPacket, if not nil, opens the socket in the place of the system's: as [net.ListenConfig.ListenPacket], with
	// "udp" and ":port". Control is not called then.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	// Sending and Sent, if not nil, are called before and after each Send of a facade that has data messages, all of them
	// to one peer, with the first of them as the device has given it; Sent also with their number, whether they got away
	// or not. They must not block.
	Sending func(message []byte)
	Sent    func(message []byte, n int)
	// PathMTU, if not nil, is called between these two when the system is found to know that the path takes no datagrams as
	// large as those that were sent without fragments, with the size of the largest that it does take. Only Linux tells.
	PathMTU func(message []byte, size int)
	// MaxBacklog, if not 0, bounds the data messages that receive functions have returned and [Sockets.Delivered] was not
	// told of. A batch may pass it.
	MaxBacklog int
	// Destination, if not nil, is called by the first Send to an endpoint, and again by the first one after each
	// [Sockets.AnnounceAgain]: so it is called when a peer's datagrams begin to go elsewhere. It must not block.
	Destination func()
	// Lost, if not nil, is called when the socket has failed for good and another is to be opened, and Reopened once one
	// has taken its place, perhaps on another port if any port was asked for. They must not block.
	Lost     func(error)
	Reopened func()
	// Response, if not nil, is called with each handshake response before it is sent, and Keepalive with each message of
	// a keepalive's form that has come, from whomever, before a receive function returns it. They must not block.
	Response, Keepalive func(message []byte)
	// Logger gets the network errors that are waited out, at a bounded rate. nil discards.
	Logger *slog.Logger
}

// Sockets are the open UDP sockets of a tunnel. All methods are safe for concurrent use.
type Sockets struct {
	cfg     Config
	log     *slog.Logger
	batch   int                    // of the first socket: a device never learns of another
	current atomic.Pointer[active] // stored under mu
	closed  chan struct{}          // closed by Close
	close   func() error           // runs once
	failure LogLimit               // receive errors
	// announced is what an endpoint's field of that name is compared with.
	announced atomic.Uint64
	// asked is the port that is wanted, 0 if any would do.
	asked     atomic.Uint32
	received  receivedCount
	backlog   *backlog
	reopening reopening
	ctx       context.Context // of hooks that run on their own; Close ends it

	// receiving serializes the receive functions of successive facades. It guards the sockets' receive state.
	receiving sync.Mutex

	mu   sync.Mutex // guards open and mark, and orders Open, Close, Use and Sockets.Close
	open *session   // the facade that holds the sockets, or nil
	mark uint32     // that a facade has set
}

// active is the socket in use, and its port, which is known after its end too.
type active struct {
	socket
	localPort uint16
	before    uint64 // what the sockets before it have lost
}

// overflowed is what all sockets up to this one have lost.
func (a *active) overflowed() uint64 { return a.before + a.lost() }

// Open opens the sockets. A taken port is an error at once, for which errors.Is finds [syscall.EADDRINUSE]. A host
// without IPv6 gets an IPv4 socket.
func Open(cfg Config) (*Sockets, error) {
	sock, err := openSocket(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	return newSockets(sock, cfg), nil
}

func openSocket(ctx context.Context, cfg Config) (socket, error) {
	if cfg.ListenPacket != nil {
		pc, err := cfg.ListenPacket(ctx, "udp", ":"+strconv.Itoa(int(cfg.Port)))
		if err != nil {
			return nil, fmt.Errorf("listen for packets on port %d: %w", cfg.Port, err)
		}
		return newPacketSocket(pc), nil
	}
	udp, err := listen(cfg)
	if err != nil {
		return nil, err
	}
	sock, err := newUDPSocket(udp, logger(cfg.Logger))
	if err != nil {
		udp.Close()
		return nil, fmt.Errorf("set up UDP port %d: %w", cfg.Port, err)
	}
	return sock, nil
}

// newSockets takes over sock.
func newSockets(sock socket, cfg Config) *Sockets {
	if cfg.Sending == nil {
		cfg.Sending = func([]byte) {}
	}
	if cfg.Sent == nil {
		cfg.Sent = func([]byte, int) {}
	}
	if cfg.PathMTU == nil {
		cfg.PathMTU = func([]byte, int) {}
	}
	if cfg.Response == nil {
		cfg.Response = func([]byte) {}
	}
	if cfg.Keepalive == nil {
		cfg.Keepalive = func([]byte) {}
	}
	s := &Sockets{
		cfg: cfg, log: logger(cfg.Logger), batch: sock.batchSize(), closed: make(chan struct{}),
		backlog: newBacklog(cfg.MaxBacklog),
	}
	s.asked.Store(uint32(cfg.Port))
	s.reopening.replaced = make(chan struct{}, 1)
	s.current.Store(&active{sock, sock.port(), 0})
	s.announced.Store(1)
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(context.Background())
	s.close = sync.OnceValue(func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.closed)
		cancel()
		return s.sock().close()
	})
	return s
}

// sock is the socket in use. It may be another one at any time; the old one is closed then.
func (s *Sockets) sock() *active { return s.current.Load() }

// Port returns the UDP port, also after Close.
func (s *Sockets) Port() uint16 { return s.sock().localPort }

// Keep says that the port in use is the one that is wanted, though any would have done when it was opened: a socket that
// is lost is not replaced by one on another port.
func (s *Sockets) Keep() { s.asked.Store(uint32(s.Port())) }

// Delivered says that the device has made packets of n data messages: see [Config.MaxBacklog]. What it has dropped need
// not be told: after a millisecond with nothing delivered there is room again.
func (s *Sockets) Delivered(n int) { s.backlog.remove(n) }

// Bind returns a facade for one device. Its Open takes over the sockets as they are and ignores its port argument;
// it fails with [conn.ErrBindAlreadyOpen] while another facade is open, and with [net.ErrClosed] after
// Sockets.Close. Its Close ends its receive functions and blocked sends, and leaves the sockets open. It can be
// opened and closed again and again.
func (s *Sockets) Bind() conn.Bind { return &bind{sockets: s} }

// Close closes the sockets, at any moment and from any goroutine. It ends blocked receives and sends, which answer
// [net.ErrClosed]. The first call decides what all calls return.
func (s *Sockets) Close() error { return s.close() }

// listen opens a dual-stack UDP socket, or one for IPv4 on a host without IPv6.
func listen(cfg Config) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		if err := c.Control(func(fd uintptr) { setSocketOptions(network, fd) }); err != nil {
			return err
		}
		if cfg.Control == nil {
			return nil
		}
		return cfg.Control(network, address, c)
	}}
	address := ":" + strconv.Itoa(int(cfg.Port))
	// Not "udp": on a host without 127.0.0.1, package net takes that for "udp4".
	pc, err := lc.ListenPacket(context.Background(), "udp6", address)
	if isFamilyError(err) {
		pc, err = lc.ListenPacket(context.Background(), "udp4", address)
	}
	if errors.Is(err, errPortTaken) {
		return nil, fmt.Errorf("UDP port %d is taken by another program or tunnel, choose another listen port: %w",
			cfg.Port, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, fmt.Errorf("open UDP port %d: %w", cfg.Port, err)
	}
	return pc.(*net.UDPConn), nil
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
