// SPDX-License-Identifier: MIT

package wgnet

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"example.com/wgnet/internal/outer"
	"golang.zx2c4.com/wireguard/device"
)

// deviceLine says what a line of the device's log is in ours.
type deviceLine struct {
	message string
	attrs   []string // the names of the arguments, in order; a peer's is of no account
	// foreign says that whoever can send us datagrams can cause the line, or a network that fails can, at any rate.
	foreign bool
}

var (
	ofPeer  = []string{"peer"}
	ofError = []string{"peer", "err"}
)

// deviceLines are the device's lines, by their format. A test compares the list with the device's source.
var deviceLines = map[string]deviceLine{
	logInitiation:                   {"handshake initiation sent", ofPeer, false},
	logResponse:                     {"handshake response received", ofPeer, false},
	logOurResponse:                  {"handshake response sent", ofPeer, false},
	logPeerInitiation:               {"handshake initiation received", ofPeer, false},
	logKeepalive:                    {"keepalive received", ofPeer, false},
	logGivingUp:                     {"handshake given up", []string{"peer", "attempts"}, false},
	"%v - Sending keepalive packet": {"keepalive sent", ofPeer, false},
	"%s - Handshake did not complete after %d seconds, retrying (try %d)":       {"handshake unanswered, trying again", []string{"peer", "seconds", "try"}, false},
	"%s - Retrying handshake because we stopped hearing back after %d seconds":  {"peer silent, trying a handshake", []string{"peer", "seconds"}, false},
	"%s - Removing all keys, since we haven't received a new one in %d seconds": {"old keys removed", []string{"peer", "seconds"}, false},
	"%v - ConsumeMessageInitiation: handshake replay @ %v":                      {"handshake initiation refused: its time stamp is not newer than the last one's", []string{"peer", "timestamp"}, true},
	"%v - ConsumeMessageInitiation: handshake flood":                            {"handshake initiation refused: it came too soon after the last one", ofPeer, true},
	logDisallowed4: {"packet refused: its source address is not in the peer's AllowedIPs", ofPeer, true},
	logDisallowed6: {"packet refused: its source address is not in the peer's AllowedIPs", ofPeer, true},
	logBadVersion:  {"packet refused: it is neither IPv4 nor IPv6", ofPeer, true},
	logBadResponse: {"handshake response refused: it answers no initiation of ours, or the preshared keys differ", []string{"from"}, true},
	"Received invalid initiation message from %s":                 {"handshake initiation refused: it is of no peer of ours, or not authentic", []string{"from"}, true},
	"Received packet with invalid mac1":                           {"handshake message refused: it is not meant for our public key", nil, true},
	"Received message with unknown type":                          {"datagram refused: it is no WireGuard message", nil, true},
	"Receiving cookie response from %s":                           {"cookie reply received: the peer has too many handshakes at a time", []string{"from"}, true},
	"Could not decrypt invalid cookie response":                   {"cookie reply refused: it is not authentic", nil, true},
	"Failed to decode cookie reply":                               {"cookie reply refused: it is malformed", nil, true},
	"Sending cookie response for denied handshake message for %v": {"cookie reply sent: too many handshakes at a time", []string{"to"}, true},
	"Failed to create cookie reply: %v":                           {"cookie reply failed", []string{"err"}, true},
	"Failed to decode initiation message":                         {"handshake initiation refused: it is malformed", nil, true},
	"Failed to decode response message":                           {"handshake response refused: it is malformed", nil, true},
	"Invalid packet ended up in the handshake queue":              {"handshake message refused: its type is unknown", nil, true},
	"%v - Failed to create initiation message: %v":                {"handshake initiation failed", ofError, true},
	logUnsent: {"handshake initiation not sent", ofError, true},
	"%v - Failed to create response message: %v":       {"handshake response failed", ofError, true},
	"%v - Failed to send handshake response: %v":       {"handshake response not sent", ofError, true},
	"%v - Failed to derive keypair: %v":                {"handshake failed: no keys", ofError, true},
	"%v - Failed to send data packets: %v":             {"packets not sent", ofError, true},
	"Failed to receive %s packet: %v":                  {"receiving from the network failed", []string{"receiver", "err"}, true},
	"Received packet with unknown IP version":          {"packet of the stack refused: it is neither IPv4 nor IPv6", nil, true},
	"Dropped some packets from multi-segment read: %v": {"packets of the stack refused", []string{"err"}, true},
	"Failed to read packet from TUN device: %v":        {"reading from the stack failed", []string{"err"}, true},
	"Trouble determining MTU, assuming default: %v":    {"the stack's MTU is not known", []string{"err"}, true},
	"Unable to update bind: %v":                        {"opening the socket failed", []string{"err"}, true},
	"Bind close failed: %v":                            {"closing the socket failed", []string{"err"}, true},
	"Failed to write packets to TUN device: %v":        {"writing to the stack failed", []string{"err"}, true},
}

// deviceSilent begin the lines that tell of what we do to the device ourselves, or of its inner life.
var deviceSilent = []string{
	"Routine: ", "%v - Routine: ", "%v - Starting", "%v - Stopping", "UAPI: ", "%v - UAPI: ", "Interface ", "Device clos",
	"UDP bind has been updated", "MTU updated: ", "MTU not updated", "Failed to load updated MTU", "invalid UAPI operation",
}

// logIPCError is an error that the caller of IpcSet gets, too.
const logIPCError = "%v"

// understood says whether a format is one that we translate, or leave out.
func understood(format string) bool {
	if _, ok := deviceLines[format]; ok || format == logIPCError {
		return true
	}
	for _, prefix := range deviceSilent {
		if strings.HasPrefix(format, prefix) {
			return true
		}
	}
	return false
}

// newLogLimits makes a limit for each line that an outsider can cause (fault 71), and one for those not foreseen.
func newLogLimits() map[string]*outer.LogLimit {
	limits := map[string]*outer.LogLimit{"": new(outer.LogLimit)}
	for format, line := range deviceLines {
		if line.foreign {
			limits[format] = new(outer.LogLimit)
		}
	}
	return limits
}

// translate logs a line of the device's as one of ours. It may come with locks of the device held.
func (t *tunnel) translate(level slog.Level, format string, args []any) {
	if !t.log.Enabled(context.Background(), level) {
		return
	}
	line, ok := deviceLines[format]
	if !ok && understood(format) {
		return
	}
	limit := t.limits[format]
	if !ok {
		// A line that the device has in few places, such as one whose format is an error's text.
		line, limit = deviceLine{"of the WireGuard device", []string{"text"}, true}, t.limits[""]
		args = []any{fmt.Sprintf(format, args...)}
	}
	var attrs []slog.Attr
	if limit != nil {
		unlogged, ok := limit.Allow()
		if !ok {
			return
		}
		if unlogged > 0 {
			attrs = append(attrs, slog.Int("unlogged", unlogged))
		}
	}
	for i, arg := range args {
		if dev, ok := arg.(*device.Peer); ok {
			// One that is not in the table is being removed.
			if p, ok := t.byDevice.Load(dev); ok {
				attrs = append(attrs, p.(*peer).logAttrs()...)
			}
			continue
		}
		if i >= len(line.attrs) {
			break
		}
		switch arg.(type) {
		case int, int64, uint32, string, error:
		default:
			arg = fmt.Sprint(arg) // now: it is the device's, and may change
		}
		attrs = append(attrs, slog.Any(line.attrs[i], arg))
	}
	t.log.LogAttrs(context.Background(), level, line.message, attrs...)
}

// logAttrs say in a log line which peer it is about.
func (p *peer) logAttrs() []slog.Attr {
	return []slog.Attr{slog.String("peer", p.label()), slog.String("key", p.PublicKey.String())}
}
