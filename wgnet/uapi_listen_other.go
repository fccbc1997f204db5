// SPDX-License-Identifier: MIT

//go:build !unix

package wgnet

import (
	"errors"
	"fmt"
	"net"
)

// ListenUAPI is for Unix systems: on others the error is [errors.ErrUnsupported]. On Windows, wg(8) wants a named pipe, whose
// listener another package may provide for [Net.ServeUAPI].
func ListenUAPI(string) (net.Listener, error) {
	return nil, fmt.Errorf("wgnet: ListenUAPI: not on this system: %w", errors.ErrUnsupported)
}
