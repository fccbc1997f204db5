// SPDX-License-Identifier: MIT

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"text/tabwriter"
	"time"

	"example.com/wgnet/gateway"
	"example.com/wgnet/internal/memnet"
	"example.com/wgnet/wgnet"
	"golang.zx2c4.com/wireguard/device"
)

const (
	// floodSYNs and floodTuples are how many SYNs and datagrams there are a second, each of another tuple of addresses and
	// ports: of UDP it makes a million in a minute.
	floodSYNs, floodTuples = 100_000, 1_000_000. / 60
	// dialPause is the time between two dials of the peer that means no harm, and dialPatience how long one may take.
	dialPause    = 20 * time.Millisecond
	dialPatience = 10 * time.Second
)

// flooded is what came of a flood.
type flooded struct {
	Seconds float64 `json:"seconds"`
	// SYNs and UDP were sent, and Received of both came out of the tunnel.
	SYNs     uint64 `json:"syns"`
	UDP      uint64 `json:"udp"`
	Received uint64 `json:"received"`
	// Tunnel and Gateway say what became of them.
	Tunnel  wgnet.FlowStats  `json:"tunnel"`
	Gateway gateway.Counters `json:"gateway"`
	// Before, Most and After are of the whole process, both peers and the network between them included.
	Before footprint `json:"before"`
	Most   footprint `json:"most"`
	After  footprint `json:"after"`
	// Idle and Under are another peer's connections through the gateway.
	Idle  dialTimes `json:"idle"`
	Under dialTimes `json:"under"`
}

// footprint is what the process takes.
type footprint struct {
	Heap       uint64 `json:"heap"`   // bytes of objects that the last collection of garbage left
	Stacks     uint64 `json:"stacks"` // bytes
	Total      uint64 `json:"total"`  // bytes that the runtime has of the system
	Goroutines uint64 `json:"goroutines"`
}

// dialTimes says how long connections took, until the first byte had come back.
type dialTimes struct {
	P50    time.Duration `json:"p50"`
	P99    time.Duration `json:"p99"`
	Made   int           `json:"made"`
	Failed int           `json:"failed"`
}

// measureFootprint reads what the runtime knows, without stopping anything.
func measureFootprint() footprint {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(s)
	return footprint{s[0].Value.Uint64(), s[1].Value.Uint64(), s[2].Value.Uint64() - s[3].Value.Uint64(), s[4].Value.Uint64()}
}

func (u footprint) max(v footprint) footprint {
	return footprint{max(u.Heap, v.Heap), max(u.Stacks, v.Stacks), max(u.Total, v.Total), max(u.Goroutines, v.Goroutines)}
}

// The hosts of a flood, in the tunnel, and whom they ask for behind it.
var (
	doorAddr, modestAddr, greedyAddr = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	beyond                           = netip.MustParsePrefix("172.16.0.0/12")
	echoAt                           = netip.MustParseAddrPort("172.31.0.1:7")
	floodSYNsAt, floodUDPAt          = netip.MustParseAddr("172.16.0.0"), netip.MustParseAddr("172.24.0.0")
)

// arena is a gateway with a peer that floods it and one that does not, over a network in memory.
type arena struct {
	door, modest *wgnet.Net
	gateway      *gateway.Gateway
	tun          *floodTUN
	closers      []func() error // in the order of their making
}

func (a *arena) close() (err error) {
	for _, c := range slices.Backward(a.closers) {
		err = errors.Join(err, c())
	}
	return err
}

// openFlow is a Flow whose target is on the loopback.
type openFlow struct {
	*wgnet.Flow
	to netip.AddrPort
}

func (f openFlow) Destination() netip.AddrPort { return f.to }

func newArena(synRate, udpRate float64) (a *arena, err error) {
	a = &arena{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	echo, sink, hole, err := a.targets()
	if err != nil {
		return a, err
	}
	network := memnet.New(memnet.Options{})
	a.closers = append(a.closers, network.Close)
	one := func(addr netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())} }
	doorKey, modestKey := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	greedyKey, _, err := newKeys()
	if err != nil {
		return a, err
	}
	a.door, err = wgnet.New(&wgnet.Config{
		PrivateKey: doorKey, Addresses: one(doorAddr), ListenPacket: memListen(network, serverHost),
		Peers: []wgnet.PeerConfig{
			{Name: "modest", PublicKey: modestKey.Public(), AllowedIPs: one(modestAddr)},
			{Name: "greedy", PublicKey: wgnet.PublicKey(greedyKey.PublicKey().Bytes()), AllowedIPs: one(greedyAddr)},
		},
	})
	if err != nil {
		return a, err
	}
	a.closers = append(a.closers, a.door.Close)
	rules, err := gateway.ParseRules("allow tcp,udp to 127.0.0.1 special")
	if err != nil {
		return a, err
	}
	if a.gateway, err = gateway.New(gateway.Config{Rules: rules}); err != nil {
		return a, err
	}
	a.closers = append(a.closers, a.gateway.Close)
	err = a.door.HandleFlows(func(f *wgnet.Flow) {
		to := hole
		switch {
		case f.Network() == "udp":
			to = sink
		case f.Destination() == echoAt:
			to = echo
		}
		a.gateway.Serve(openFlow{f, to})
	})
	if err != nil {
		return a, err
	}
	endpoint := netip.AddrPortFrom(serverHost, a.door.ListenPort())
	a.modest, err = wgnet.New(&wgnet.Config{
		PrivateKey: modestKey, Addresses: one(modestAddr), ListenPacket: memListen(network, clientHost),
		Peers: []wgnet.PeerConfig{{PublicKey: doorKey.Public(), Endpoint: endpoint.String(), AllowedIPs: []netip.Prefix{beyond}}},
	})
	if err != nil {
		return a, err
	}
	a.closers = append(a.closers, a.modest.Close)
	a.tun = newFloodTUN(greedyAddr, floodSYNsAt, floodUDPAt, synRate, udpRate)
	dev := device.NewDevice(a.tun, floodBind{&memBind{network: network, addr: netip.MustParseAddr("192.0.2.3")}, a.tun},
		device.NewLogger(device.LogLevelSilent, ""))
	a.closers = append(a.closers, func() error { dev.Close(); return nil })
	door := doorKey.Public()
	err = dev.IpcSet(fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=%v\nallowed_ip=%v\n", greedyKey.Bytes(), door[:], endpoint, beyond))
	if err != nil {
		return a, err
	}
	return a, dev.Up()
}

// targets are an echo, a socket that reads and says nothing, and a port at which SYNs are lost.
func (a *arena) targets() (echo, sink, hole netip.AddrPort, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return echo, sink, hole, err
	}
	a.closers = append(a.closers, l.Close)
	go func() { // ends with its listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends when the gateway closes the connection
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return echo, sink, hole, err
	}
	a.closers = append(a.closers, pc.Close)
	go func() { // ends with its socket
		b := make([]byte, 100)
		for {
			if _, _, err := pc.ReadFrom(b); err != nil {
				return
			}
		}
	}()
	nowhere, closeHole, err := blackHole()
	if err != nil {
		return echo, sink, hole, err
	}
	a.closers = append(a.closers, func() error { closeHole(); return nil })
	return l.Addr().(*net.TCPAddr).AddrPort(), pc.LocalAddr().(*net.UDPAddr).AddrPort(), nowhere.(*net.TCPAddr).AddrPort(), nil
}

// dial makes connections for some time, as the modest peer. It tells progress how it goes, each time.
func (a *arena) dial(length time.Duration, progress func()) dialTimes {
	var d dialTimes
	var took []time.Duration
	end := time.After(length)
	tick := time.NewTicker(dialPause)
	defer tick.Stop()
	for {
		select {
		case <-end:
			slices.Sort(took)
			if d.Made = len(took); d.Made > 0 {
				d.P50, d.P99 = took[d.Made/2], took[d.Made*99/100]
			}
			return d
		case <-tick.C:
		}
		begin := time.Now()
		if err := a.connect(); err != nil {
			d.Failed++
		} else {
			took = append(took, time.Since(begin))
		}
		progress()
	}
}

// connect makes one connection, and has a byte come back over it.
func (a *arena) connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	c, err := a.modest.DialContext(ctx, "tcp", echoAt.String())
	if err != nil {
		return err
	}
	defer c.Close()
	b := []byte{1}
	if err := c.SetDeadline(time.Now().Add(dialPatience)); err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

// measureFlood has one peer flood a gateway for a time, with so many SYNs and datagrams a second, and measures how another
// one fares. It says to progress how it goes.
func measureFlood(length time.Duration, synRate, udpRate float64, progress io.Writer) (got flooded, err error) {
	a, err := newArena(synRate, udpRate)
	if err != nil {
		return got, err
	}
	if err := a.connect(); err != nil { // and there is a session
		return got, errors.Join(err, a.close())
	}
	got.Idle = a.dial(min(length, 10*time.Second), func() {})
	runtime.GC()
	got.Before = measureFootprint()
	got.Most = got.Before
	said := time.Now()
	begin := time.Now()
	a.tun.start()
	got.Under = a.dial(length, func() {
		now := measureFootprint()
		got.Most = got.Most.max(now)
		if time.Since(said) > time.Second {
			said = time.Now()
			fmt.Fprintf(progress, "\r%3.0f s: %d SYNs, %d datagrams; heap %.1f MB, %d goroutines, %d flows ",
				time.Since(begin).Seconds(), a.tun.syns.Load(), a.tun.udp.Load(), mega(now.Heap), now.Goroutines, a.gateway.Status().Open)
		}
	})
	got.Seconds = time.Since(begin).Seconds()
	got.SYNs, got.UDP = a.tun.syns.Load(), a.tun.udp.Load()
	fmt.Fprint(progress, "\n")
	// The flooding peer goes; the others stay, and what it has begun is ended.
	err = a.closers[len(a.closers)-1]()
	a.closers = a.closers[:len(a.closers)-1]
	for _, p := range a.door.Status().Peers {
		if p.Name == "greedy" {
			got.Received, got.Tunnel = p.PacketsReceived, p.Flows
		}
	}
	got.Gateway = a.gateway.Status().Counters
	err = errors.Join(err, a.gateway.Close())
	runtime.GC()
	runtime.GC() // pools keep what they have for one collection
	got.After = measureFootprint()
	return got, errors.Join(err, a.close())
}

func mega(n uint64) float64 { return float64(n) / 1e6 }

// floodCommand is the command with -flood.
func floodCommand(_ int, length time.Duration, _ string, asJSON bool) error {
	got, err := measureFlood(length, floodSYNs, floodTuples, os.Stderr)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(got)
	}
	return printFlood(os.Stdout, got)
}

func printFlood(w io.Writer, f flooded) error {
	rate := func(n uint64) string { return fmt.Sprintf("%d, %.0f a second", n, float64(n)/f.Seconds) }
	fmt.Fprintf(w, "%.1f s of one peer's flood through a gateway:\n", f.Seconds)
	fmt.Fprintf(w, "SYNs sent: %s\nUDP tuples sent: %s\nof both received: %s\n", rate(f.SYNs), rate(f.UDP), rate(f.Received))
	fmt.Fprintf(w, "what the tunnel made of them: %v\n", f.Tunnel)
	g := f.Gateway
	fmt.Fprintf(w, "what the gateway made of those, and of the other peer's: %d open, %d accepted, %d capped, %d evicted, %d failed\n\n",
		g.Open, g.Accepted, g.Capped, g.Evicted, g.Failed)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(t, "| whole process \t| before \t| at most \t| after \t|\n|---\t|---\t|---\t|---\t|")
	for _, row := range []struct {
		name string
		of   func(footprint) string
	}{
		{"live heap, MB", func(u footprint) string { return number(mega(u.Heap)) }},
		{"stacks, MB", func(u footprint) string { return number(mega(u.Stacks)) }},
		{"taken from the system, MB", func(u footprint) string { return number(mega(u.Total)) }},
		{"goroutines", func(u footprint) string { return fmt.Sprint(u.Goroutines) }},
	} {
		fmt.Fprintf(t, "| %s \t| %s \t| %s \t| %s \t|\n", row.name, row.of(f.Before), row.of(f.Most), row.of(f.After))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(t, "\n| another peer's connections \t| idle \t| under the flood \t|\n|---\t|---\t|---\t|")
	ms := func(d time.Duration) string { return number(float64(d) / float64(time.Millisecond)) }
	fmt.Fprintf(t, "| p50, ms \t| %s \t| %s \t|\n| p99, ms \t| %s \t| %s \t|\n", ms(f.Idle.P50), ms(f.Under.P50), ms(f.Idle.P99), ms(f.Under.P99))
	fmt.Fprintf(t, "| made \t| %d \t| %d \t|\n| failed \t| %d \t| %d \t|\n", f.Idle.Made, f.Under.Made, f.Idle.Failed, f.Under.Failed)
	return t.Flush()
}
