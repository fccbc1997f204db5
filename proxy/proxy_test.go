// SPDX-License-Identifier: MIT

package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	xproxy "golang.org/x/net/proxy"

	"example.com/wgnet/wgnet/wgnettest"
)

const patience = 20 * time.Second

// start serves on a loopback port until the test ends.
func start(t *testing.T, serve func(context.Context, net.Listener, Config) error, cfg Config) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, cfg) }() // ends with ctx
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// A scriptedDialer fails, or dials another address than it was asked for.
type scriptedDialer struct {
	to  string
	err error

	mu    sync.Mutex // guards asked
	asked []string
}

func (d *scriptedDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.asked = append(d.asked, address)
	d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	return (&net.Dialer{}).DialContext(ctx, network, d.to)
}

func (d *scriptedDialer) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// answering is a TCP server that reads all there is, and then answers.
func answering(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { // ends with l
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { // ends when the client has ended
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					fmt.Fprintf(c, "answer to %s", b)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func ask(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if string(got) != "answer to question" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestPrepare: without credentials a proxy is for its own host, and an error says what to do.
func TestPrepare(t *testing.T) {
	d := &net.Dialer{}
	everywhere, loopback := &net.TCPAddr{Port: 1080}, &net.TCPAddr{IP: net.IPv6loopback, Port: 1080}
	for _, tc := range []struct {
		name string
		at   net.Addr
		cfg  Config
		want string
	}{
		{"loopback", loopback, Config{Dialer: d}, ""},
		{"a socket of Unix", &net.UnixAddr{Name: "/x", Net: "unix"}, Config{Dialer: d}, ""},
		{"everywhere", everywhere, Config{Dialer: d}, "proxy: :1080 is not a loopback address, so that others could use the proxy: set Username"},
		{"in the tunnel", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}, Config{Dialer: d}, "not a loopback address"},
		{"with credentials", everywhere, Config{Dialer: d, Username: "u", Password: "p"}, ""},
		{"half of them", loopback, Config{Dialer: d, Username: "u"}, "set both"},
		{"the other half", loopback, Config{Dialer: d, Password: "p"}, "set both"},
		{"too long", loopback, Config{Dialer: d, Username: "u", Password: strings.Repeat("p", 256)}, "longer than 255"},
		{"no dialer", loopback, Config{}, "Config.Dialer is not set"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.cfg.prepare(tc.at)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ServeSOCKS(t.Context(), l, Config{}); err == nil {
		t.Error("served without a dialer")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v: the listener is ours, and closed", err)
	}
}

// TestSOCKS is with x/net's client: names and addresses of both families, half-close, credentials.
func TestSOCKS(t *testing.T) {
	d := &scriptedDialer{to: answering(t)}
	for _, tc := range []struct {
		name string
		cfg  Config
		auth *xproxy.Auth
		ok   bool
	}{
		{"without credentials", Config{}, nil, true},
		{"credentials that nobody asks for", Config{}, &xproxy.Auth{User: "u", Password: "p"}, true},
		{"right credentials", Config{Username: "u", Password: "p"}, &xproxy.Auth{User: "u", Password: "p"}, true},
		{"wrong password", Config{Username: "u", Password: "p"}, &xproxy.Auth{User: "u", Password: "q"}, false},
		{"wrong name", Config{Username: "u", Password: "p"}, &xproxy.Auth{User: "v", Password: "p"}, false},
		{"none", Config{Username: "u", Password: "p"}, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Dialer = d
			raw := &recordingDialer{} // its connection has the methods that the client hides
			client, err := xproxy.SOCKS5("tcp", start(t, ServeSOCKS, tc.cfg), tc.auth, raw)
			if err != nil {
				t.Fatal(err)
			}
			before := len(d.all())
			for _, address := range []string{"server.example:80", "192.0.2.1:443", "[2001:db8::1]:65535"} {
				_, err := client.(xproxy.ContextDialer).DialContext(t.Context(), "tcp", address)
				if (err == nil) != tc.ok {
					t.Fatalf("%s: %v", address, err)
				}
				if !tc.ok {
					raw.last.Close()
					if n := len(d.all()); n != before {
						t.Errorf("%d dials for who may not", n-before)
					}
					continue
				}
				ask(t, raw.last)
				if all := d.all(); all[len(all)-1] != address {
					t.Errorf("dialed %s, want %s as it came", all[len(all)-1], address)
				}
			}
		})
	}
}

// A recordingDialer keeps what it has dialed last.
type recordingDialer struct{ last net.Conn }

func (d *recordingDialer) Dial(network, address string) (c net.Conn, err error) {
	d.last, err = net.Dial(network, address)
	return d.last, err
}

func (d *recordingDialer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	return d.Dial(network, address)
}

// TestSOCKSReplies: each failure has its reply.
func TestSOCKSReplies(t *testing.T) {
	connect := []byte{5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 80}
	for _, tc := range []struct {
		name string
		sent []byte
		err  error
		want byte
	}{
		{"refused", connect, syscall.ECONNREFUSED, replyRefused},
		{"no network", connect, &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}, replyNetworkUnreachable},
		{"no host", connect, syscall.EHOSTUNREACH, replyHostUnreachable},
		{"no such name", connect, &net.DNSError{IsNotFound: true}, replyHostUnreachable},
		{"not allowed", connect, syscall.EACCES, replyNotAllowed},
		{"no answer", connect, context.DeadlineExceeded, replyTTLExpired},
		{"something else", connect, errors.New("x"), replyFailure},
		{"BIND", []byte{5, 1, 0, 5, 2, 0, 1, 192, 0, 2, 1, 0, 80}, nil, replyCommandUnknown},
		{"UDP ASSOCIATE", []byte{5, 1, 0, 5, 3, 0, 3, 1, 'x', 0, 80}, nil, replyCommandUnknown},
		{"a type that there is not", []byte{5, 1, 0, 5, 1, 0, 2}, nil, replyAddressUnknown},
		{"no name", []byte{5, 1, 0, 5, 1, 0, 3, 0, 0, 80}, nil, replyFailure},
		{"version 4 in the middle", []byte{5, 1, 0, 4, 1, 0, 1}, nil, replyFailure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := net.Dial("tcp", start(t, ServeSOCKS, Config{Dialer: &scriptedDialer{err: tc.err}}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(tc.sent); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			want := []byte{5, 0, 5, tc.want, 0, 1, 0, 0, 0, 0, 0, 0}
			if !bytes.Equal(got, want) || err != nil {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		})
	}
}

// TestHandshakeTimeout: who says nothing is not waited for.
func TestHandshakeTimeout(t *testing.T) {
	for name, serve := range map[string]func(context.Context, net.Listener, Config) error{"SOCKS": ServeSOCKS, "HTTP": ServeHTTP} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Dialer: &scriptedDialer{}, HandshakeTimeout: 20 * time.Millisecond}
			c, err := net.Dial("tcp", start(t, serve, cfg))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			if b, err := io.ReadAll(c); err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// basic is a URL of the proxy with credentials.
func basic(address, user, password string) func(*http.Request) (*url.URL, error) {
	u := &url.URL{Scheme: "http", Host: address}
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	return http.ProxyURL(u)
}

// TestHTTP is with net/http's client: plain requests, and CONNECT for https.
func TestHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if via := r.Header.Get("Via"); (via == "") != (r.TLS != nil) {
			t.Errorf("Via is %q, with TLS: %v", via, r.TLS != nil)
		}
		for _, name := range []string{"Proxy-Authorization", "Proxy-Connection", "X-Forwarded-For"} {
			if v := r.Header.Get(name); v != "" {
				t.Errorf("%s: %s has come through", name, v)
			}
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, body)
	})
	for _, tls := range []bool{false, true} {
		for _, tc := range []struct {
			name, user, password string // of the client
			cfg                  Config
			ok                   bool
		}{
			{"without credentials", "", "", Config{}, true},
			{"right credentials", "u", "p:q", Config{Username: "u", Password: "p:q"}, true},
			{"wrong credentials", "u", "q", Config{Username: "u", Password: "p"}, false},
			{"no credentials", "", "", Config{Username: "u", Password: "p"}, false},
		} {
			t.Run(fmt.Sprintf("TLS %v, %s", tls, tc.name), func(t *testing.T) {
				server := httptest.NewUnstartedServer(handler)
				scheme := "http"
				if tls {
					server.StartTLS()
					scheme = "https"
				} else {
					server.Start()
				}
				defer server.Close()
				d := &scriptedDialer{to: server.Listener.Addr().String()}
				tc.cfg.Dialer = d
				client := server.Client()
				transport := client.Transport.(*http.Transport)
				transport.Proxy = basic(start(t, ServeHTTP, tc.cfg), tc.user, tc.password)
				defer transport.CloseIdleConnections()
				resp, err := client.Post(scheme+"://example.com/path", "text/plain", strings.NewReader("body"))
				if !tc.ok {
					if err == nil {
						resp.Body.Close()
					}
					if tls && err == nil || !tls && (err != nil || resp.StatusCode != http.StatusProxyAuthRequired) {
						t.Errorf("%v, %v; want 407", resp, err)
					}
					if len(d.all()) != 0 {
						t.Error("dialed for who may not")
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if string(got) != "POST example.com body" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
				port := map[bool]string{false: ":80", true: ":443"}[tls]
				if all := d.all(); len(all) != 1 || all[0] != "example.com"+port {
					t.Errorf("dialed %v", all)
				}
			})
		}
	}
}

// TestHTTPConnect: what the client sends with its request is not lost, and halves end by themselves.
func TestHTTPConnect(t *testing.T) {
	d := &scriptedDialer{to: answering(t)}
	c, err := net.Dial("tcp", start(t, ServeHTTP, Config{Dialer: d}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "CONNECT server:1 HTTP/1.1\r\nHost: elsewhere:2\r\n\r\nquestion"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if string(got) != "HTTP/1.1 200 Connection established\r\n\r\nanswer to question" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if all := d.all(); len(all) != 1 || all[0] != "server:1" {
		t.Errorf("dialed %v", all)
	}
}

// TestHTTPErrors: what is wrong with a request, or with the server, has its status.
func TestHTTPErrors(t *testing.T) {
	for _, tc := range []struct {
		name, request string
		err           error
		want          int
	}{
		{"to the proxy itself", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", nil, 400},
		{"https in plain", "GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", nil, 400},
		{"CONNECT without a port", "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", nil, 400},
		{"CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: x:1\r\n\r\n", nil, 400},
		{"CONNECT refused", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", syscall.ECONNREFUSED, 502},
		{"CONNECT not allowed", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", syscall.EACCES, 403},
		{"CONNECT without an answer", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", context.DeadlineExceeded, 504},
		{"no such name", "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", &net.DNSError{}, 502},
		{"unreachable", "GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", syscall.ENETUNREACH, 502},
		{"headers without end", "GET http://x/ HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n", nil, 431},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := net.Dial("tcp", start(t, ServeHTTP, Config{Dialer: &scriptedDialer{err: tc.err}}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, tc.request) // it need not be read to its end
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != tc.want {
				t.Errorf("%s, want %d", resp.Status, tc.want)
			}
		})
	}
}

// TestHTTPNoBody: a request that the proxy answers itself and whose body never comes is answered all the same, and gives its
// place back.
func TestHTTPNoBody(t *testing.T) {
	const wrong = "Proxy-Authorization: Basic eDp5\r\n"
	const right = "Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n"
	for _, tc := range []struct {
		name, request string
		want          int
	}{
		{"no credentials", "POST http://x/ HTTP/1.1\r\nHost: x\r\n", 407},
		{"wrong credentials", "POST http://x/ HTTP/1.1\r\nHost: x\r\n" + wrong, 407},
		{"to the proxy itself", "POST / HTTP/1.1\r\nHost: x\r\n" + right, 400},
		{"CONNECT without a port", "CONNECT x HTTP/1.1\r\nHost: x\r\n" + right, 400},
		{"CONNECT refused", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n" + right, 502},
		{"refused", "POST http://x/ HTTP/1.1\r\nHost: x\r\n" + right, 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				cfg := Config{Username: "user", Password: "password", MaxConns: 1, Dialer: &scriptedDialer{err: syscall.ECONNREFUSED}}
				go func() { ended <- ServeHTTP(ctx, l, cfg) }() // cancel ends it
				for range 2 {                                   // the second has the place of the first
					ours, theirs := net.Pipe()
					_ = ours.SetDeadline(time.Now().Add(time.Minute)) // by the bubble's clock
					l.accept <- theirs
					if _, err := io.WriteString(ours, tc.request+"Content-Length: 10\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
					if err != nil {
						t.Fatal(err)
					}
					if resp.StatusCode != tc.want {
						t.Errorf("%s, want %d", resp.Status, tc.want)
					}
					if _, err := io.Copy(io.Discard, ours); err != nil { // to the end, which the proxy makes
						t.Error(err)
					}
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// pipes is a listener for connections in memory.
type pipes struct {
	accept chan net.Conn
	once   sync.Once // closes closed
	closed chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// TestThroughTunnel: names are those of the tunnel.
func TestThroughTunnel(t *testing.T) {
	client, server := wgnettest.Pair(t)
	l, err := server.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with s
	defer func() {
		s.Close()
		<-served
	}()
	for name, u := range map[string]string{
		"SOCKS": "socks5h://" + start(t, ServeSOCKS, Config{Dialer: client}),
		"HTTP":  "http://" + start(t, ServeHTTP, Config{Dialer: client}),
	} {
		proxyURL, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{Proxy: http.ProxyURL(proxyURL)}
		c := &http.Client{Transport: transport, Timeout: patience}
		resp, err := c.Get("http://b/")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(resp.Body)
		if string(got) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
}

// FuzzSOCKS: whatever a client sends, only one that has given the password has something dialed, and what is dialed is
// a host and a port.
func FuzzSOCKS(f *testing.F) {
	f.Add([]byte{5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 80}, false)               // CONNECT, IPv4
	f.Add([]byte{5, 1, 0, 5, 1, 0, 3, 1, 'x', 0, 80}, false)                     // a name
	f.Add([]byte{5, 2, 0, 2, 1, 1, 'u', 1, 'p', 5, 1, 0, 4, 15: 1, 29: 1}, true) // IPv6, with the password
	f.Add([]byte{5, 1, 2, 1, 1, 'u', 1, 'q', 5, 1, 0, 3, 1, 'x', 0, 80}, true)   // a wrong one
	f.Add([]byte{5, 255, 0}, false)                                              // fewer methods than said
	f.Add([]byte{4, 1, 0, 80, 192, 0, 2, 1, 0}, false)                           // SOCKS 4
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), false)                               // another protocol
	f.Add([]byte{5, 1, 0, 5, 1, 0, 3, 2, '[', 'x', 0, 80}, false)                // a name that is none, with a port
	f.Fuzz(func(t *testing.T, sent []byte, password bool) {
		var cfg Config
		if password {
			cfg.Username, cfg.Password = "u", "p"
		}
		var answers bytes.Buffer
		address, err := cfg.negotiate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(sent), &answers})
		if err != nil {
			return
		}
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			t.Errorf("%q is to be dialed: %v", address, err)
		}
		if password && !bytes.Contains(sent, []byte{1, 1, 'u', 1, 'p', 5}) {
			t.Error("dialed without the password")
		}
	})
}

// FuzzHTTP: whatever a client sends, only one that has given the password has something dialed.
func FuzzHTTP(f *testing.F) {
	right := "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("u:p")) + "\r\n"
	f.Add("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n" + right + "\r\n")              // a tunnel
	f.Add("GET http://x/ HTTP/1.1\r\nHost: x\r\n" + right + "\r\n")              // a page
	f.Add("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n")                           // without the password
	f.Add("GET http://u:p@x/ HTTP/1.1\r\nHost: x\r\n\r\n")                       // with one for somebody else
	f.Add("GET //x HTTP/1.0\r\n" + right + right + "\r\n")                       // twice
	f.Add("POST http://x/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx") // cut off
	f.Fuzz(func(t *testing.T, sent string) {
		d := &scriptedDialer{err: syscall.ECONNREFUSED}
		h := &httpProxy{ctx: t.Context(), Config: Config{Dialer: d, Username: "u", Password: "p"}}
		if err := h.prepare(&net.TCPAddr{}); err != nil {
			t.Fatal(err)
		}
		h.plain = h.newReverseProxy(nil)
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(sent)))
		if err != nil {
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		if len(d.all()) > 0 && !h.authorized(r) {
			t.Errorf("dialed %v without the password", d.all())
		}
		h.wait()
	})
}
