// SPDX-License-Identifier: MIT

// Package memnet is a datagram network in memory: hosts with addresses, UDP-like endpoints on them, and links between
// them whose weather can be set. It carries WireGuard's datagrams where a real socket is not the point.
//
//	n := memnet.New(memnet.Options{Seed: 1})
//	defer n.Close()
//	a, err := n.ListenPacket(ctx, "udp", "10.1.0.1:51820") // a net.PacketConn, and a *memnet.Conn
//	b, err := n.ListenPacket(ctx, "udp", ":0")             // on a new host, with addresses that n picks
//	err = n.SetLink(addrOfA, addrOfB, memnet.Link{Latency: 20 * time.Millisecond, Loss: 0.1})
//
// A [Network] has [Host]s with one address or several, a host has endpoints ([Conn]), and a [NAT] can stand before
// hosts. [Network.ListenPacket] and [Host.ListenPacket] have the shape of [net.ListenConfig.ListenPacket]. An endpoint
// behaves as a UDP socket of the net package does: deadlines, errors, addresses, truncation of what does not fit.
//
// # Links
//
// A link is a pair of addresses and one direction, named by the addresses that the datagram shows outside of any NAT.
// Each has a [Link], from [Network.SetLink] or [Network.SetDefault], which may change at any time. A datagram passes,
// in this order: a cut; the MTU; the queue and the bandwidth; loss; corruption; duplication; reordering; latency and
// jitter; then the NAT and the receive buffer of where it arrives. Sizes on a link are those of IP packets, headers
// included. Latency and jitter never reorder: a datagram waits for those before it. Only Reorder does.
//
// What is written never waits: a full queue drops and counts, as a router does. A datagram for which nobody listens is
// gone without an error, as on the internet. [Stats] accounts for each one.
//
// # Fate
//
// Datagram n of a link, counted from 0 in the order of writing and whatever becomes of it, has a fate that is a pure
// function of [Options].Seed, the link's two addresses and n. Each link has a key, a hash of seed and addresses, and
// the draws for datagram n are outputs 8n to 8n+7 of the SplitMix64 generator seeded with that key: that generator's
// outputs can be computed one by one in any order. So neither time nor scheduling nor other links matter, and a
// recorded sequence meets the same fate twice. Each property has its own draw, and happens if the draw is below its
// probability: changing one leaves the others as they are, and raising one adds to what it hits. How long a datagram
// is decides which of its bits corruption flips, and nothing else. What a full queue or buffer drops depends on time,
// and so does the position of a held datagram if [Link].Hold runs out.
//
// # Time
//
// All time comes from package time, and whatever waits does so in a way that testing/synctest understands: in a bubble
// latency and bandwidth are exact and cost nothing. On a real clock deliveries are as punctual as the system's timers,
// which may be a millisecond late; what is due then arrives together, in order.
//
// # Speed
//
// A link without latency, bandwidth limit or reordering delivers inside the writer's call: one copy into a pooled
// buffer, one out of it, no goroutine and no allocation. [Conn.WriteBatch] and [Conn.ReadBatch] take each lock once
// for a batch.
//
// # Bounds
//
//   - a receive buffer: [Options].ReceiveBuffer bytes of memory each; a full one drops what arrives;
//   - everything under way (queued for bandwidth, held for reordering, in the latency): [Options].MaxInFlight bytes of
//     memory for the whole Network; beyond it datagrams are dropped as by a full queue;
//   - a bandwidth queue: [Link].Queue bytes;
//   - links: 1<<20 for a Network; beyond it writes between a new pair fail with [syscall.ENOBUFS];
//   - a NAT: 4,096 mappings with 1,024 remote endpoints each; beyond it new ones get nothing through;
//   - hosts and endpoints: as many as the caller opens, at most 65,535 ports an address.
//
// A datagram's memory is its length rounded up to a power of two, at least 256 bytes.
//
// # Invariants
//
//   - locks are taken in the order Network.mu, Network.linksMu, link.mu, and then NAT.mu or Conn.mu;
//   - a link delivers under its lock, so two datagrams never swap places on their way from link to receive buffer;
//   - a link with datagrams under way has a timer, and Network.Close stops it or waits for it;
//   - only what waits counts in Network.inFlight: what is due is delivered before a write returns.
package memnet
