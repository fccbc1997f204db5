// SPDX-License-Identifier: MIT

package netstack

import "io"

var _ io.WriterTo = (*flowConn)(nil)

// WriteTo implements [io.WriterTo]: each message is one Write to w, until an error of either. Unlike a loop around Read it
// needs no buffer for the largest message while there is none, so that thousands of idle flows cost next to nothing.
func (c *flowConn) WriteTo(w io.Writer) (written int64, err error) {
	for {
		message, err := c.take()
		switch {
		case err == nil:
			n, err := w.Write(message)
			written += int64(n)
			if err != nil {
				return written, err
			}
			continue
		case err != errNothing:
			return written, c.opError("read", err)
		}
		select {
		case <-c.ready:
		case <-c.ended:
		case <-c.read.wait():
		}
	}
}
