// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// scriptedConn is a client that has said all that it has to say.
type scriptedConn struct {
	net.Conn
	in  *strings.Reader
	out bytes.Buffer
}

func (c *scriptedConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *scriptedConn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *scriptedConn) SetDeadline(time.Time) error { return nil }

// A request without an end is given up, and what it says is not kept.
func TestUAPIRequestBound(t *testing.T) {
	n := &Net{}
	c := &scriptedConn{in: strings.NewReader("set=1\n" + strings.Repeat(strings.Repeat("x", 999)+"\n", maxUAPIRequest/1000+1))}
	if err := n.answerUAPI(c, UAPIOptions{}); err == nil || c.out.Len() != 0 || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("%v, and answered %q", err, c.out.String())
	}
}

// Whoever may connect can say anything. Each answer is whole, and none has a secret in it.
func FuzzAnswerUAPI(f *testing.F) {
	n, err := New(&Config{
		PrivateKey: NewPrivateKey(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")},
		Peers: []PeerConfig{{PublicKey: NewPrivateKey().Public(), PresharedKey: NewPresharedKey()}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { n.Close() })
	f.Add("get=1\n\n")                               // what wg show says
	f.Add("get=1\n\nset=1\nprivate_key=\n\nget=1\n") // several requests, the last one without its end
	f.Add("get=1\nfwmark\n\n")                       // there is nothing to say after get
	f.Add("set=1" + strings.Repeat("x", 5000))       // a line that is too long
	f.Add("\n\n")                                    // no operation
	f.Fuzz(func(t *testing.T, said string) {
		c := &scriptedConn{in: strings.NewReader(said)}
		err := n.answerUAPI(c, UAPIOptions{})
		answers := strings.SplitAfter(c.out.String(), "\n\n")
		if last := answers[len(answers)-1]; last != "" {
			t.Errorf("the last answer has no end: %q", last)
		}
		for _, answer := range answers[:len(answers)-1] {
			lines := strings.Split(strings.TrimSuffix(answer, "\n\n"), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "errno=") {
				t.Errorf("an answer ends with %q", last)
			}
		}
		if operations := strings.Count(said, "=1\n"); len(answers)-1 > operations {
			t.Errorf("%d answers to %d operations", len(answers)-1, operations)
		}
		if strings.Contains(c.out.String(), "private_key") || strings.Contains(c.out.String(), "preshared_key") {
			t.Errorf("a secret is in %q", c.out.String())
		}
		if err == nil && strings.HasPrefix(said, "get=1\n\n") && len(answers) < 2 {
			t.Error("no answer")
		}
	})
}
