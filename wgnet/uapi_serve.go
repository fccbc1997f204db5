// SPDX-License-Identifier: MIT

package wgnet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// maxUAPIConns bounds the connections that are served at a time; others wait to be accepted.
	maxUAPIConns = 8
	// maxUAPIRequest bounds a request, in bytes, none of which are kept. One to set 10,000 peers has 3 MB.
	maxUAPIRequest = 16 << 20
	// maxUAPILine bounds a line of a request; real ones have 100 bytes at most.
	maxUAPILine = 4 << 10
	// uapiTimeout bounds how long a request may take to come, and its answer to be taken.
	uapiTimeout = 10 * time.Second
	// uapiPause is the wait when there are no file descriptors for another connection.
	uapiPause = 100 * time.Millisecond
)

// UAPIOptions says what [Net.ServeUAPI] gives out. The zero value is the least: no secrets.
type UAPIOptions struct {
	// Keys adds the private key and the preshared keys, in the clear. Without the private key `wg show` prints no key of
	// the interface at all, since it computes the public one from it; without the others it prints no line about them.
	Keys bool
}

// ServeUAPI answers wg(8) on l, which it closes at its end, so that `wg show NAME` works on the Net:
//
//	l, err := wgnet.ListenUAPI("wg0")
//	if err != nil {
//		return err
//	}
//	err = n.ServeUAPI(ctx, l, wgnet.UAPIOptions{})
//
// It speaks WireGuard's cross-platform protocol (https://www.wireguard.com/xplatform/), and only its half that reads:
// whoever wants to set something, as by `wg set`, gets EPERM. What it tells is [Net.Status]. It asks for no password: the
// permissions of the socket say who may connect. Eight connections are served at a time.
//
// It returns [net.ErrClosed] when the Net is closed, nil when ctx is done, and else the error of l. All its connections
// are closed then; [Net.Close] waits for that.
func (n *Net) ServeUAPI(ctx context.Context, l net.Listener, opts UAPIOptions) error {
	n.mu.Lock()
	closed := n.ctx.Err() != nil
	if !closed {
		n.background.Add(1)
		defer n.background.Done()
	}
	n.mu.Unlock()
	defer l.Close() // for the second time, but for a closed Net; what it says is of no use to anybody
	var err error
	if !closed {
		err = n.serveUAPI(ctx, l, opts)
	}
	switch {
	case n.ctx.Err() != nil:
		err = net.ErrClosed
	case ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("wgnet: ServeUAPI: %w", err)
}

// serveUAPI serves until ctx is done, the Net is being closed, or l fails.
func (n *Net) serveUAPI(ctx context.Context, l net.Listener, opts UAPIOptions) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // lets Accept go
	slots := make(chan struct{}, maxUAPIConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		c, err := acceptUAPI(ctx, l)
		if err != nil {
			return err
		}
		conns.Go(func() { // ends with the client, at the latest with ctx
			defer func() { <-slots }()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			if err := n.answerUAPI(c, opts); err != nil && ctx.Err() == nil {
				n.log.Debug("UAPI connection ended", "err", err)
			}
		})
	}
}

// acceptUAPI waits out a lack of file descriptors.
func acceptUAPI(ctx context.Context, l net.Listener) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
			return c, err
		}
		pause := time.NewTimer(uapiPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}

// answerUAPI answers one client's requests. Each is an operation and lines up to an empty one.
func (n *Net) answerUAPI(c net.Conn, opts UAPIOptions) error {
	r := bufio.NewReaderSize(c, maxUAPILine)
	for {
		if err := c.SetDeadline(time.Now().Add(uapiTimeout)); err != nil {
			return err
		}
		operation, err := r.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var answer bytes.Buffer
		var errno syscall.Errno
		switch string(operation) {
		case "get=1\n":
			var lines int
			if lines, err = skipUAPI(r); lines > 0 {
				errno = syscall.EINVAL // nothing can be asked for but everything
			} else if err == nil {
				n.writeStatusUAPI(&answer, opts)
			}
		case "set=1\n":
			_, err = skipUAPI(r)
			errno = syscall.EPERM
		default:
			return errors.New("the operation is none of get=1 and set=1") // not shown: it may be a key
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(&answer, "errno=%d\n\n", -int(errno))
		if _, err := c.Write(answer.Bytes()); err != nil {
			return err
		}
	}
}

// skipUAPI reads the lines up to the end of a request.
func skipUAPI(r *bufio.Reader) (lines int, err error) {
	for size := 0; size < maxUAPIRequest; lines++ {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return lines, err
		}
		if len(line) == 1 {
			return lines, nil
		}
		size += len(line)
	}
	return lines, fmt.Errorf("the request has more than %d bytes", maxUAPIRequest)
}

// writeStatusUAPI writes what the device itself would answer, from the typed status.
func (n *Net) writeStatusUAPI(b *bytes.Buffer, opts UAPIOptions) {
	now := n.state.Load()
	s := n.status(now)
	if opts.Keys {
		fmt.Fprintf(b, "private_key=%s\n", now.config.PrivateKey.hex())
	}
	fmt.Fprintf(b, "listen_port=%d\n", s.ListenPort)
	for i, p := range s.Peers {
		fmt.Fprintf(b, "public_key=%s\n", p.PublicKey.hex())
		if opts.Keys {
			fmt.Fprintf(b, "preshared_key=%s\n", now.peers.all[i].PresharedKey.hex())
		}
		fmt.Fprintf(b, "protocol_version=1\n")
		if p.Endpoint.IsValid() {
			fmt.Fprintf(b, "endpoint=%s\n", p.Endpoint)
		}
		var seconds, nanos int64 // 0: never
		if !p.LastHandshake.IsZero() {
			seconds, nanos = p.LastHandshake.Unix(), int64(p.LastHandshake.Nanosecond())
		}
		fmt.Fprintf(b, "last_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\n", seconds, nanos)
		fmt.Fprintf(b, "rx_bytes=%d\ntx_bytes=%d\n", p.BytesReceived, p.BytesSent)
		fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", p.PersistentKeepalive/time.Second)
		for _, prefix := range p.AllowedIPs {
			fmt.Fprintf(b, "allowed_ip=%s\n", prefix)
		}
	}
}
