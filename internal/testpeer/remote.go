// SPDX-License-Identifier: MIT

package testpeer

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

const (
	closeTimeout   = 10 * time.Second
	handshakeRetry = 100 * time.Millisecond
	pollInterval   = 2 * time.Millisecond // between two looks at a counter that the device does not announce
)

// A Remote is another peer, as this one sees it.
type Remote struct {
	PublicKey           Key
	PresharedKey        Key           // zero: none
	Endpoint            string        // IP:port; empty: learnt from the remote's first message
	AllowedIPs          []string      // prefixes, with their length; nil: the remote may send and receive nothing
	PersistentKeepalive time.Duration // in whole seconds; 0: off
}

// A Local is the other side of the tunnel, for which ConfigFor writes a file.
type Local struct {
	PrivateKey          Key
	Addresses           []string // as they stand in the file: with or without a prefix length
	ListenPort          uint16   // 0: no such line
	MTU                 int      // 0: no such line
	DNS                 []string // nil: no such line
	PresharedKey        Key      // zero: no such line
	Endpoint            string   // of the test peer; empty: Peer.Endpoint; "none": no such line
	AllowedIPs          []string // nil: the test peer's addresses
	PersistentKeepalive int      // seconds; 0: no such line
}

// Status is what the device tells of one Remote.
type Status struct {
	Endpoint      string    // empty: not known yet
	LastHandshake time.Time // zero: none in this run
	RxBytes       uint64    // since the start of this run, with WireGuard's own messages
	TxBytes       uint64
}

// AddPeer adds a remote or replaces the one with the same key, whose session lives on.
func (p *Peer) AddPeer(r Remote) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var uapi strings.Builder
	r.writeUAPI(&uapi)
	if err := p.run.dev.IpcSet(uapi.String()); err != nil {
		return fmt.Errorf("testpeer: add peer %v: %w", r.PublicKey, err)
	}
	p.forget(r.PublicKey)
	p.remotes = append(p.remotes, r)
	return nil
}

// RemovePeer removes a remote and its session. An unknown key is no error.
func (p *Peer) RemovePeer(key Key) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(key)
	if err := p.run.dev.IpcSet(fmt.Sprintf("public_key=%s\nremove=true\n", key.hex())); err != nil {
		return fmt.Errorf("testpeer: remove peer %v: %w", key, err)
	}
	return nil
}

// forget drops a remote from the list that a restart applies. The caller holds p.mu.
func (p *Peer) forget(key Key) {
	for i, r := range p.remotes {
		if r.PublicKey == key {
			p.remotes = append(p.remotes[:i], p.remotes[i+1:]...)
			return
		}
	}
}

// Status looks a remote up in the device.
func (p *Peer) Status(key Key) (Status, error) {
	var s Status
	var sec, nsec int64
	found, mine := false, false
	err := readUAPI(p.current().dev, func(k, v string) error {
		var err error
		switch {
		case k == "public_key":
			mine = v == key.hex()
			found = found || mine
		case !mine:
		case k == "endpoint":
			s.Endpoint = v
		case k == "last_handshake_time_sec":
			sec, err = strconv.ParseInt(v, 10, 64)
		case k == "last_handshake_time_nsec":
			nsec, err = strconv.ParseInt(v, 10, 64)
		case k == "rx_bytes":
			s.RxBytes, err = strconv.ParseUint(v, 10, 64)
		case k == "tx_bytes":
			s.TxBytes, err = strconv.ParseUint(v, 10, 64)
		}
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("testpeer: no peer %v: call AddPeer first", key)
	}
	if sec != 0 || nsec != 0 {
		s.LastHandshake = time.Unix(sec, nsec)
	}
	return s, err
}

// Handshake begins a new session with a remote, whose endpoint must be known, and waits until it stands. The old
// session, if any, is given up.
func (p *Peer) Handshake(ctx context.Context, key Key) error {
	before, err := p.Status(key)
	if err != nil {
		return err
	}
	remote := p.current().dev.LookupPeer(device.NoisePublicKey(key))
	if remote == nil {
		return fmt.Errorf("testpeer: no peer %v: call AddPeer first", key)
	}
	// The other side drops an initiation that comes within 20 ms of the one before it, or whose coarse timestamp
	// is not newer, and this side waits 5 s before the next: so send again, and lift that wait each time.
	for {
		remote.ExpireCurrentKeypairs()
		if err := remote.SendHandshakeInitiation(false); err != nil {
			return fmt.Errorf("testpeer: handshake with %v at %q: %w", key, before.Endpoint, err)
		}
		attempt, cancel := context.WithTimeout(ctx, handshakeRetry)
		err := p.waitHandshake(attempt, key, before.LastHandshake)
		cancel()
		if err == nil || ctx.Err() != nil || attempt.Err() == nil {
			return err
		}
	}
}

// WaitHandshake waits for the first handshake with a remote in this run, whoever begins it. On the side that did not
// begin it, a handshake counts as done with the first message that the new session carries.
func (p *Peer) WaitHandshake(ctx context.Context, key Key) error {
	return p.waitHandshake(ctx, key, time.Time{})
}

func (p *Peer) waitHandshake(ctx context.Context, key Key, after time.Time) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := p.Status(key)
		if err != nil {
			return err
		}
		if s.LastHandshake.After(after) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("testpeer: no handshake with %v (endpoint %q, %d bytes received): %w",
				key, s.Endpoint, s.RxBytes, ctx.Err())
		case <-tick.C:
		}
	}
}

// ConfigFor writes the wg-quick file of the other side, with this peer as its only [Peer].
func (p *Peer) ConfigFor(l Local) string {
	var b strings.Builder
	line := func(key, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "%s = %s\n", key, value)
		}
	}
	if l.AllowedIPs == nil {
		for _, a := range p.addresses {
			l.AllowedIPs = append(l.AllowedIPs, fmt.Sprintf("%v/%d", a, a.BitLen()))
		}
	}
	switch l.Endpoint {
	case "":
		l.Endpoint = p.Endpoint()
	case "none":
		l.Endpoint = ""
	}

	b.WriteString("[Interface]\n")
	line("PrivateKey", l.PrivateKey.String())
	line("Address", strings.Join(l.Addresses, ", "))
	line("ListenPort", strconv.Itoa(int(l.ListenPort)))
	line("MTU", strconv.Itoa(l.MTU))
	line("DNS", strings.Join(l.DNS, ", "))
	b.WriteString("\n[Peer]\n")
	line("PublicKey", p.PublicKey().String())
	if !l.PresharedKey.IsZero() {
		line("PresharedKey", l.PresharedKey.String())
	}
	line("Endpoint", l.Endpoint)
	line("AllowedIPs", strings.Join(l.AllowedIPs, ", "))
	line("PersistentKeepalive", strconv.Itoa(l.PersistentKeepalive))
	return b.String()
}

func (r Remote) writeUAPI(b *strings.Builder) {
	fmt.Fprintf(b, "public_key=%s\nreplace_allowed_ips=true\n", r.PublicKey.hex())
	fmt.Fprintf(b, "preshared_key=%s\n", r.PresharedKey.hex()) // all zeros is "none" to the device too
	if r.Endpoint != "" {
		fmt.Fprintf(b, "endpoint=%s\n", r.Endpoint)
	}
	for _, prefix := range r.AllowedIPs {
		fmt.Fprintf(b, "allowed_ip=%s\n", prefix)
	}
	fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", int(r.PersistentKeepalive/time.Second))
}

// listenPort is the port that the device's bind has got.
func listenPort(dev *device.Device) (port uint16, err error) {
	err = readUAPI(dev, func(k, v string) error {
		if k != "listen_port" {
			return nil
		}
		n, err := strconv.ParseUint(v, 10, 16)
		port = uint16(n)
		return err
	})
	return port, err
}

// readUAPI calls f for each line of the device's state.
func readUAPI(dev *device.Device, f func(key, value string) error) error {
	text, err := dev.IpcGet()
	if err != nil {
		return fmt.Errorf("testpeer: read the device's state: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if err := f(key, value); err != nil {
			return fmt.Errorf("testpeer: the device's state, line %q: %w", key, err)
		}
	}
	return lines.Err()
}
