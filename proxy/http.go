// SPDX-License-Identifier: MIT

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"sync"
	"syscall"
	"time"

	"example.com/wgnet/internal/relay"
)

const (
	maxHeader      = 64 << 10        // of a request and of a response, in bytes
	idleTimeout    = 2 * time.Minute // of connections that are kept for further requests
	maxIdleConns   = 256             // to servers
	maxIdlePerHost = 16              // of them to one
)

// ServeHTTP serves as an HTTP proxy on l until ctx is done: then it returns nil. Another end is an error of l, or of cfg. It
// closes l, ends the connections, and returns when nothing is left.
//
// It does CONNECT (RFC 9110 section 9.3.6), by which clients reach anything, and passes on requests for http URLs. A host
// name goes to the dialer as it is. Credentials are asked for by the Basic scheme (RFC 7617).
func ServeHTTP(ctx context.Context, l net.Listener, cfg Config) error {
	if err := cfg.prepare(l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logger := slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug)
	h := &httpProxy{Config: cfg, ctx: ctx}
	h.plain = h.newReverseProxy(logger)
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: cfg.HandshakeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: logger, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	err := server.Serve(relay.Limit(l, cfg.MaxConns))
	ended := !stop()
	cancel()
	closeErr := server.Close()
	h.wait()
	if ended {
		return nil
	}
	return errors.Join(err, closeErr)
}

// An httpProxy is the handler of ServeHTTP.
type httpProxy struct {
	Config
	ctx       context.Context // of the server: that of a CONNECT ends when its client ends one half, which is no end
	plain     *httputil.ReverseProxy
	transport *http.Transport // of plain

	mu      sync.Mutex // guards closed
	closed  bool
	serving sync.WaitGroup // requests; grows under mu until closed
}

// newReverseProxy passes on requests for http URLs. It removes what concerns one connection only, the credentials for us
// among it (RFC 9110 section 7.6.1).
func (h *httpProxy) newReverseProxy(logger *log.Logger) *httputil.ReverseProxy {
	h.transport = &http.Transport{
		DialContext:        func(ctx context.Context, _, address string) (net.Conn, error) { return h.dial(ctx, address) },
		DisableCompression: true, // what the server sends is for the client
		MaxIdleConns:       maxIdleConns, MaxIdleConnsPerHost: maxIdlePerHost, IdleConnTimeout: idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Host = r.In.URL.Host // RFC 9112 section 3.2.2
			addVia(r.Out.Header, r.In.ProtoMajor, r.In.ProtoMinor)
		},
		ModifyResponse: func(r *http.Response) error {
			addVia(r.Header, r.ProtoMajor, r.ProtoMinor)
			return nil
		},
		Transport:     h.transport,
		FlushInterval: -1, // as it comes
		ErrorLog:      logger,
		ErrorHandler:  h.fail,
	}
}

// addVia says that a message came by a proxy (RFC 9110 section 7.6.3).
func addVia(h http.Header, major, minor int) { h.Add("Via", fmt.Sprintf("%d.%d wgnet", major, minor)) }

// enter counts a request, until leave.
func (h *httpProxy) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.serving.Add(1)
	}
	return !h.closed
}

// wait turns further requests away, and returns when there are none.
func (h *httpProxy) wait() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.serving.Wait()
	h.transport.CloseIdleConnections()
}

func (h *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.enter() {
		h.answer(w, "the proxy is closed", http.StatusServiceUnavailable)
		return
	}
	defer h.serving.Done()
	switch {
	case h.Username != "" && !h.authorized(r):
		w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
		h.answer(w, "the proxy wants a user name and a password", http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		h.connect(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		h.plain.ServeHTTP(w, r)
	default:
		h.answer(w, "this is a proxy: it takes CONNECT, and requests for a whole URL that begins with http://",
			http.StatusBadRequest)
	}
}

// answer is a word of the proxy itself. Package http reads the rest of the request before it answers, without a deadline: a
// body that never comes would hold the connection's place for good.
func (h *httpProxy) answer(w http.ResponseWriter, text string, status int) {
	// It fails on a connection that has ended: then there is nobody to answer.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.HandshakeTimeout))
	http.Error(w, text, status)
}

// authorized asks for the Basic scheme by the parser that package http has for the header's sister.
func (h *httpProxy) authorized(r *http.Request) bool {
	basic := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	username, password, ok := basic.BasicAuth()
	return ok && h.authenticated(username, password)
}

// connect makes a tunnel to the host and port of the request.
func (h *httpProxy) connect(w http.ResponseWriter, r *http.Request) {
	address := r.URL.Host // the Host header says nothing here (RFC 9112 section 3.2.3)
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		h.answer(w, "CONNECT wants a host and a port", http.StatusBadRequest)
		return
	}
	target, err := h.dial(h.ctx, address)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		target.Close()
		h.fail(w, r, err)
		return
	}
	early := make([]byte, buffered.Reader.Buffered()) // what the client has sent already
	_, err = io.ReadFull(buffered, early)
	soon := time.Now().Add(h.HandshakeTimeout)
	if err = errors.Join(err, client.SetDeadline(soon), target.SetDeadline(soon)); err == nil {
		_, err = client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	}
	if err == nil {
		_, err = target.Write(early)
	}
	never := time.Time{}
	if err = errors.Join(err, client.SetDeadline(never), target.SetDeadline(never)); err != nil {
		relay.Reset(client)
		relay.Reset(target)
	} else {
		err = relay.Join(h.ctx, client, target, relay.Hooks{})
	}
	if err != nil {
		h.Logger.DebugContext(h.ctx, "HTTP tunnel failed", "client", r.RemoteAddr, "to", r.URL.Host, "error", err)
	}
}

// fail answers that a server cannot be reached. The client learns no more than the kind of it.
func (h *httpProxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	h.Logger.DebugContext(r.Context(), "HTTP request failed", "client", r.RemoteAddr, "to", r.URL.Host, "error", err)
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EACCES):
		h.answer(w, "not allowed", http.StatusForbidden)
	case errors.As(err, &dns):
		h.answer(w, "the host's name cannot be resolved", http.StatusBadGateway)
	case errors.Is(err, syscall.ECONNREFUSED):
		h.answer(w, "connection refused", http.StatusBadGateway)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		h.answer(w, "no answer in time", http.StatusGatewayTimeout)
	default:
		h.answer(w, "the host cannot be reached", http.StatusBadGateway)
	}
}
