// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strconv"
	"time"
)

// measurement is what the device alone knows of a peer.
type measurement struct {
	endpoint       netip.AddrPort // where it sends to
	handshake      time.Time      // the last that completed, or zero
	received, sent uint64         // bytes of datagrams
	seconds, nanos int64          // of handshake, while the text is read
}

// measure asks the device what it has measured, and calls visit for each peer that is in the table. What is configured is
// not read back: the typed config is the truth. The device's text has the keys in it; they are passed over, not copied.
func (t *tunnel) measure(visit func(*peer, measurement)) { t.engine.Load().measure(t.peers(), visit) }

func (e *engine) measure(peers *peerTable, visit func(*peer, measurement)) {
	// Its only error is the writer's, which has none.
	_ = e.dev.IpcGetOperation(measureWriter(func(text []byte) {
		readMeasurements(text, func(key PublicKey, m measurement) {
			p := peers.byKey[key]
			if p == nil {
				return
			}
			before := e.before[p.link]
			m.received += before.received
			m.sent += before.sent
			if m.handshake.IsZero() {
				m.handshake = before.handshake
			}
			visit(p, m)
		})
	}))
}

// measurements are what measure visits, by the peer's link.
func (e *engine) measurements(peers *peerTable) map[*link]measurement {
	all := make(map[*link]measurement, len(peers.all))
	e.measure(peers, func(p *peer, m measurement) { all[p.link] = m })
	return all
}

// measureWriter gets the device's whole text by one Write.
type measureWriter func(text []byte)

// Write implements io.Writer.
func (w measureWriter) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func readMeasurements(text []byte, visit func(PublicKey, measurement)) {
	var (
		key PublicKey
		m   measurement
		any bool
	)
	done := func() {
		if any {
			if m.seconds != 0 || m.nanos != 0 {
				m.handshake = time.Unix(m.seconds, m.nanos)
			}
			visit(key, m)
		}
	}
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		name, value, _ := bytes.Cut(line, []byte{'='})
		switch string(name) {
		case "public_key":
			done()
			m = measurement{}
			n, err := hex.Decode(key[:], value[:min(len(value), 2*keySize)])
			any = err == nil && n == keySize
		case "endpoint":
			m.endpoint, _ = netip.ParseAddrPort(string(value)) // what is no address stays invalid
		case "last_handshake_time_sec":
			m.seconds = readCount[int64](value)
		case "last_handshake_time_nsec":
			m.nanos = readCount[int64](value)
		case "rx_bytes":
			m.received = readCount[uint64](value)
		case "tx_bytes":
			m.sent = readCount[uint64](value)
		}
	}
	done()
}

// readCount reads a number of the device's, which are never negative. What is none is 0.
func readCount[T int64 | uint64](value []byte) T {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil {
		return 0
	}
	return T(n)
}
