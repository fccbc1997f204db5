// SPDX-License-Identifier: MIT

// Package examples_test runs the examples as a user does.
package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wgnet/wgnet"
)

const hello = "hello, wireguard\n"

// bin is the folder with the examples' programs.
var bin string

func TestExamples(t *testing.T) {
	bin = t.TempDir()
	out, err := exec.CommandContext(testContext(t), "go", "build", "-o", bin+string(filepath.Separator), "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// The go command takes a result from its cache unless what the test itself has looked at is new.
	sources, err := filepath.Glob("*/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("%d examples, %v", len(sources), err)
	}
	for _, name := range sources {
		if _, err := os.Stat(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("scene 1", testScene1)
	t.Run("httpserver alone", testServerAlone)
	t.Run("dialer alone", testDialerAlone)
	t.Run("gateway alone", func(t *testing.T) { run(t, "gateway", 0, "hello, lan\n", "") })
	t.Run("proxy alone", func(t *testing.T) {
		run(t, "proxy", 0, "by socks5h: "+hello+"by http: "+hello, "SOCKS5 at 127.0.0.1:")
	})
	t.Run("usage", testUsage)
}

// testContext bounds a test that would hang otherwise.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// command is an example's program, which may be there no longer than the test.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return exec.CommandContext(testContext(t), filepath.Join(bin, name), args...)
}

// writeConfig writes a config file with a host's key and what follows it.
func writeConfig(t *testing.T, key wgnet.PrivateKey, format string, args ...any) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "wg0.conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\n", key.Reveal()) + fmt.Sprintf(format, args...)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// A server is a running httpserver.
type server struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr *bufio.Reader
	port   string // its UDP port
}

var serving = regexp.MustCompile(`serving http://10\.0\.0\.2:9090 over UDP port (\d+) until interrupted`)

// startServer starts httpserver and waits until it serves. It returns what was on standard error before that.
func startServer(t *testing.T, args ...string) (s *server, before string) {
	t.Helper()
	s = &server{cmd: command(t, "httpserver", args...)}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdout, s.stderr = bufio.NewReader(stdout), bufio.NewReader(stderr)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		line, err := s.stderr.ReadString('\n')
		if m := serving.FindStringSubmatch(line); m != nil {
			s.port = m[1]
			return s, before
		}
		before += line
		if err != nil {
			t.Fatalf("httpserver ended before it served: %v; it said:\n%s", s.cmd.Wait(), before)
		}
	}
}

// interrupt ends the server as Ctrl-C does.
func (s *server) interrupt(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		if err := s.cmd.Process.Kill(); err != nil { // Windows has no signal that one process can send to another
			t.Error(err)
		}
		_ = s.cmd.Wait() // it was killed
		return
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	rest, err := io.ReadAll(s.stderr)
	if err != nil || len(rest) > 0 {
		t.Errorf("after the interrupt httpserver said %q, %v; want nothing", rest, err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("httpserver ended with %v, want exit code 0", err)
	}
}

// testScene1 has the two peers of the classic scene, each with a file as people write it.
func testScene1(t *testing.T) {
	key1, key2 := wgnet.NewPrivateKey(), wgnet.NewPrivateKey()
	s, warnings := startServer(t, "-config", writeConfig(t, key2, `Address = 10.0.0.2
PostUp = iptables -A FORWARD -i %%i -j ACCEPT
[Peer]
# peer1
PublicKey = %s
AllowedIPs = 10.0.0.1/32
`, key1.Public()))
	if !strings.Contains(warnings, "warning: line 4: [Interface] PostUp: ") {
		t.Errorf("httpserver warned %q; want a word about PostUp", warnings)
	}
	client := writeConfig(t, key1, `Address = 10.0.0.1

[Peer]
PublicKey = %s
EndPoint = 127.0.0.1:%s
AllowedIPs = 10.0.0.2/32,192.168.1.0/24
`, key2.Public(), s.port)

	for _, tc := range []struct {
		name, url string
		code      int
		stdout    string
		stderr    string // is in it
	}{
		{"fetch", "http://10.0.0.2:9090", 0, hello, ""},
		{"fetch again", "http://10.0.0.2:9090/", 0, hello, ""},
		{"refused", "http://10.0.0.2:9091", 1, "", "connection refused"},
		{"no peer", "http://10.0.0.3:9090", 1, "", "no peer's AllowedIPs contain 10.0.0.3"},
	} {
		t.Run(tc.name, func(t *testing.T) { dial(t, tc.code, tc.stdout, tc.stderr, "-config", client, tc.url) })
	}
	s.interrupt(t)
}

// testServerAlone follows the README: what the server prints is the config of a peer that gets through.
func testServerAlone(t *testing.T) {
	s, warnings := startServer(t)
	if warnings != "" {
		t.Errorf("httpserver said %q before it served", warnings)
	}
	var file strings.Builder
	for !strings.HasSuffix(file.String(), hello) {
		line, err := s.stdout.ReadString('\n')
		file.WriteString(line)
		if err != nil {
			t.Fatalf("httpserver printed no page: %v; it printed:\n%s", err, file.String())
		}
	}
	text := strings.TrimSuffix(file.String(), hello)
	if !strings.Contains(text, "Endpoint = 127.0.0.1:"+s.port+"\n") {
		t.Errorf("the peer's config has not the server's port %s:\n%s", s.port, text)
	}
	name := filepath.Join(t.TempDir(), "wg0.conf")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dial(t, 0, hello, "", "-config", name, "http://10.0.0.2:9090")
	s.interrupt(t)
}

func testDialerAlone(t *testing.T) {
	dial(t, 0, hello, "")
}

func testUsage(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "wg0.conf")
	dial(t, 1, "", "usage: dialer", "http://10.0.0.2:9090")
	dial(t, 1, "", "usage: dialer", "-config", missing)
	dial(t, 1, "", missing, "-config", missing, "http://10.0.0.2:9090")
	dial(t, 0, "", "-config file", "-h")
	run(t, "gateway", 1, "", missing, "-config", missing, "-rules", missing)
	run(t, "proxy", 1, "", missing, "-config", missing)
}

// dial runs dialer.
func dial(t *testing.T, code int, stdout, stderr string, args ...string) {
	t.Helper()
	run(t, "dialer", code, stdout, stderr, args...)
}

// run runs an example and compares its exit code, its output, and a part of its errors.
func run(t *testing.T, name string, code int, stdout, stderr string, args ...string) {
	t.Helper()
	cmd := command(t, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s %q: exit code %d, want %d; it said:\n%s", name, args, got, code, errs.String())
	}
	if out.String() != stdout {
		t.Errorf("%s %q printed %q, want %q", name, args, out.String(), stdout)
	}
	if !strings.Contains(errs.String(), stderr) || stderr == "" && errs.Len() > 0 {
		t.Errorf("%s %q said %q, want %q in it", name, args, errs.String(), stderr)
	}
}
