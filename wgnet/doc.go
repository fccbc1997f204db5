// SPDX-License-Identifier: MIT

// Package wgnet puts a Go program on a WireGuard network, with no root, no TUN device and no sidecar: a [Net] is a
// whole host, tunnel and TCP/IP stack, inside the process.
//
//	cfg, err := wgnet.LoadConfig("wg0.conf")
//	if err != nil {
//		return err
//	}
//	n, err := wgnet.New(cfg)
//	if err != nil {
//		return err
//	}
//	defer n.Close()
//
//	l, err := n.Listen("tcp", ":9090")        // serve inside the tunnel
//	conn, err := n.Dial("tcp", "10.0.0.2:80") // dial through it
//
// # What it feels like
//
// It feels like package net. [Net.Dial], [Net.DialContext], [Net.Listen] and [Net.ListenPacket] take the networks and
// addresses that their namesakes take and return [net.Conn], [net.Listener] and [net.PacketConn]. Errors are
// [*net.OpError], and errors.Is finds the errno, [net.ErrClosed], [os.ErrDeadlineExceeded] and the context's errors
// where it would with a socket of the machine. So whatever takes a dialer or a listener runs on a Net:
//
//	client := &http.Client{Transport: &http.Transport{DialContext: n.DialContext}}
//	err := http.Serve(l, handler)
//
// # Configuration
//
// A [Config] is what stands in a wg-quick file; [LoadConfig] and [ParseConfig] read one as people really write them, and
// [Config.MarshalText] writes one; [ParseToken] and [Config.Token] do the same with one line of text to paste. What a
// file asks of the machine (PostUp, Table, FwMark) is never done: it is in [Config.Warnings]. Keys are types of their
// own: [PrivateKey] and [PresharedKey] print as "(redacted)" everywhere.
//
// # Lifecycle
//
// [New] validates the config, opens the UDP port and returns; it never waits for the network. Handshakes with all peers
// that have an endpoint begin at once. [Net.Close] aborts what is open and returns when every goroutine has ended; it
// may be called at any moment and more than once. After it, every call answers [net.ErrClosed]. [Net.Shutdown] lets open
// connections finish before, and waits until what was written has arrived.
//
// A peer that restarts is noticed when it owes an answer for half a second: a new handshake begins then, well before
// WireGuard's own 15 s, so connections to it work again within a second.
//
// A peer that moves is followed: to where its authenticated packets come from, and to where the host name in its endpoint
// leads, all of whose addresses are tried ([Config.ResolveInterval], [PeerConfig.PinEndpoint]). A UDP socket that is lost
// is replaced. A machine that wakes from sleep makes new sessions at once. One whose clock was set back cannot, since peers
// take its handshakes for replays; [Net.Status] says so.
//
// # A network that changes
//
// [Net.AddPeer], [Net.UpdatePeer] and [Net.RemovePeer] change one peer. [Net.Apply] turns the Net into what a whole
// Config says: other peers, another key, other addresses, another port. It is all or nothing, and touches what differs
// only. Connections to a peer that is removed, and on an address that goes, are reset.
//
// [Net.Invite] picks keys and an address for a new peer and returns the whole Config for its side.
//
// # Who is there
//
// WireGuard has authenticated whoever sends a packet, so a service needs no passwords: [PeerOf] says which peer is behind a
// connection, and [Net.PeerFor] who serves an address. Package wghttp has the same for the handlers of an HTTP server.
//
// # Beyond the Net's own addresses
//
// A peer may send to addresses behind this host, or of other peers, if its own AllowedIPs have them. Such packets go
// nowhere until [Net.HandleFlows] has a handler: it sees each connection, UDP conversation and ping before anything is
// answered, and accepts it as a [net.Conn], forwards it to the peer that serves the address, refuses or drops it.
//
// # Names
//
// A host to dial is an IP address, localhost, the name of a peer ([PeerConfig.Name]), or a name that the servers in
// [Config.DNS] know. They are asked through the tunnel only: the machine's resolver, its files and its environment have
// no say. localhost is the Net's own loopback, never the machine's. Only the host names in peers' endpoints are looked
// up outside, since the tunnel is not there yet.
//
// # When it does not work
//
// WireGuard is silent by design: a wrong key, a closed port and a firewall look alike. A dial or ping that times out
// says what the tunnel knows: which peer, at which endpoint, how many handshakes went unanswered, or that the tunnel is
// up and the host behind it is silent. A dial to an address that is in no peer's AllowedIPs fails at once.
//
// # What is going on
//
// [Net.Status] is a snapshot: for each peer its state, endpoint, last handshake and counters. It prints as `wg show` does
// and marshals to JSON, with no secret in it. [Net.Events] tells of peers that come up, go down, move or are not to be
// reached. [Config.Logger] hears the same story at level Info, trouble at Warn, and the protocol at Debug; what strangers
// can cause is logged once in ten seconds at most. None of them can know whether a handshake initiation arrived, which of
// a wrong key, a firewall or a clock kept the other side silent, or whether a peer is still there between two packets.
//
// [Net.Capture] writes the packets inside the tunnel as a file that Wireshark and tcpdump open.
// [Net.ServeUAPI] lets `wg show` show a Net.
//
// # Limits
//
// An idle Net costs about 18 goroutines and two or three MB; a peer 28 KB and two goroutines; an idle connection 5 KB;
// a closed one in TIME_WAIT 7 to 8 KB for a minute, of which there are at most 4,096. What was in the queues of a Net that
// is closed under load, some 15 MB, is free after three garbage collections. Datagrams of up to 65,507 bytes pass whole.
// Multicast and broadcast do not exist inside a tunnel.
package wgnet
