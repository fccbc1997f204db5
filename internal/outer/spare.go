// SPDX-License-Identifier: MIT

package outer

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Spare is an open socket that is not in use yet. To change the port takes two steps, so that whatever can fail, or is
// the user's code, comes first and the socket in use works on meanwhile.
type Spare struct {
	sockets *Sockets
	sock    socket // nil once used or closed
	asked   uint16
}

// Prepare opens a socket on another port, as [Open] does, with its errors. The caller has to use or close it.
func (s *Sockets) Prepare(port uint16) (*Spare, error) {
	if isClosed(s.closed) {
		return nil, net.ErrClosed
	}
	cfg := s.cfg
	cfg.Port = port
	sock, err := openSocket(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	// A facade that closes as the socket comes into use sets the deadlines of the old one. With this, whoever comes to
	// wait here is woken once, in vain or not.
	if err := sock.setReadDeadline(longAgo); err != nil {
		return nil, errors.Join(fmt.Errorf("set up UDP port %d: %w", port, err), sock.close())
	}
	return &Spare{sockets: s, sock: sock, asked: port}, nil
}

// Use puts the socket in the place of the one in use, which is closed; facades stay open. Datagrams that the old one
// has received and no one has read are lost. It returns [net.ErrClosed] once the Sockets are closed. An error leaves
// the old one in use. Use and Close must not be called at the same time.
func (p *Spare) Use() error {
	s := p.sockets
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.closed) {
		return net.ErrClosed
	}
	if s.mark != 0 {
		// Only a device sets marks, and what it has told one socket it will not tell the next.
		if err := p.sock.setMark(s.mark); err != nil {
			return err
		}
	}
	old := s.sock()
	s.asked.Store(uint32(p.asked))
	s.current.Store(&active{p.sock, p.sock.port(), old.overflowed()})
	select {
	case s.reopening.replaced <- struct{}{}: // the receiver may wait for a socket in the place of a lost one
	default:
	}
	p.sock = nil
	if err := old.close(); err != nil && !errors.Is(err, net.ErrClosed) { // one that was lost is closed
		s.log.Warn("closing the old UDP socket failed", "port", old.localPort, "err", err)
	}
	return nil
}

// Close closes the socket, unless it is in use. A second call does nothing.
func (p *Spare) Close() error {
	if p == nil || p.sock == nil {
		return nil
	}
	sock := p.sock
	p.sock = nil
	return sock.close()
}
