// SPDX-License-Identifier: MIT

package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// patience bounds each wait of a test: it is reached only when the test fails.
const patience = 20 * time.Second

// A fakeFlow is a Flow without a tunnel.
type fakeFlow struct {
	network, name, id string
	dst               netip.AddrPort
	toPeer            bool
	unreachable       error // what Forward fails with
	ctx               context.Context
	pair              func() (inside, client net.Conn, err error) // what Accept makes

	once     sync.Once
	answered chan struct{} // closed with the first answer
	answer   error         // nil: accepted or forwarded
	client   net.Conn      // the peer's end of an accepted flow
	refused  chan error    // what Refuse was called with after Accept
}

var (
	errDropped   = errors.New("dropped")
	errForwarded = errors.New("forwarded")
)

// newFlow is a flow that lasts as long as the test; without one, its maker ends it.
func newFlow(t testing.TB, peer, network, dst string) *fakeFlow {
	f := &fakeFlow{
		network: network, name: peer, id: "key of " + peer, dst: netip.MustParseAddrPort(dst), ctx: context.Background(),
		answered: make(chan struct{}), refused: make(chan error, 1), pair: tcpPair,
	}
	if network != networkTCP {
		f.pair = func() (net.Conn, net.Conn, error) { // net.Pipe keeps the boundaries of messages
			a, b := net.Pipe()
			return a, b, nil
		}
	}
	if t == nil {
		return f
	}
	f.ctx = t.Context()
	t.Cleanup(func() {
		if f.client != nil {
			f.client.Close()
		}
	})
	return f
}

func (f *fakeFlow) Network() string             { return f.network }
func (f *fakeFlow) PeerName() string            { return f.name }
func (f *fakeFlow) PeerID() string              { return f.id }
func (f *fakeFlow) Source() netip.AddrPort      { return netip.MustParseAddrPort("10.0.0.1:40000") }
func (f *fakeFlow) Destination() netip.AddrPort { return f.dst }
func (f *fakeFlow) ToPeer() bool                { return f.toPeer }
func (f *fakeFlow) Context() context.Context    { return f.ctx }

func (f *fakeFlow) decide(answer error) (first bool) {
	f.once.Do(func() {
		first = true
		f.answer = answer
		close(f.answered)
	})
	return first
}

func (f *fakeFlow) Accept() (net.Conn, error) {
	inside, client, err := f.pair()
	if err != nil {
		return nil, err
	}
	f.client = client
	if !f.decide(nil) {
		inside.Close()
		client.Close()
		return nil, net.ErrClosed
	}
	return inside, nil
}

func (f *fakeFlow) Forward() error {
	if f.unreachable != nil {
		return f.unreachable
	}
	f.decide(errForwarded)
	return nil
}

func (f *fakeFlow) Refuse(reason error) {
	if !f.decide(reason) {
		select {
		case f.refused <- reason:
		default:
		}
	}
}

func (f *fakeFlow) Drop() { f.decide(errDropped) }

// wait returns the flow's answer.
func (f *fakeFlow) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-f.answered:
		return f.answer
	case <-time.After(patience):
		t.Fatal("the flow got no answer")
		return nil
	}
}

// accepted is the client's end of a flow that must have been accepted.
func (f *fakeFlow) accepted(t testing.TB) net.Conn {
	t.Helper()
	if err := f.wait(t); err != nil {
		t.Fatalf("the flow was turned away: %v", err)
	}
	_ = f.client.SetDeadline(time.Now().Add(patience)) // a connection that was reset has none
	return f.client
}

// tcpPair is a TCP connection of the host with itself.
func tcpPair() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	b, err = l.Accept()
	return a, b, err
}

// newGateway is closed when the test ends.
func newGateway(t *testing.T, cfg Config, rules string) *Gateway {
	t.Helper()
	var err error
	if cfg.Rules, err = ParseRules(rules); err != nil {
		t.Fatal(err)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// serve runs Serve, as the tunnel does. What it returns is closed when the flow has ended.
func serve(g *Gateway, f Flow) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() { // ends with the gateway at the latest
		defer close(ended)
		g.Serve(f)
	}()
	return ended
}

func waitFor(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
}

// listenTCP serves each connection with serve, which is waited for.
func listenTCP(t testing.TB, address string, serve func(*net.TCPConn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("no listener at %s here: %v", address, err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // ends with its connection, which the gateway closes
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l
}

// echoTCP sends back what comes, and then what ends it.
func echoTCP(c *net.TCPConn) {
	_, _ = io.Copy(c, c) // the test sees what comes back
	_ = c.CloseWrite()
}
