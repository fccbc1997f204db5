// SPDX-License-Identifier: MIT

// Package wghttp tells the handlers of an HTTP server on a [wgnet.Net] which peer a request is from, so that a service
// authorizes by peer: no password, no TLS client certificate. WireGuard has authenticated the peer already.
//
//	l, err := n.Listen("tcp", ":80")
//	server := &http.Server{
//		Handler:     wghttp.RequirePeer(nil, handler), // 403 Forbidden for everybody but peers
//		ConnContext: wghttp.ConnContext,
//	}
//	err = server.Serve(l)
//
// In handler, [PeerFromContext] says who it is. It works for HTTP/1 and HTTP/2, with and without TLS.
//
// The peer is that of the connection, as [wgnet.PeerOf] has it: behind a reverse proxy it is the proxy's. A request that
// this host makes to itself is not a peer's. The package is not a part of wgnet so that programs without HTTP do not carry
// net/http, which adds 4 MB to an executable.
package wghttp

import (
	"context"
	"net"
	"net/http"

	"example.com/wgnet/wgnet"
)

// contextKey is the key of a found in the context of a request.
type contextKey struct{}

// found is what ConnContext has found.
type found struct {
	peer  wgnet.Peer
	known bool
}

// ConnContext is for [http.Server.ConnContext]: it puts the peer behind a connection into the context of its requests.
// A server that has one of its own calls it there.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	peer, known := wgnet.PeerOf(conn)
	return context.WithValue(ctx, contextKey{}, found{peer, known})
}

// PeerFromContext returns the peer that a request is from, given the request's context. It reports false if it is not a
// peer's, or the server does not have [ConnContext].
func PeerFromContext(ctx context.Context) (wgnet.Peer, bool) {
	f, _ := ctx.Value(contextKey{}).(found)
	return f.peer, f.known
}

// RequirePeer returns a handler that passes on to h the requests of those peers for which allow returns true, and
// answers all others with 403 Forbidden. If allow is nil, every peer of the host is let through. It answers with 500
// Internal Server Error, which says why, if the server does not have [ConnContext].
//
// A peer is looked at as it was when its connection was made; when it is removed, its connections are reset. allow is
// called for each request, from many goroutines at a time.
func RequirePeer(allow func(r *http.Request, peer wgnet.Peer) bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := r.Context().Value(contextKey{}).(found)
		switch {
		case !ok:
			http.Error(w, "wghttp: set the ConnContext of the http.Server to wghttp.ConnContext", http.StatusInternalServerError)
		case !f.known, allow != nil && !allow(r, f.peer):
			http.Error(w, "403 forbidden", http.StatusForbidden)
		default:
			h.ServeHTTP(w, r)
		}
	})
}
