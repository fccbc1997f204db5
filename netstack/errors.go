// SPDX-License-Identifier: MIT

package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// sysError is the one place where gVisor's errors become those that the net package has, so that
// errors.Is(err, syscall.ECONNREFUSED) and its like hold. call is the system call that would have failed.
func sysError(call string, err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	case *tcpip.ErrConnectionRefused:
		return os.NewSyscallError(call, syscall.ECONNREFUSED)
	case *tcpip.ErrConnectionReset, *tcpip.ErrAborted: // the latter is a reset of our own: see Stack.reset
		return os.NewSyscallError(call, syscall.ECONNRESET)
	case *tcpip.ErrConnectionAborted:
		return os.NewSyscallError(call, syscall.ECONNABORTED)
	case *tcpip.ErrClosedForSend:
		return os.NewSyscallError(call, syscall.EPIPE)
	case *tcpip.ErrNetworkUnreachable:
		return os.NewSyscallError(call, syscall.ENETUNREACH)
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		return os.NewSyscallError(call, syscall.EHOSTUNREACH)
	case *tcpip.ErrTimeout:
		return os.NewSyscallError(call, syscall.ETIMEDOUT)
	case *tcpip.ErrMessageTooLong:
		return os.NewSyscallError(call, syscall.EMSGSIZE)
	case *tcpip.ErrPortInUse, *tcpip.ErrNoPortAvailable:
		return os.NewSyscallError(call, syscall.EADDRINUSE)
	case *tcpip.ErrBadLocalAddress, *tcpip.ErrBadAddress:
		return os.NewSyscallError(call, syscall.EADDRNOTAVAIL)
	case *tcpip.ErrNotConnected:
		return os.NewSyscallError(call, syscall.ENOTCONN)
	case *tcpip.ErrDestinationRequired:
		return os.NewSyscallError(call, syscall.EDESTADDRREQ)
	case *tcpip.ErrNoBufferSpace:
		return os.NewSyscallError(call, syscall.ENOBUFS)
	case *tcpip.ErrBroadcastDisabled, *tcpip.ErrNotPermitted:
		return os.NewSyscallError(call, syscall.EACCES)
	case *tcpip.ErrInvalidEndpointState, *tcpip.ErrInvalidOptionValue:
		return os.NewSyscallError(call, syscall.EINVAL)
	case *tcpip.ErrAddressFamilyNotSupported:
		return os.NewSyscallError(call, syscall.EAFNOSUPPORT)
	default:
		return os.NewSyscallError(call, errors.New(err.String()))
	}
}

// contextError is a dial or a ping that its context ended. Its text and its kind are the net package's; unlike
// there, a deadline is both context.DeadlineExceeded and os.ErrDeadlineExceeded.
type contextError struct{ cause error }

func (e *contextError) Error() string {
	if e.Timeout() {
		return os.ErrDeadlineExceeded.Error()
	}
	return "operation was canceled"
}

func (e *contextError) Timeout() bool   { return errors.Is(e.cause, context.DeadlineExceeded) }
func (e *contextError) Temporary() bool { return e.Timeout() }
func (e *contextError) Unwrap() error   { return e.cause }

func (e *contextError) Is(target error) bool {
	return target == os.ErrDeadlineExceeded && e.Timeout()
}

// An unknown network is a mistake in the caller's source: the error lists what would have been right.
func unknownNetwork(network, want string) error {
	return fmt.Errorf("%w, want %s", net.UnknownNetworkError(network), want)
}

// familyError says that an address does not belong to the network that was asked for, as "tcp4" with an IPv6 address.
func familyError(network string, addr fmt.Stringer) error {
	return &net.AddrError{Err: "wrong address family for network " + network, Addr: addr.String()}
}
