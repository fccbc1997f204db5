// SPDX-License-Identifier: MIT

package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// What every side serves on all of its addresses.
const (
	httpPort = "9090" // GET / says hello, GET /from says where the client is
	echoPort = "7"    // TCP and UDP (RFC 862)
)

const hello = "hello, wireguard\n"

// services are the servers of one side.
type services struct {
	ctx     context.Context
	cancel  context.CancelFunc
	http    http.Server
	closers []io.Closer
	running sync.WaitGroup
}

// startServices serves until stop, or until the stack below ends.
func startServices(t *testing.T, s side) *services {
	t.Helper()
	v := &services{}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, hello) })
	mux.HandleFunc("GET /from", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})
	v.http.Handler = mux
	web, err := s.listen(":" + httpPort)
	must(t, err)
	tcp, err := s.listen(":" + echoPort)
	must(t, err)
	udp, err := s.listenPacket(":" + echoPort)
	must(t, err)
	v.closers = []io.Closer{tcp, udp}
	v.running.Go(func() { v.http.Serve(web) }) // http.Close ends it
	v.running.Go(func() { v.echoTCP(tcp) })    // its listener's end ends it
	v.running.Go(func() { echoUDP(udp) })      // its conn's end ends it
	return v
}

// stop ends the servers and waits for them. It is idempotent.
func (v *services) stop() {
	v.cancel()
	v.http.Close()
	for _, c := range v.closers {
		c.Close()
	}
	v.running.Wait()
}

func (v *services) echoTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		v.running.Go(func() { // ends with the connection, at the latest in stop
			defer c.Close()
			defer context.AfterFunc(v.ctx, func() { c.Close() })()
			io.Copy(c, c)
		})
	}
}

func echoUDP(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(buf[:n], from)
	}
}
