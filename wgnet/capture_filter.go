// SPDX-License-Identifier: MIT

package wgnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The numbers of protocols in IP headers.
const (
	protocolHopByHop    = 0
	protocolICMP        = 1
	protocolTCP         = 6
	protocolUDP         = 17
	protocolRouting     = 43
	protocolFragment    = 44
	protocolICMP6       = 58
	protocolDestination = 60
)

// captureFilter chooses the packets of a capture. It never changes.
type captureFilter struct {
	peers    map[PublicKey]bool // none: all
	protocol string
	port     uint16
}

func newCaptureFilter(opts CaptureOptions) (captureFilter, error) {
	f := captureFilter{protocol: strings.ToLower(opts.Protocol), port: opts.Port, peers: map[PublicKey]bool{}}
	switch f.protocol {
	case "", "tcp", "udp", "icmp":
	default:
		return f, fmt.Errorf("there is no protocol %s to choose: want tcp, udp, icmp or nothing", show(opts.Protocol))
	}
	if f.protocol == "icmp" && f.port != 0 {
		return f, errors.New("ICMP has no ports: want tcp or udp with a port")
	}
	for _, key := range opts.Peers {
		f.peers[key] = true
	}
	return f, nil
}

// String is the choice in the words of pcap-filter(7), but for the peers.
func (f *captureFilter) String() string {
	var parts []string
	switch {
	case f.protocol == "icmp":
		parts = append(parts, "icmp or icmp6")
	case f.protocol != "":
		parts = append(parts, f.protocol)
	}
	if f.port != 0 {
		parts = append(parts, fmt.Sprintf("port %d", f.port))
	}
	return strings.Join(parts, " ")
}

func (f *captureFilter) wants(key PublicKey) bool { return len(f.peers) == 0 || f.peers[key] }

// matches says whether a packet, which may be malformed, is of the protocol and the port.
func (f *captureFilter) matches(packet []byte) bool {
	if f.protocol == "" && f.port == 0 {
		return true
	}
	protocol, payload := transport(packet)
	name := ""
	switch protocol {
	case protocolTCP:
		name = "tcp"
	case protocolUDP:
		name = "udp"
	case protocolICMP, protocolICMP6:
		name = "icmp"
	}
	switch {
	case name == "" || f.protocol != "" && f.protocol != name:
		return false
	case f.port == 0:
		return true
	case name == "icmp" || len(payload) < 4:
		return false
	}
	return binary.BigEndian.Uint16(payload) == f.port || binary.BigEndian.Uint16(payload[2:]) == f.port
}

// transport finds the protocol above IP, or -1, and where its header begins; nothing begins in a later fragment.
func transport(packet []byte) (protocol int, payload []byte) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		size := int(packet[0]&0xf) * 4
		if size < 20 || size > len(packet) {
			return -1, nil
		}
		if binary.BigEndian.Uint16(packet[6:])&0x1fff == 0 { // the fragment offset (RFC 791, section 3.1)
			payload = packet[size:]
		}
		return int(packet[9]), payload
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return transport6(int(packet[6]), packet[40:])
	}
	return -1, nil
}

// transport6 passes over the extension headers (RFC 8200, section 4).
func transport6(next int, rest []byte) (protocol int, payload []byte) {
	for {
		size := 8
		switch next {
		case protocolHopByHop, protocolRouting, protocolDestination:
			if len(rest) < 8 {
				return -1, nil
			}
			size += int(rest[1]) * 8
		case protocolFragment:
			if len(rest) < 8 {
				return -1, nil
			}
			if binary.BigEndian.Uint16(rest[2:])&^7 != 0 { // the fragment offset
				return int(rest[0]), nil
			}
		default:
			return next, rest
		}
		if size > len(rest) {
			return -1, nil
		}
		next, rest = int(rest[0]), rest[size:]
	}
}
