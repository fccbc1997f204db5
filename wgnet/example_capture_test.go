// SPDX-License-Identifier: MIT

package wgnet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"example.com/wgnet/wgnet"
)

// A file of what passes while the program does something: tcpdump -r and Wireshark open it.
func ExampleNet_Capture() {
	alice, bob := network() // each with wgnet.New
	defer alice.Close()
	defer bob.Close()
	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file, err := os.Create(filepath.Join(dir, "wg0.pcapng"))
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- alice.Capture(ctx, file, wgnet.CaptureOptions{
			Protocol: "icmp",
			Started:  func() { close(started) },
		})
	}()

	<-started
	if _, err := alice.Ping(context.Background(), "bob"); err != nil {
		log.Fatal(err)
	}
	stop()
	err = <-ended
	info, _ := file.Stat()
	fmt.Println("error:", errors.Join(err, file.Close()))
	fmt.Println("there is a request and an answer in it:", info.Size() > 2*84)
	// Output:
	// error: <nil>
	// there is a request and an answer in it: true
}

// A capture to look at live, for 10 seconds at most:
//
//	curl -sN http://localhost:8080/capture | wireshark -k -i -
func ExampleNet_Capture_live() {
	alice, bob := network() // each with wgnet.New
	defer alice.Close()
	defer bob.Close()
	handler := func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		if err := alice.Capture(ctx, flusher{w}, wgnet.CaptureOptions{SnapLen: 96}); err != nil {
			log.Print(err)
		}
	}

	ctx, hangUp := context.WithCancel(context.Background())
	hangUp() // at once
	answer := httptest.NewRecorder()
	handler(answer, httptest.NewRequestWithContext(ctx, http.MethodGet, "/capture", nil))
	fmt.Printf("%x\n", answer.Body.Bytes()[:4])
	// Output:
	// 0a0d0d0a
}

// flusher sends on what is written at once.
type flusher struct{ http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}
