// SPDX-License-Identifier: MIT

package wgnet

// PeerID returns PeerKey as text, in base64: package gateway tells peers apart by it.
func (f *Flow) PeerID() string { return f.PeerKey().String() }

// ToPeer reports whether [Flow.Forward] can reach the destination: whether there is a [Flow.Target].
func (f *Flow) ToPeer() bool { return f.target != nil }
