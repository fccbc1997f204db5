// SPDX-License-Identifier: MIT

// Package nettests tests whether sockets behave as those of package net do. It is for the tests of package netstack,
// whose sockets take addresses as values, and of package wgnet, whose sockets take them as text.
//
// [Conformance] plays each of its cases in a world of package net, on the host's loopback, and in other worlds, and
// compares what the cases note down: results, and what can be found out about an error without reading its text.
// [PacketConn] is to a [net.PacketConn] what nettest.TestConn of golang.org/x/net is to a [net.Conn].
package nettests
