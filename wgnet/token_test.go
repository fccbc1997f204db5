// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// seal makes a token of a body, right or not.
func seal(body []byte) string {
	sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	return "wgnet1_" + base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint32(slices.Clone(body), sum))
}

// bodyOf takes a token apart again.
func bodyOf(t testing.TB, token string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "wgnet1_"))
	if err != nil {
		t.Fatal(err)
	}
	return raw[:len(raw)-4]
}

// smallToken is the token of a host alone: a private key, one address, and five zeros for all the rest.
func smallToken(t testing.TB) string {
	t.Helper()
	c := &Config{PrivateKey: mustPrivate(t, aliceHex), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
	return mustToken(t, c)
}

func mustToken(t testing.TB, c *Config) string {
	t.Helper()
	token, err := c.Token()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A token that is around must be read for ever, so its bytes are written down here.
func TestTokenBytes(t *testing.T) {
	c := testConfig(t)
	c.ListenPort = 0xd6c
	c.Peers = c.Peers[:2]
	body := bodyOf(t, mustToken(t, c))
	wantBody := strings.Join([]string{
		aliceHex,
		"02", "18", "0a000001", "61", "fd000000000000000000000000000001", // addresses; 0x61 is 64 plus 33
		"ec1a",                                                           // port 0xd6c, 7 bits in a byte
		"02", "20", "0a000035", "a1", "fd000000000000000000000000000053", // DNS
		"02", "0c", hex.EncodeToString([]byte("corp.example")), "0f", hex.EncodeToString([]byte("_sites.example.")),
		"e40a", // MTU 1380
		"02",   // peers

		"02", hex.EncodeToString([]byte("db")), bobPubHex, "01", bobHex,
		"14", hex.EncodeToString([]byte("[fe80::1%eth0]:51820")),
		"02", "20", "0a000002", "a1", "fd000000000000000000000000000002", // allowed IPs
		"19", // keepalive

		"00", PublicKey{1: 1}.hex(), "00", "11", hex.EncodeToString([]byte("vpn.example.com:1")),
		"01", "00", // 0.0.0.0/0 has no byte of an address
		"00",
	}, "")
	if got := hex.EncodeToString(body); got != wantBody {
		t.Errorf("got\n%s\nwant\n%s", got, wantBody)
	}
	const want = "wgnet1_dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCoBGAoAAAEAAAAAAKLRphI"
	if got := smallToken(t); got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}

func TestTokenRoundTrip(t *testing.T) {
	c := testConfig(t)
	c.warnings = []Warning{{Line: 1}}
	token := mustToken(t, c)
	got, err := ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if !sameFile(c, got) || got.Warnings() != nil {
		t.Errorf("was\n%v\nbecame\n%v", c, got)
	}
	before, _ := c.MarshalText()
	if after, err := got.MarshalText(); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was\n%s\nand is\n%s%v", before, after, err)
	}
	if again := mustToken(t, got); again != token {
		t.Errorf("the token was\n%s\nand is\n%s", token, again)
	}
	for _, c := range []*Config{nil, {}} {
		if token, err := c.Token(); token != "" || err == nil {
			t.Errorf("a config that is not valid has the token %q, %v", token, err)
		}
	}
}

func TestParseTokenWhiteSpace(t *testing.T) {
	token := mustToken(t, testConfig(t))
	broken := strings.Builder{}
	for line := range slices.Chunk([]byte(token), 76) {
		broken.Write(line)
		broken.WriteString("\r\n")
	}
	for name, text := range map[string]string{
		"around it":          " \t\n" + token + "\r\n\n",
		"lines of mail":      broken.String(),
		"indented lines":     "  " + strings.ReplaceAll(broken.String(), "\r\n", "\n  "),
		"in the prefix":      token[:3] + "\n" + token[3:],
		"no-break space":     "\u00a0" + token,
		"zero-width space":   token[:40] + "\u200b" + token[40:],
		"byte-order mark":    "\ufeff" + token,
		"between characters": strings.Join(strings.Split(token, ""), " "),
	} {
		if c, err := ParseToken(text); err != nil || !sameFile(c, testConfig(t)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseTokenErrors(t *testing.T) {
	const (
		mistyped = "wgnet: token: it is cut short or mistyped: its checksum is wrong"
		notOurs  = "wgnet: token: its checksum is right, but no version 1 token is made in this way"
		noPrefix = "wgnet: token: it does not begin with wgnet1_"
	)
	token := mustToken(t, testConfig(t))
	small := bodyOf(t, smallToken(t))
	port := len(small) - 5 // where the port is, and after it the counts of DNS, search domains, the MTU and the peers
	with := func(at int, b ...byte) string { return seal(slices.Concat(small[:at], b, small[at+1:])) }
	invalid := func(change func(c *Config)) string {
		c := testConfig(t)
		change(c)
		return seal(appendTokenBody(nil, c))
	}
	key := mustPrivate(t, bobHex).Public()
	peer := slices.Concat([]byte{1, 0}, key[:])
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "wgnet: token: there is none; it is one line of text that begins with wgnet1_"},
		{"white space", " \r\n", "wgnet: token: there is none"},
		{"without its beginning", token[1:], noPrefix},
		{"a file", "[Interface]", "wgnet: token: character 1 is none that a token has"},
		{"a key", base64Of(t, aliceHex)[:43], noPrefix},
		{"in quotes", `"` + token + `"`, "wgnet: token: character 1 is none"},
		{"with a word after it", token + " Regards, Bob", fmt.Sprintf("character %d is none", len(token)+len(" Regards,"))},
		{"a dash that was made longer", token[:20] + "–" + token[21:], "character 21 is none"},
		{"another version", "wgnet2_" + token[7:], "wgnet: token: it is of version 2, and this program reads version 1; update"},
		{"a version of many digits", "wgnet" + strings.Repeat("1", 40) + "_", noPrefix},
		{"no version", "wgnet_" + token[7:], noPrefix},
		{"nothing after the prefix", "wgnet1_", mistyped},
		{"cut at the end", token[:len(token)-1], mistyped},
		{"cut by a lot", token[:50], mistyped},
		{"two characters that changed places", token[:60] + token[61:62] + token[60:61] + token[62:], mistyped},
		{"letter case", strings.Replace(token, token[40:60], strings.ToUpper(token[40:60]), 1), mistyped},
		{"pasted twice", token + token, mistyped},
		{"bits after the end", token[:len(token)-1] + string(token[len(token)-1]+1), mistyped},
		{"padding", token + "=", "is none that a token has"},
		{"too long", "wgnet1_" + strings.Repeat("A", maxTokenSize), "wgnet: token: it has more than 65536 characters"},
		{"nothing in it", seal(nil), notOurs},
		{"more than it should have", seal(append(slices.Clone(small), 0)), notOurs},
		{"less than it should have", seal(small[:len(small)-1]), notOurs},
		{"a number in two bytes", with(port, 0x80, 0), notOurs},
		{"a number without end", with(port, bytes.Repeat([]byte{0xff}, 11)...), notOurs},
		{"a large port", with(port, 0x80, 0x80, 0x04), notOurs},
		{"more servers than bytes", with(port+1, 0xff, 0xff, 0xff, 0xff, 0x07), notOurs},
		{"a count of 2^63", with(port+4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01), notOurs},
		{"a server with a prefix", with(port+1, 1, 24, 10, 0, 0, 1), notOurs},
		{"a prefix of 129 bits", with(port+1, 1, 162), notOurs},
		{"a control character", with(port+2, 1, 2, 'a', '\n'), notOurs},
		{"a string that is too long", with(port+2, 1, 200), notOurs},
		{"a preshared key of zeros", with(port+4, slices.Concat(peer, []byte{1}, make([]byte, 32), []byte{0, 0, 0})...), notOurs},
		{"a third kind of preshared key", with(port+4, slices.Concat(peer, []byte{2, 0, 0, 0})...), notOurs},
		{"no address", invalid(func(c *Config) { c.Addresses = nil }), "wgnet: token: [Interface] Address: missing"},
		{"a small MTU", invalid(func(c *Config) { c.MTU = 1000 }), "wgnet: token: [Interface] MTU: 1000 is too small"},
		{"our own key", invalid(func(c *Config) { c.Peers[0].PublicKey = c.PrivateKey.Public() }), "wgnet: token: [Peer] PublicKey: peer db: it is our own key"},
		{"the private key twice", invalid(func(c *Config) { c.Peers[0].PublicKey = mustHex(aliceHex) }), "it is our own private key"},
		{"an IPv4 address as IPv6", invalid(func(c *Config) { c.Addresses[0] = netip.MustParsePrefix("::ffff:10.0.0.1/128") }), "in IPv6 clothes"},
		{"bits beyond the prefix", with(port+4, slices.Concat(peer, []byte{0, 0, 1, 7, 0xff, 0})...), "has bits set beyond its length"},
		{"a keepalive of a day", with(port+4, slices.Concat(peer, []byte{0, 0, 0, 0x80, 0xa3, 0x05})...), "PersistentKeepalive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseToken(c.text)
			if err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v; want %q", got, err, c.want)
			}
			if e, ok := errors.AsType[*ParseError](err); !ok || e.File != "token" {
				t.Errorf("got %#v; want a ParseError of a token", err)
			}
			checkTokenError(t, err, c.text)
		})
	}
}

// checkTokenError looks for a piece of the token, or of a key in base64 or hex, in the error's text.
func checkTokenError(t *testing.T, err error, text string) {
	t.Helper()
	for _, secret := range []string{
		strings.TrimPrefix(text, "wgnet1_"), base64Of(t, aliceHex), base64Of(t, bobHex), aliceHex, bobHex,
	} {
		if piece := leaked(err.Error(), secret); piece != "" {
			t.Errorf("the error shows %q: %v", piece, err)
		}
	}
}

// Every cut and every wrong character is found.
func TestParseTokenSlips(t *testing.T) {
	token := smallToken(t)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range len(token) {
		if _, err := ParseToken(token[:i]); err == nil {
			t.Fatalf("a token cut after %d characters is taken", i)
		}
		for _, c := range alphabet {
			if slip := token[:i] + string(c) + token[i+1:]; slip != token {
				if _, err := ParseToken(slip); err == nil {
					t.Fatalf("a token with %q for character %d is taken", c, i)
				}
			}
		}
	}
}

// A token has its bound at both ends, and what is over it asks for no memory.
func TestTokenBounds(t *testing.T) {
	c := testConfig(t)
	for i := range 2000 {
		c.Peers = append(c.Peers, PeerConfig{PublicKey: PublicKey{2, byte(i), byte(i >> 8)}})
	}
	if token, err := c.Token(); token != "" || err == nil || !strings.Contains(err.Error(), "more than 65536 characters; use a file") {
		t.Errorf("got a token of %d characters, %v", len(token), err)
	}
	c.Peers = c.Peers[:1000]
	if c, err := ParseToken(mustToken(t, c)); err != nil || len(c.Peers) != 1000 {
		t.Errorf("1,000 peers: %v", err)
	}

	small := bodyOf(t, smallToken(t))
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x07} // 2^31-1
	for name, text := range map[string]string{
		"32 MB of characters":  "wgnet1_" + strings.Repeat("A", 32<<20),
		"32 MB of white space": strings.Repeat(" ", 32<<20),
		"2^31-1 peers":         seal(slices.Concat(small[:len(small)-1], huge)),
		"2^31-1 addresses":     seal(slices.Concat(small[:32], huge)),
		"a string of 2^31-1":   seal(slices.Concat(small[:len(small)-3], []byte{1}, huge)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseToken(text)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; err == nil || used > 1<<20 {
			t.Errorf("%s: %v, %d bytes of memory", name, err, used)
		}
	}
}

// FuzzParseToken takes each text as a token, as a token's body in base64 to which the checksum is added, and as a
// config file. $A, $B, $C and $P stand for keys, as in FuzzParseConfig.
func FuzzParseToken(f *testing.F) {
	full := mustToken(f, testConfig(f))
	f.Add("")                                                                                                                             // nothing
	f.Add(full)                                                                                                                           // every field
	f.Add(full[:90] + "\r\n " + full[90:])                                                                                                // broken by a mail program
	f.Add(smallToken(f))                                                                                                                  // the least that is valid
	f.Add(base64.RawURLEncoding.EncodeToString(bodyOf(f, full)))                                                                          // a body with every field
	f.Add(base64.RawURLEncoding.EncodeToString(bodyOf(f, smallToken(f))))                                                                 // the smallest body
	f.Add(base64.RawURLEncoding.EncodeToString(append(bodyOf(f, smallToken(f))[:38], 255, 255, 255, 7)))                                  // a number that is larger than the rest
	f.Add("wgnet9999_" + full[7:])                                                                                                        // a version to come
	f.Add(minimal + "[Peer]\nPublicKey=$B\nPresharedKey=$P\nEndpoint=[fe80::1%1]:1\nAllowedIPs=0.0.0.0/0, 10.0.0.0/9, ::/0, fd00::/65\n") // prefixes that end inside a byte
	f.Add("[Interface]\nPrivateKey=$A\nAddress=10.0.0.1/8,fd00::1\nDNS=10.0.0.1 x.example\nMTU=1280\nListenPort=65535\n")                 // no peer
	f.Fuzz(func(t *testing.T, text string) {
		tokens := []string{text}
		if body, err := base64.RawURLEncoding.DecodeString(text); err == nil {
			tokens = append(tokens, seal(body))
		}
		for _, token := range tokens {
			c, err := ParseToken(token)
			if err != nil {
				if e, ok := errors.AsType[*ParseError](err); ok && e.Section != "" {
					token = "" // what is wrong with a Config is said in words that may be in the text too
				}
				checkTokenError(t, err, token)
				continue
			}
			packed := strings.Map(func(r rune) rune {
				if r < 0x80 && (isAlnum(byte(r)) || r == '-' || r == '_') {
					return r
				}
				return -1
			}, token)
			if again := mustToken(t, c); again != packed {
				t.Fatalf("was %s, became %s", packed, again)
			}
		}
		c, err := parse(t, text)
		if err != nil {
			return
		}
		token, err := c.Token()
		if err != nil {
			return // it is too large
		}
		again, err := ParseToken(token)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := c.MarshalText()
		if after, _ := again.MarshalText(); !bytes.Equal(before, after) {
			t.Fatalf("was\n%s\nbecame\n%s", before, after)
		}
	})
}
