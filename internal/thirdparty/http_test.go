// SPDX-License-Identifier: MIT

package thirdparty

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
)

// echo answers with what it is sent, while it is sent.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	_, _ = io.Copy(w, r.Body) // the client compares
})

// post sends content and compares what comes back.
func post(t *testing.T, client *http.Client, url, protocol string) {
	t.Helper()
	body, want := content(1)
	req, err := http.NewRequestWithContext(testContext(t), http.MethodPost, url, body)
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	if resp.Proto != protocol {
		t.Errorf("%s, want %s", resp.Proto, protocol)
	}
	if got := hash(resp.Body); got != want {
		t.Errorf("received %s, want %s", got, want)
	}
}

// TestHTTP2 has several streams at once on one connection, each with content both ways at once.
func TestHTTP2(t *testing.T) {
	noLog(t)
	client, server := newNets(t)
	clientTLS, serverTLS := tlsConfigs(t)

	srv := &http.Server{Handler: echo, TLSConfig: serverTLS}
	served := make(chan error, 1)
	l := listen(t, server, ":443")
	go func() { served <- srv.ServeTLS(l, "", "") }() // srv.Close ends it

	transport := &http.Transport{DialContext: client.DialContext, TLSClientConfig: clientTLS, ForceAttemptHTTP2: true}
	var streams sync.WaitGroup
	for range 3 {
		streams.Go(func() { post(t, &http.Client{Transport: transport}, "https://server/", "HTTP/2.0") }) // its context ends it
	}
	streams.Wait()
	transport.CloseIdleConnections()
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
}
