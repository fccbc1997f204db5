// SPDX-License-Identifier: MIT

// Package netstack is a TCP/IP stack inside the process, in the shape of a WireGuard device's TUN.
//
// A [Stack] is a host of its own: it has addresses, a loopback, ports and sockets that share nothing with the
// machine it runs on. Its packets leave and arrive through the [golang.zx2c4.com/wireguard/tun.Device] that
// [Stack.Device] returns, which is what golang.zx2c4.com/wireguard/device.NewDevice takes:
//
//	st, err := netstack.New(netstack.Config{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}})
//	dev := device.NewDevice(st.Device(), conn.NewDefaultBind(), logger)
//	// configure dev, bring it up
//	conn, err := st.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.2:80"))
//
// The stack outlives the device: closing the device closes its facade only, and a second device may take over
// with the connections still alive. [Stack.Close] ends the stack.
//
// What peers send to other addresses than the stack's own goes to the handler of [Stack.HandleFlows], which accepts,
// forwards or refuses each [Flow]; without one it goes nowhere.
//
// The stack itself is gVisor's; connections, listeners, errors, deadlines and the link to the device are this
// package's own, and behave as those of the net package do. Names and host strings are not its business: it
// takes [net/netip] addresses. Package wgnet puts names, keys and peers on top.
package netstack
