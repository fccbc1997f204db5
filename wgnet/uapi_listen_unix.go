// SPDX-License-Identifier: MIT

//go:build unix

package wgnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// uapiDir is where wg(8) looks for interfaces that are programs.
const uapiDir = "/var/run/wireguard"

// maxInterfaceName is the length of the longest interface name that wg(8) takes (IFNAMSIZ less the final NUL).
const maxInterfaceName = 15

// ListenUAPI listens where wg(8) looks for an interface: on the socket /var/run/wireguard/NAME.sock, which only its owner
// may connect to. That folder is root's, so this mostly takes root, as wg(8) does. The name is up to you, and should not
// be that of another interface of the machine. A socket that a program has left behind is replaced; if there is one that is
// in use, errors.Is finds [syscall.EADDRINUSE]. Close removes the socket. On Windows, where wg(8) wants a named pipe, the
// error is [errors.ErrUnsupported].
func ListenUAPI(name string) (net.Listener, error) {
	l, err := listenUAPI(uapiDir, name)
	if err != nil {
		return nil, fmt.Errorf("wgnet: ListenUAPI: %w", err)
	}
	return l, nil
}

func listenUAPI(dir, name string) (net.Listener, error) {
	if name == "" || len(name) > maxInterfaceName || name[0] == '.' || strings.ContainsAny(name, "/ \t\r\n\x00") {
		return nil, fmt.Errorf("%s is no name of an interface: want 1 to %d characters, no space, no slash and no dot in front",
			show(name), maxInterfaceName)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// The socket comes into being in a folder of its own, which nobody else may enter, and is moved to its place when its
	// permissions are right: a umask, which is the whole process's, is not ours to change.
	private, err := os.MkdirTemp(dir, ".wgnet-")
	if err != nil {
		return nil, err
	}
	born, path := filepath.Join(private, "s"), filepath.Join(dir, name+".sock")
	inner, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: born})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(private))
	}
	inner.SetUnlinkOnClose(false)
	l := &uapiListener{UnixListener: inner, path: path}
	if err := errors.Join(l.move(born), os.RemoveAll(private)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// uapiListener is a listener on a socket that was moved.
type uapiListener struct {
	*net.UnixListener
	path string
	file fs.FileInfo // of the socket

	closeOnce sync.Once
	closeErr  error
}

// move puts the socket into its place, unless somebody listens there.
func (l *uapiListener) move(from string) error {
	err := os.Chmod(from, 0o600)
	if err != nil {
		return err
	}
	if l.file, err = os.Lstat(from); err != nil {
		return err
	}
	if old, err := os.Lstat(l.path); err == nil {
		if old.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("%s is no socket, so it is not replaced", l.path)
		}
		c, err := net.DialTimeout("unix", l.path, time.Second)
		if err == nil {
			err = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("%s: %w: another program serves an interface of that name", l.path, syscall.EADDRINUSE), err)
		}
	}
	return os.Rename(from, l.path)
}

// Addr returns the socket's address as wg(8) knows it.
func (l *uapiListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// Close removes the socket, unless another one has taken its place.
func (l *uapiListener) Close() error {
	l.closeOnce.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
			l.closeErr = os.Remove(l.path)
		}
		l.closeErr = errors.Join(l.closeErr, l.UnixListener.Close())
	})
	return l.closeErr
}
