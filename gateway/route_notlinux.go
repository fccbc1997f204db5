// SPDX-License-Identifier: MIT

//go:build !linux

package gateway

import (
	"errors"
	"net/netip"
)

// routeKind does not know: only on Linux is the host asked for its routes.
func routeKind(netip.Addr) (special, error) { return special{}, errors.ErrUnsupported }
