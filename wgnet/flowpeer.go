// SPDX-License-Identifier: MIT

package wgnet

import "io"

// PeerID returns PeerKey as text, in base64: package gateway tells peers apart by it.
func (f *Flow) PeerID() string { return f.PeerKey().String() }

// ToPeer reports whether [Flow.Forward] can reach the destination: whether there is a [Flow.Target].
func (f *Flow) ToPeer() bool { return f.target != nil }

// WriteTo implements [io.WriterTo], as the connection of UDP and pings in package netstack does.
func (c *flowConn) WriteTo(w io.Writer) (int64, error) { return c.Conn.(io.WriterTo).WriteTo(w) }
