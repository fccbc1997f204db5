// SPDX-License-Identifier: MIT

package thirdparty

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestQUIC sends different content both ways at once over one stream of a quic.Transport, which reads and writes our
// packet connection by itself at both ends. quic-go logs a complaint about buffers that it cannot set, once.
func TestQUIC(t *testing.T) {
	noLog(t)
	for _, addr := range serverAddrs {
		t.Run(addr.String(), func(t *testing.T) {
			ctx := testContext(t)
			client, server := newNets(t)
			clientTLS, serverTLS := tlsConfigs(t, "test")

			serverTransport := &quic.Transport{Conn: listenPacket(t, server, ":443")}
			defer closing(t, serverTransport)
			l, err := serverTransport.Listen(serverTLS, nil)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- serveQUIC(ctx, l) }() // ctx and the transport end it

			clientTransport := &quic.Transport{Conn: listenPacket(t, client, ":0")}
			defer closing(t, clientTransport)
			conn, err := clientTransport.Dial(ctx, &net.UDPAddr{IP: addr.AsSlice(), Port: 443}, clientTLS, nil)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := conn.OpenStreamSync(ctx)
			if err != nil {
				t.Fatal(err)
			}
			sent := make(chan error, 1)
			there, _ := content(1)
			go func() { sent <- send(stream, there) }() // ctx and the transport end it
			_, want := content(2)
			if got := hash(stream); got != want {
				t.Errorf("received %s, want %s", got, want)
			}
			if err := errors.Join(<-sent, <-served); err != nil {
				t.Error(err)
			}
			if err := conn.CloseWithError(0, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// serveQUIC takes a connection with one stream, sends its content and compares what it receives.
func serveQUIC(ctx context.Context, l *quic.Listener) error {
	conn, err := l.Accept(ctx)
	if err != nil {
		return err
	}
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	back, _ := content(2)
	go func() { sent <- send(stream, back) }() // the connection's end ends it
	_, want := content(1)
	if got := hash(stream); got != want {
		err = fmt.Errorf("server received %s, want %s", got, want)
	}
	return errors.Join(err, <-sent)
}

// send writes all of r and says that this is the end.
func send(w io.WriteCloser, r io.Reader) error {
	_, err := io.Copy(w, r)
	return errors.Join(err, w.Close())
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestHTTP3 posts and gets content by http3's own client and server.
func TestHTTP3(t *testing.T) {
	noLog(t)
	client, server := newNets(t)
	clientTLS, serverTLS := tlsConfigs(t, http3.NextProtoH3)

	srv := &http3.Server{TLSConfig: serverTLS, Handler: echo}
	served := make(chan error, 1)
	serverConn := listenPacket(t, server, ":443")
	go func() { served <- srv.Serve(serverConn) }() // srv.Close ends it

	quicTransport := &quic.Transport{Conn: listenPacket(t, client, ":0")}
	defer closing(t, quicTransport)
	transport := &http3.Transport{
		TLSClientConfig: clientTLS,
		Dial: func(ctx context.Context, address string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			addrs, err := client.LookupNetIP(ctx, "ip", host)
			if err != nil {
				return nil, err
			}
			return quicTransport.DialEarly(ctx, &net.UDPAddr{IP: addrs[0].AsSlice(), Port: 443}, tlsConf, conf)
		},
	}
	defer closing(t, transport)
	post(t, &http.Client{Transport: transport}, "https://server/", "HTTP/3.0")
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
}
