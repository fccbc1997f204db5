// SPDX-License-Identifier: MIT

package wgnet

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// The keys of RFC 7748, section 6.1. They are used all over the tests, since everybody knows them.
const (
	aliceHex    = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
	alicePubHex = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
	bobHex      = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
	bobPubHex   = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
)

func base64Of(t testing.TB, hexText string) string {
	t.Helper()
	raw, err := hex.DecodeString(hexText)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func mustPrivate(t testing.TB, s string) PrivateKey {
	t.Helper()
	k, err := ParsePrivateKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustPreshared(t testing.TB, s string) PresharedKey {
	t.Helper()
	k, err := ParsePresharedKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPublicMatchesRFC7748(t *testing.T) {
	// The RFC's scalars are not clamped; they are kept as they are, and clamped in the computation.
	for _, c := range []struct{ name, private, public string }{
		{"Alice", aliceHex, alicePubHex},
		{"Bob", bobHex, bobPubHex},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mustPrivate(t, c.private).Public().hex(); got != c.public {
				t.Errorf("got %s, want %s", got, c.public)
			}
		})
	}
}

func TestNewKeys(t *testing.T) {
	a, b := NewPrivateKey(), NewPrivateKey()
	if a == b || a.IsZero() || a.Public() == b.Public() {
		t.Error("two private keys are equal or zero")
	}
	raw, _ := base64.StdEncoding.DecodeString(a.Reveal())
	if raw[0]&7 != 0 || raw[31]&0xc0 != 0x40 {
		t.Error("the private key is not clamped as RFC 7748, section 5, has it")
	}
	if err := a.Public().check(); err != nil {
		t.Errorf("our own public key is refused: %v", err)
	}
	if p, q := NewPresharedKey(), NewPresharedKey(); p == q || p.IsZero() {
		t.Error("two preshared keys are equal or zero")
	}
}

func TestParseKeys(t *testing.T) {
	b64 := base64Of(t, alicePubHex)
	for _, s := range []string{b64, alicePubHex, strings.ToUpper(alicePubHex)} {
		k, err := ParsePublicKey(s)
		if err != nil || k.String() != b64 || k.hex() != alicePubHex {
			t.Errorf("ParsePublicKey(%q) = %v, %v", s, k, err)
		}
	}
	for _, s := range []string{base64Of(t, aliceHex), aliceHex} {
		if k := mustPrivate(t, s); k.Reveal() != base64Of(t, aliceHex) || k.hex() != aliceHex {
			t.Error("a private key does not come out as it went in")
		}
		if k := mustPreshared(t, s); k.Reveal() != base64Of(t, aliceHex) || k.hex() != aliceHex {
			t.Error("a preshared key does not come out as it went in")
		}
	}
	if mustPrivate(t, aliceHex) != mustPrivate(t, base64Of(t, aliceHex)) {
		t.Error("the same key in hex and in base64 is not equal")
	}
}

// Fault 2: what is not 32 bytes is an error that says what is wrong without a character of the key.
func TestParseKeyErrors(t *testing.T) {
	b64 := base64Of(t, aliceHex)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no key"},
		{"without the final =", b64[:43], "the = at the end is missing"},
		{"short", b64[:20], "20 characters"},
		{"long", b64 + "AAAA", "48 characters"},
		{"other alphabet", strings.Replace(b64, b64[3:4], "-", 1), "not the base64"},
		{"set bits after the end", b64[:42] + "9=", "not the base64"},
		{"line breaks inside", b64[:40] + "\n\n\n\n", "not the base64"},
		{"no hex", strings.Replace(aliceHex, "7", "g", 1), "not all of them hex digits"},
		{"redacted", redacted, "was redacted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err1 := ParsePublicKey(c.text)
			_, err2 := ParsePrivateKey(c.text)
			_, err3 := ParsePresharedKey(c.text)
			for _, err := range []error{err1, err2, err3} {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got error %v, want one with %q", err, c.want)
				}
				if piece := leaked(err.Error(), c.text); piece != "" {
					t.Errorf("error %q shows %q of the key", err, piece)
				}
			}
		})
	}
	if _, err := ParsePrivateKey(strings.Repeat("0", 64)); err == nil {
		t.Error("a private key of zeros is taken")
	}
	if k, err := ParsePresharedKey(strings.Repeat("0", 64)); err != nil || !k.IsZero() {
		t.Errorf("a preshared key of zeros: %v, %v; want the zero value", k, err)
	}
}

func TestKeyText(t *testing.T) {
	type keys struct {
		Public    PublicKey
		Private   PrivateKey
		Preshared PresharedKey
	}
	in := `{"Public":"` + base64Of(t, alicePubHex) + `","Private":"` + base64Of(t, aliceHex) + `","Preshared":"` + bobHex + `"}`
	var k keys
	if err := json.Unmarshal([]byte(in), &k); err != nil {
		t.Fatal(err)
	}
	if k.Public.hex() != alicePubHex || k.Private.hex() != aliceHex || k.Preshared.hex() != bobHex {
		t.Error("keys in JSON are not parsed")
	}
	out, err := json.Marshal(k)
	if want := `{"Public":"` + base64Of(t, alicePubHex) + `","Private":"(redacted)","Preshared":"(redacted)"}`; err != nil || string(out) != want {
		t.Errorf("got %s, %v; want %s", out, err, want)
	}
	if err := json.Unmarshal(out, &k); err == nil || !strings.Contains(err.Error(), "redacted") {
		t.Errorf("a redacted key is read back: %v", err)
	}
	if err := json.Unmarshal([]byte(`{"Private":"","Preshared":""}`), &k); err != nil || !k.Private.IsZero() || !k.Preshared.IsZero() {
		t.Errorf("empty text is not the zero value: %v", err)
	}
}

func TestZeroKeys(t *testing.T) {
	var (
		private   PrivateKey
		preshared PresharedKey
		zeros     = strings.Repeat("0", 64)
	)
	if !private.IsZero() || !preshared.IsZero() || !private.Public().IsZero() {
		t.Error("the zero values are not zero")
	}
	if private.Reveal() != "" || preshared.Reveal() != "" || private.hex() != zeros || preshared.hex() != zeros {
		t.Error("the zero values have text")
	}
	if private.String() != noSecret || preshared.String() != noSecret {
		t.Error("the zero values do not print as none")
	}
}

// Fault 12: the list of keys of small order is right and whole. An X25519 with any scalar tells.
func TestPublicKeyCheck(t *testing.T) {
	private, err := ecdh.X25519().GenerateKey(strings.NewReader(strings.Repeat("wgnet", 13)))
	if err != nil {
		t.Fatal(err)
	}
	sharesZero := func(k PublicKey) bool {
		public, err := ecdh.X25519().NewPublicKey(k[:])
		if err != nil {
			t.Fatal(err)
		}
		_, err = private.ECDH(public)
		return err != nil
	}
	for _, k := range lowOrder {
		high := k
		high[31] |= 0x80
		for _, k := range []PublicKey{k, high} {
			if !sharesZero(k) {
				t.Errorf("%s is listed, but is not of small order", k.hex())
			}
			if k.check() == nil {
				t.Errorf("%s is not refused", k.hex())
			}
		}
	}
	// The numbers around 0, around the prime 2^255-19 and at the very top, where the other encodings would be.
	for n := range 256 {
		for _, k := range []PublicKey{
			{0: byte(n)},
			mustHex(hex.EncodeToString([]byte{byte(n)}) + strings.Repeat("ff", 30) + "7f"),
			mustHex(hex.EncodeToString([]byte{byte(n)}) + strings.Repeat("ff", 31)),
		} {
			canonical := k[31] < 0x7f || k[31] == 0x7f && k[0] < 0xed
			if got, want := k.check() == nil, canonical && !sharesZero(k); got != want {
				t.Errorf("%s: accepted %v, want %v", k.hex(), got, want)
			}
		}
	}
}

// Fault 16: no key turns into one of another kind, neither by assignment nor by conversion.
func TestKeysAreOfDifferentTypes(t *testing.T) {
	types := []reflect.Type{reflect.TypeFor[PublicKey](), reflect.TypeFor[PrivateKey](), reflect.TypeFor[PresharedKey]()}
	for _, from := range types {
		for _, to := range types {
			if from != to && (from.AssignableTo(to) || from.ConvertibleTo(to)) {
				t.Errorf("%v becomes %v", from, to)
			}
		}
		if !from.Comparable() {
			t.Errorf("%v cannot be compared", from)
		}
	}
}

// FuzzParseKeys checks that a key comes out as it went in, through base64 and through hex.
func FuzzParseKeys(f *testing.F) {
	f.Add(base64Of(f, aliceHex))                            // base64, not clamped
	f.Add(aliceHex)                                         // hex
	f.Add(strings.ToUpper(bobHex))                          // hex in capitals
	f.Add(strings.Repeat("0", 64))                          // zeros: no private key, and no preshared key
	f.Add(strings.Repeat("A", 43) + "=")                    // the same in base64
	f.Add(base64Of(f, aliceHex)[:43])                       // the = was not copied
	f.Add(base64Of(f, aliceHex)[:42] + "9=")                // bits after the end of the 32 bytes
	f.Add(base64Of(f, aliceHex)[:40] + "\r\n\r\n")          // line breaks, which encoding/base64 skips
	f.Add("_" + base64Of(f, aliceHex)[1:])                  // the alphabet of URLs
	f.Add(redacted)                                         // our own output
	f.Add("\xef\xbb\xbf" + base64Of(f, aliceHex)[:41])      // 44 bytes with a BOM
	f.Add(base64Of(f, aliceHex) + base64Of(f, bobHex)[:20]) // 64 characters that are no hex
	f.Fuzz(func(t *testing.T, s string) {
		public, err := ParsePublicKey(s)
		if err != nil {
			if piece := leaked(err.Error(), s); piece != "" {
				t.Fatalf("the error shows %q", piece)
			}
			return
		}
		for _, text := range []string{public.String(), public.hex()} {
			if again, err := ParsePublicKey(text); err != nil || again != public {
				t.Fatalf("%q became %v, %v", text, again, err)
			}
		}
		preshared := mustPreshared(t, s)
		if preshared.hex() != public.hex() || mustPreshared(t, preshared.hex()) != preshared {
			t.Fatal("the preshared key has changed")
		}
		if public.IsZero() {
			if !preshared.IsZero() || preshared.Reveal() != "" {
				t.Fatal("zeros are a preshared key")
			}
			return
		}
		private := mustPrivate(t, s)
		if private.hex() != public.hex() || mustPrivate(t, private.Reveal()) != private {
			t.Fatal("the private key has changed")
		}
		if preshared.Reveal() != private.Reveal() || private.Reveal() != public.String() {
			t.Fatal("the same bytes have different texts")
		}
	})
}

// leaked returns a piece of secret that is in text, or "". Eight characters may show: a peer without a name is called by
// so much of its public key, and nobody can know that somebody has put a secret in that place.
func leaked(text, secret string) string {
	const window = 9
	for i := 0; i+window <= len(secret); i++ {
		if strings.Contains(text, secret[i:i+window]) && !strings.Contains(redacted, secret[i:i+window]) {
			return secret[i : i+window]
		}
	}
	return ""
}
