// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"example.com/wgnet/wgnet"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// The addresses of the two ends of a pair.
var (
	clientAddr = netip.MustParseAddr("10.0.0.1")
	serverAddr = netip.MustParseAddr("10.0.0.2")
)

// mtu is WireGuard's usual one, for both sides.
const mtu = 1420

// side is one of the implementations that are compared.
type side struct {
	name string
	open func() (*pair, error)
}

// pair is two hosts of one implementation, with a session between them.
type pair struct {
	dial         func(ctx context.Context, network, address string) (net.Conn, error) // from the client
	listen       func(port int) (net.Listener, error)                                 // on the server
	listenPacket func(port int) (net.PacketConn, error)                               // on the server
	close        func() error
}

// newWgnet makes a pair of Nets.
func newWgnet() (*pair, error) { return wgnetPair("127.0.0.1", nil) }

// listenFunc is a transport: see [wgnet.Config].
type listenFunc = func(ctx context.Context, network, address string) (net.PacketConn, error)

// wgnetPair makes a pair whose server is at host. transports, if not nil, are the client's and the server's.
func wgnetPair(host string, transports *[2]listenFunc) (*pair, error) {
	client, server, err := wgnetConfigs()
	if err != nil {
		return nil, err
	}
	if transports != nil {
		client.ListenPacket, server.ListenPacket = transports[0], transports[1]
	}
	s, err := wgnet.New(server)
	if err != nil {
		return nil, err
	}
	client.Peers[0].Endpoint = fmt.Sprintf("%s:%d", host, s.ListenPort())
	c, err := wgnet.New(client)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &pair{
		dial:         c.DialContext,
		listen:       func(port int) (net.Listener, error) { return s.Listen("tcp", ":"+strconv.Itoa(port)) },
		listenPacket: func(port int) (net.PacketConn, error) { return s.ListenPacket("udp", ":"+strconv.Itoa(port)) },
		close:        func() error { return errors.Join(c.Close(), s.Close()) },
	}, nil
}

func wgnetConfigs() (client, server *wgnet.Config, err error) {
	client = &wgnet.Config{
		PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.PrefixFrom(clientAddr, 24)}, MTU: mtu,
	}
	server = &wgnet.Config{
		PrivateKey: wgnet.NewPrivateKey(), Addresses: []netip.Prefix{netip.PrefixFrom(serverAddr, 24)}, MTU: mtu,
	}
	client.Peers = []wgnet.PeerConfig{{PublicKey: server.PrivateKey.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(serverAddr, 32)}}}
	server.Peers = []wgnet.PeerConfig{{PublicKey: client.PrivateKey.Public(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(clientAddr, 32)}}}
	return client, server, nil
}

// newUpstream makes a pair of upstream's devices on upstream's stack, as its documentation shows.
func newUpstream() (*pair, error) {
	return upstreamPair("127.0.0.1", [2]conn.Bind{conn.NewStdNetBind(), conn.NewStdNetBind()})
}

// upstreamPair makes a pair whose server is at host, over the client's and the server's bind.
func upstreamPair(host string, binds [2]conn.Bind) (*pair, error) {
	clientKey, serverKey, err := newKeys()
	if err != nil {
		return nil, err
	}
	server, serverNet, err := upstreamHost(serverAddr, binds[1], fmt.Sprintf("private_key=%x\nlisten_port=0\npublic_key=%x\nallowed_ip=%s/32\n",
		serverKey.Bytes(), clientKey.PublicKey().Bytes(), clientAddr))
	if err != nil {
		return nil, err
	}
	port, err := listenPort(server)
	if err != nil {
		return nil, err
	}
	client, clientNet, err := upstreamHost(clientAddr, binds[0], fmt.Sprintf("private_key=%x\nlisten_port=0\npublic_key=%x\nallowed_ip=%s/32\nendpoint=%s:%s\n",
		clientKey.Bytes(), serverKey.PublicKey().Bytes(), serverAddr, host, port))
	if err != nil {
		return nil, err
	}
	return &pair{
		dial:   clientNet.DialContext,
		listen: func(port int) (net.Listener, error) { return serverNet.ListenTCP(&net.TCPAddr{Port: port}) },
		listenPacket: func(port int) (net.PacketConn, error) {
			return serverNet.ListenUDPAddrPort(netip.AddrPortFrom(serverAddr, uint16(port)))
		},
		close: func() error { client.Close(); server.Close(); return nil },
	}, nil
}

func newKeys() (a, b *ecdh.PrivateKey, err error) {
	if a, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return nil, nil, err
	}
	b, err = ecdh.X25519().GenerateKey(rand.Reader)
	return a, b, err
}

func upstreamHost(addr netip.Addr, bind conn.Bind, config string) (*device.Device, *netstack.Net, error) {
	tun, tnet, err := netstack.CreateNetTUN([]netip.Addr{addr}, nil, mtu)
	if err != nil {
		return nil, nil, err
	}
	dev := device.NewDevice(tun, bind, device.NewLogger(device.LogLevelSilent, ""))
	if err := dev.IpcSet(config); err != nil {
		return nil, nil, err
	}
	return dev, tnet, dev.Up()
}

func listenPort(dev *device.Device) (string, error) {
	state, err := dev.IpcGet()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(state) {
		if port, ok := strings.CutPrefix(strings.TrimSpace(line), "listen_port="); ok {
			return port, nil
		}
	}
	return "", errors.New("the device has no listen port")
}

// verify sends some megabytes and compares hashes, outside of any timing.
func (s side) verify() error {
	const size = 16 << 20
	p, err := s.open()
	if err != nil {
		return err
	}
	l, err := p.listen(1)
	if err != nil {
		return err
	}
	type sum struct {
		hash string
		err  error
	}
	got := make(chan sum, 1)
	go func() { // ends with the connection
		c, err := l.Accept()
		if err != nil {
			got <- sum{err: err}
			return
		}
		h := sha256.New()
		_, err = io.Copy(h, c)
		got <- sum{hex.EncodeToString(h.Sum(nil)), errors.Join(err, c.Close())}
	}()
	c, err := p.dial(context.Background(), "tcp", net.JoinHostPort(serverAddr.String(), "1"))
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(c, h), io.LimitReader(rand.Reader, size)); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	received := <-got
	if received.err != nil {
		return received.err
	}
	if sent := hex.EncodeToString(h.Sum(nil)); sent != received.hash {
		return fmt.Errorf("%d bytes came out with another hash than they went in with", size)
	}
	return errors.Join(l.Close(), p.close())
}
