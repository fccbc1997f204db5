// SPDX-License-Identifier: MIT

// Package wgnettest makes networks of wgnet hosts for tests, as net/http/httptest makes servers: any number of Nets that
// are each other's peers, in one call and in milliseconds, with no socket, no port and no root. The network between
// them is in memory, and has weather on demand.
//
//	func TestClient(t *testing.T) {
//		a, b := wgnettest.Pair(t) // at 10.0.0.1 and 10.0.0.2, with a session between them
//		l, err := b.Listen("tcp", ":80")
//		...
//		conn, err := a.Dial("tcp", "b:80")
//		...
//	}
//
// For more than two, or for weather, there is [NewNetwork]:
//
//	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"web", "api", "db"}})
//	web, api, db := n.Nodes[0], n.Nodes[1], n.Nodes[2]
//	n.SetLinks(wgnettest.Link{Latency: 5 * time.Millisecond, Loss: 0.01})
//	n.Cut(db) // from everybody
//	conn, err := web.Net.Dial("tcp", "api:80")
//
// Node i of a network is at 10.0.0.0/16 and fd00::/64, with i+1 as its last digits, and each knows the others by name.
// In a star the first node is the hub and the others, its spokes, know the hub alone.
//
// # Weather
//
// A [Link] is the weather in one direction between two nodes: latency, jitter, bandwidth, loss, duplication, reordering,
// corruption, MTU. [Network.SetLink] and [Network.SetLinks] set it, [Network.Cut] and [Network.Heal] take a link away and
// give it back, [Network.Move] gives a node another outer address, [Network.AddNAT] puts nodes behind a NAT,
// [Network.Restart] kills a node's Net and starts it again: all of them at any time. What becomes of datagram n of a link
// depends on [Config].Seed, the link and n, and on nothing else. A test that fails logs the seed: give it to the Config,
// and the same datagrams meet the same fate again.
//
// # Members of other kinds
//
// [NewUnstartedNetwork] and [Network.Start] are for what has to happen before the Nets start: changes of
// [Node.Config], and members that are not Nets, which [Network.Join] takes in: [Node.ListenPacket] is their socket.
//
// # The end
//
// When the test ends, the network is closed and the test fails if something is left behind. What counts:
//
//   - sockets of a Net that are still open (see [wgnet.Net.Sockets]): listeners, packet conns, and TCP connections that
//     the test, or a server of it, has not closed. An idle connection of an HTTP client is one: close it with
//     CloseIdleConnections. Links are healed and made perfect first, and what is just ending gets 5 seconds;
//   - outer sockets that [Node.ListenPacket] opened;
//   - goroutines that New has started and that go on after the Net's Close, and theirs. They are told by their profiler
//     label, so other tests may run in parallel. Those begun by the test's own calls, such as Dial, are not told.
//
// What the test registers with Cleanup after the network, or defers, comes before that.
//
// A Network's methods are safe for concurrent use, but for Join, and for Restart of a node whose Net is used meanwhile. Those that find a mistake of the caller fail the test and do nothing.
package wgnettest
