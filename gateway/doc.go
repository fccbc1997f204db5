// SPDX-License-Identifier: MIT

// Package gateway lets the peers of a tunnel into the networks of the host: TCP, UDP and ping, IPv4 and IPv6, through
// ordinary sockets, with no root, no ip_forward and no NAT in the kernel. It also decides which peers reach each other.
//
//	rules, err := gateway.ParseRules("allow tcp from laptop to 192.168.1.0/24 port 80,443")
//	gw, err := gateway.New(gateway.Config{Rules: rules, Logger: slog.Default()})
//	err = n.HandleFlows(func(f *wgnet.Flow) { gw.Serve(f) }) // n is a *wgnet.Net
//	defer gw.Close()
//
// On the other side, AllowedIPs name what is behind this one: 192.168.1.0/24, or 0.0.0.0/0 and ::/0 for an exit.
//
// # Policy
//
// Everything is denied unless a rule allows it. Of the rules, the first that matches decides; see [Rule] and [ParseRules].
// A peer whose flow is denied is told that it is prohibited, and the log says why.
//
// No rule but one that says special allows the host's own addresses, whatever it says else, nor these: loopback (127.0.0.0/8,
// ::1), link-local (169.254.0.0/16, fe80::/10), where clouds have their metadata services, and those that they have
// elsewhere (fd00:ec2::/32, fd20:ce::254, 100.100.100.200, 168.63.129.16 and others), 0.0.0.0/8, 192.0.0.0/24,
// 240.0.0.0/4, site-local, discard-only, and all of 6to4, Teredo, IPv4-compatible and IPv4-translated addresses. An address
// that has an IPv4 address in it (4-in-6, NAT64's 64:ff9b::/96, ISATAP) is what that one is. If the network has a NAT64
// with a prefix of its own, deny that prefix. Multicast, broadcast and unspecified addresses no rule can allow.
//
// The rules and the list of the host's addresses, which is no older than a second, are applied when the flow begins, and
// again, with what the host says at that moment, to the address that a socket is about to be connected to and when it is
// connected. On Linux the host's routing is asked, so addresses are its own that only a route makes so ("ip route add
// local"); elsewhere those of its interfaces are, and one that a socket has as its own and as its target's. Routes that
// need a mark or an interface, which a [Config.Control] may give to sockets, are not seen. [Gateway.SetRules] ends the flows
// that are not allowed any more.
//
// # What the peer sees
//
// The target is asked before the peer is answered: a closed port looks closed, and what is unreachable looks that way. A
// target that says nothing is a gateway that says nothing. Half-closes, resets and back-pressure are passed on. Targets see
// the host's address. UDP keeps each datagram whole, up to the largest, and lets in those of the target alone. What ICMP
// says of a datagram the peer is told, and the flow goes on (RFC 4787, REQ-10). Pings go out by sockets for that purpose,
// which macOS has for everybody, and Linux for the groups in net.ipv4.ping_group_range; see [Config.RawPing]. A ping that
// nobody answers is not answered.
//
// # Bounds
//
// Flows are bounded for each peer and in all; [Config.MaxFlows] says who has to go. A TCP connection takes up to 64 KiB
// beside the buffers of its two sockets; a UDP flow and a series of pings 64 KiB, and less if the flow's connection is an
// [io.WriterTo]. 16,384 pings of each family wait for an answer, 1,024 of a peer, for 10 seconds at most. Counters are
// kept of 4,096 peers. The idle times are those of RFC 4787, RFC 5382 and RFC 5508.
package gateway
