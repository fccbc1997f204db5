// SPDX-License-Identifier: MIT

//go:build unix

package wgnet

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// socketDir is a folder that does not exist yet. t.TempDir's path is too long for the path of a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "wireguard")
}

func TestListenUAPI(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "wg0.sock")
	for _, before := range []string{"nothing", "a socket that was left behind"} {
		l, err := listenUAPI(dir, "wg0")
		if err != nil {
			t.Fatalf("with %s: %v", before, err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode(); mode != fs.ModeSocket|0o600 || l.Addr().String() != path {
			t.Errorf("with %s: mode %v, address %v", before, mode, l.Addr())
		}
		if _, err := listenUAPI(dir, "wg0"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("with %s: a second one: %v", before, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("with %s: the folder has %v, %v", before, entries, err)
		}
		accepted := make(chan error, 1)
		go func() { // ends with the connection
			c, err := l.Accept()
			if err == nil {
				err = c.Close()
			}
			accepted <- err
		}()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(<-accepted, c.Close(), l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("with %s: the socket is still there: %v", before, err)
		}
		left, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err != nil {
			t.Fatal(err)
		}
		left.SetUnlinkOnClose(false)
		if err := left.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What has taken the socket's place stays.
func TestListenUAPIReplaced(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "wg0.sock")
	l, err := listenUAPI(dir, "wg0")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
	if l, err := listenUAPI(dir, "wg0"); err == nil || err.Error() != path+" is no socket, so it is not replaced" {
		t.Errorf("got %v, %v", l, err)
	}
}

func TestListenUAPINames(t *testing.T) {
	dir := socketDir(t)
	for _, name := range []string{"", ".", "..", ".wg0", "a/b", "../x", "wg 0", "wg0\n", "a\x00b", "sixteen-letters-"} {
		if l, err := listenUAPI(dir, name); err == nil {
			l.Close()
			t.Errorf("the name %q was taken", name)
		}
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}
