// SPDX-License-Identifier: MIT

package wgnettest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"

	"example.com/wgnet/internal/testpeer"
	"example.com/wgnet/wgnet"
	"example.com/wgnet/wgnet/wgnettest"
)

// window is how far back the device accepts counters: 8,192 bits less a word of 64 (RFC 6479).
const window = 8192 - 64

// fault 48: no duplicate reaches the stack, whatever the network does.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	const count = 20_000
	for _, c := range []struct {
		name    string
		link    wgnettest.Link
		atLeast int
		atMost  int
	}{
		{"every datagram ten times", wgnettest.Link{Duplicate: 1, Copies: 9}, count * 9 / 10, count},
		{"reordered inside of the window", wgnettest.Link{Duplicate: 0.5, Reorder: 0.3, ReorderDepth: 100, Hold: time.Second}, count * 9 / 10, count},
		// What is held for longer than the window is too late: a tenth of all is lost, but for the last ones.
		{"reordered outside of the window", wgnettest.Link{Duplicate: 0.5, Reorder: 0.1, ReorderDepth: window + 1000, Hold: time.Hour}, count * 8 / 10, count * 95 / 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
			a, b := n.Nodes[0], n.Nodes[1]
			n.SetLink(a, b, c.link)
			pc, err := b.Net.ListenPacket("udp", ":9")
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			conn := dial(t, a.Net, "udp", "b:9")
			seen, buf := make([]int, count), make([]byte, 100)
			// The writer is at most some datagrams ahead of the last one that came, so that no buffer is full.
			var last atomic.Int64
			arrived := make(chan struct{}, 1)
			var writing sync.WaitGroup
			writing.Go(func() { // ends with the last datagram
				for i := range count {
					for int64(i) > last.Load()+400 {
						select {
						case <-arrived:
						case <-time.After(patience):
							t.Errorf("nothing comes any more after datagram %d", last.Load())
							return
						}
					}
					if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
						t.Error(err)
						return
					}
				}
				n.SetLink(a, b, wgnettest.Link{}) // lets go what is held
				for range 10 {
					if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, count)); err != nil {
						t.Error(err)
					}
				}
			})
			if err := pc.SetReadDeadline(time.Now().Add(2 * patience)); err != nil {
				t.Fatal(err)
			}
			for end := false; !end; {
				size, _, err := pc.ReadFrom(buf)
				if err != nil || size != 4 {
					t.Fatalf("%d bytes, %v", size, err)
				}
				if i := binary.BigEndian.Uint32(buf); i == count {
					end = true
				} else {
					seen[i]++
					last.Store(max(last.Load(), int64(i)))
				}
				select {
				case arrived <- struct{}{}:
				default:
				}
			}
			writing.Wait()
			came := 0
			for i, times := range seen {
				if times > 1 {
					t.Fatalf("datagram %d came %d times", i, times)
				}
				came += times
			}
			s := n.Stats(a, b)
			t.Logf("%d of %d came; %+v", came, count, s)
			if came < c.atLeast || came > c.atMost || s.Duplicated < count/3 {
				t.Errorf("%d of %d came, want %d to %d; %+v", came, count, c.atLeast, c.atMost, s)
			}
		})
	}
}

// fault 50: who cannot show the right keys gets no answer.
func TestStrangers(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	n.Start()
	a, b := n.Nodes[0], n.Nodes[1]
	stranger := n.Join("stranger", wgnet.PublicKey{})
	tap := &recorder{listen: stranger.ListenPacket}
	// Upstream's implementation with a key that nobody knows begins handshakes with a.
	key := testpeer.GenerateKey()
	peer := testpeer.New(t, testpeer.Options{PrivateKey: key, ListenPacket: tap.ListenPacket})
	if err := peer.AddPeer(remote(a)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := peer.Handshake(ctx, testpeer.Key(a.PublicKey())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("handshake of a stranger: %v", err)
	}
	sent := tap.datagrams()
	if len(sent) == 0 || len(sent[0]) != 148 {
		t.Fatalf("the stranger has sent %d datagrams", len(sent))
	}
	other := n.Join("other", wgnet.PublicKey{})
	pc, err := other.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	to := net.UDPAddrFromAddrPort(a.Endpoint())
	for i := range sent[0] {
		bad := slices.Clone(sent[0]) // whatever is changed, MAC1 is wrong, or the type or the length
		bad[i] ^= 0x40
		for _, b := range [][]byte{bad, bad[:i]} {
			if _, err := pc.WriteTo(b, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	// An honest handshake goes through the same queue, behind all of that.
	n.Restart(b)
	if err := b.Net.WaitPeer(t.Context(), a.PublicKey()); err != nil {
		t.Error(err)
	}
	for _, v := range []*wgnettest.Node{stranger, other} {
		if s := n.Stats(v, a); s.Delivered == 0 {
			t.Errorf("%s: nothing arrived: %+v", v.Name, s)
		}
		if s := n.Stats(a, v); s.Sent != 0 {
			t.Errorf("%s got %d datagrams back", v.Name, s.Sent)
		}
	}
}

// fault 50: with a wrong preshared key there is a response at most for each initiation, and no session.
func TestWrongPresharedKey(t *testing.T) {
	t.Parallel()
	n, node, up, peer := newUpstream(t, func(cfg *wgnet.Config) {
		cfg.Peers[0].PresharedKey = wgnet.NewPresharedKey()
		cfg.Peers[0].Endpoint = ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := peer.Handshake(ctx, testpeer.Key(node.PublicKey())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("handshake with the wrong key: %v", err)
	}
	err := node.Net.WaitPeer(ctx, up.PublicKey())
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("preshared keys")) {
		t.Errorf("WaitPeer: %v", err)
	}
	in, out := n.Stats(up, node), n.Stats(node, up)
	if in.Sent == 0 || out.Sent > in.Sent || out.SentBytes > out.Sent*(92+28) {
		t.Errorf("%d initiations and %d answers of %d bytes", in.Sent, out.Sent, out.SentBytes)
	}
}

// fault 51: 10,000 initiations a second from strangers, with a right MAC1, while an honest peer connects.
func TestInitiationFlood(t *testing.T) {
	t.Parallel()
	const rate, burst = 10_000, 50
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"server", "client"}, NoWait: true})
	server, client := n.Nodes[0], n.Nodes[1]
	server.Config.Peers[0].Endpoint = ""
	n.Cut(server, client)
	n.Start()
	pub := server.PublicKey()
	messages := initiations(t, pub, rate)
	to := net.UDPAddrFromAddrPort(server.Endpoint())
	var strangers []net.PacketConn
	for i := range 16 {
		pc, err := n.Join(fmt.Sprint("stranger", i), wgnet.PublicKey{}).ListenPacket(t.Context(), "udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		strangers = append(strangers, pc)
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	sent, begin := 0, time.Now()
	flooding := make(chan struct{})
	flood.Go(func() { // stop ends it
		tick := time.NewTicker(time.Second * burst / rate)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for due := int(time.Since(begin).Seconds() * rate); sent < due; sent++ {
				if _, err := strangers[sent%len(strangers)].WriteTo(messages[sent%len(messages)], to); err != nil {
					t.Error(err)
					return
				}
				if sent == rate/4 {
					close(flooding)
				}
			}
		}
	})
	<-flooding
	n.Heal(server, client)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := client.Net.WaitPeer(ctx, pub); err != nil {
		t.Error(err)
	}
	took := time.Since(start)
	close(stop)
	flood.Wait()
	t.Logf("connected after %v, at %.0f initiations a second", took, float64(sent)/time.Since(begin).Seconds())
	if took > 10*time.Second {
		t.Errorf("it took %v to connect", took)
	}
}

// initiations are handshake initiations to a host that nobody but a stranger can have sent, each with a right MAC1.
func initiations(t *testing.T, to wgnet.PublicKey, count int) [][]byte {
	t.Helper()
	key := blake2s.Sum256(append([]byte("mac1----"), to[:]...)) // WireGuard paper, section 5.4.4
	mac, err := blake2s.New128(key[:])
	if err != nil {
		t.Fatal(err)
	}
	list := make([][]byte, count)
	for i := range list {
		msg := make([]byte, 148)
		rand.Read(msg) // never fails
		copy(msg, []byte{1, 0, 0, 0})
		mac.Reset()
		mac.Write(msg[:116])
		mac.Sum(msg[:116])
		list[i] = msg
	}
	return list
}

// fault 52: both sides begin, and their initiations cross each other.
func TestBothInitiate(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{NoWait: true, Links: wgnettest.Link{Latency: 50 * time.Millisecond}})
	a, b := n.Nodes[0], n.Nodes[1]
	start := time.Now()
	serve(t, listen(t, b.Net, ":7"), echo)
	serve(t, listen(t, a.Net, ":7"), echo)
	exchange(t, dial(t, a.Net, "tcp", "node2:7"))
	exchange(t, dial(t, b.Net, "tcp", "node1:7"))
	t.Logf("connected both ways after %v", time.Since(start))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// fault 53: the sender's address changes in mid-transfer, and the receiver's too.
func TestRoaming(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewNetwork(t, wgnettest.Config{Names: []string{"a", "b"}})
	a, b := n.Nodes[0], n.Nodes[1]
	moved := 0
	total := transfer(t, connect(t, a.Net, b.Net, 1), 8<<20, func(received int) {
		if received <= (moved+1)<<20 {
			return
		}
		// Who has moved has to say something, or nobody can know where it is: the receiver gets nothing any more that it
		// could acknowledge. And one at a time: two that move at once have lost each other.
		who, whom := a, "b"
		if moved%2 == 1 {
			who, whom = b, "a"
		}
		n.Move(who)
		moved++
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := who.Net.Ping(ctx, whom); err != nil {
			t.Error(err)
		}
	})
	if moved < 5 || total != 8<<20 {
		t.Errorf("%d moves, %d bytes", moved, total)
	}
}

// fault 53: what is not authenticated, or was heard before, never moves an endpoint.
func TestReplayDoesNotMove(t *testing.T) {
	t.Parallel()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"net"}})
	key := testpeer.GenerateKey()
	node, up := n.Nodes[0], n.Join("up", wgnet.PublicKey(key.Public()))
	tap := &recorder{listen: up.ListenPacket}
	peer := testpeer.New(t, testpeer.Options{
		PrivateKey: key, Addresses: []string{up.Addr().String()}, ListenPort: up.Endpoint().Port(), ListenPacket: tap.ListenPacket,
	})
	if err := peer.AddPeer(remote(node)); err != nil {
		t.Fatal(err)
	}
	n.Start()
	ping := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := peer.Ping(ctx, node.Addr()); err != nil {
			t.Fatal(err)
		}
		if _, err := node.Net.Ping(ctx, "up"); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		ping()
	}
	thief := n.Join("thief", wgnet.PublicKey{})
	pc, err := thief.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	to := net.UDPAddrFromAddrPort(node.Endpoint())
	for _, d := range tap.datagrams() {
		broken := slices.Clone(d)
		broken[len(broken)-1] ^= 1
		for _, b := range [][]byte{d, broken} {
			if _, err := pc.WriteTo(b, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 10 {
		ping()
	}
	if s := n.Stats(thief, node); s.Delivered < 20 {
		t.Errorf("the thief's datagrams did not arrive: %+v", s)
	}
	if s := n.Stats(node, thief); s.Sent != 0 {
		t.Errorf("the thief has got %d datagrams", s.Sent)
	}
}

// A recorded sequence of datagrams meets the same fate twice.
func TestSameFate(t *testing.T) {
	t.Parallel()
	recorded := record(t)
	link := wgnettest.Link{Loss: 0.1, Corrupt: 0.1, Duplicate: 0.1, Reorder: 0.25, ReorderDepth: 5, Hold: time.Hour}
	play := func(seed uint64) (came [][]byte, s wgnettest.Stats) {
		n := wgnettest.NewNetwork(t, wgnettest.Config{Nodes: 1, Seed: seed})
		from, to := n.Join("from", wgnet.PublicKey{}), n.Join("to", wgnet.PublicKey{})
		n.SetLink(from, to, link)
		var conns [2]net.PacketConn
		for i, v := range []*wgnettest.Node{from, to} {
			var err error
			if conns[i], err = v.ListenPacket(t.Context(), "udp", ":51820"); err != nil {
				t.Fatal(err)
			}
			defer conns[i].Close()
		}
		for _, d := range recorded {
			if _, err := conns[0].WriteTo(d, net.UDPAddrFromAddrPort(to.Endpoint())); err != nil {
				t.Fatal(err)
			}
		}
		n.SetLink(from, to, wgnettest.Link{}) // lets go what is held
		s = n.Stats(from, to)
		buf := make([]byte, 1<<16)
		for range s.Delivered {
			size, _, err := conns[1].ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			came = append(came, slices.Clone(buf[:size]))
		}
		return came, s
	}
	first, stats := play(7)
	if len(first) == 0 || stats.Lost == 0 || stats.Corrupted == 0 || stats.Duplicated == 0 || stats.Reordered == 0 {
		t.Fatalf("the weather is too good: %+v", stats)
	}
	if again, _ := play(7); !slices.EqualFunc(first, again, bytes.Equal) {
		t.Error("the same seed, another fate")
	}
	if other, _ := play(8); slices.EqualFunc(first, other, bytes.Equal) {
		t.Error("another seed, the same fate")
	}
}

// record returns what upstream's implementation sends when it fetches something from a Net.
func record(t *testing.T) [][]byte {
	t.Helper()
	n := wgnettest.NewUnstartedNetwork(t, wgnettest.Config{Names: []string{"net"}})
	key := testpeer.GenerateKey()
	node, up := n.Nodes[0], n.Join("up", wgnet.PublicKey(key.Public()))
	tap := &recorder{listen: up.ListenPacket}
	peer := testpeer.New(t, testpeer.Options{
		PrivateKey: key, Addresses: []string{up.Addr().String()}, ListenPort: up.Endpoint().Port(), ListenPacket: tap.ListenPacket,
	})
	if err := peer.AddPeer(remote(node)); err != nil {
		t.Fatal(err)
	}
	n.Start()
	serve(t, listen(t, node.Net, ":7"), echo)
	c, err := peer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(node.Addr(), 7).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make(chan error, 1)
	go func() { _, err := c.Write(make([]byte, 300_000)); sent <- err }() // ends with the echo
	if _, err := io.ReadFull(c, make([]byte, 300_000)); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	return tap.datagrams()
}

// A recorder keeps what its conns send.
type recorder struct {
	listen func(ctx context.Context, network, address string) (net.PacketConn, error)

	mu   sync.Mutex // guards sent
	sent [][]byte
}

func (r *recorder) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	pc, err := r.listen(ctx, network, address)
	return &recordedConn{PacketConn: pc, recorder: r}, err
}

func (r *recorder) datagrams() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

type recordedConn struct {
	net.PacketConn
	recorder *recorder
}

func (c *recordedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.recorder.mu.Lock()
	c.recorder.sent = append(c.recorder.sent, slices.Clone(b))
	c.recorder.mu.Unlock()
	return c.PacketConn.WriteTo(b, to)
}
