// SPDX-License-Identifier: MIT

package wgnet

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unique"
)

const (
	// keySize is the length of every WireGuard key in bytes (WireGuard paper, section 5.4).
	keySize = 32

	// redacted stands in the place of a secret in whatever is printed, logged or encoded.
	redacted = "(redacted)"

	// noSecret stands in the place of a secret that is not set.
	noSecret = "(none)"
)

// A PublicKey is the Curve25519 public key by which peers know each other. It is no secret: it prints as base64, as
// `wg pubkey` does. Keys are compared with == and may be map keys. The zero value means no key, and no peer has it.
type PublicKey [keySize]byte

// ParsePublicKey parses 44 characters of base64, as `wg` prints them, or 64 hexadecimal digits. The error does not
// repeat s, which may be a private key in the wrong place. That a key is one that a peer can have is checked by
// [Config.Validate].
func ParsePublicKey(s string) (PublicKey, error) {
	raw, err := decodeKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("wgnet: public key: %w", err)
	}
	return raw, nil
}

// String returns the key as base64.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText returns the key as base64.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText parses a key as [ParsePublicKey] does.
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}

// IsZero reports whether k is the zero value.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// hex returns the key as the device's UAPI text wants it.
func (k PublicKey) hex() string { return hex.EncodeToString(k[:]) }

// lowOrder lists the encodings below 2^255 of the points of small order: with one of them as a public key the shared
// secret is all zeros whatever the private key is (RFC 7748, section 6.1). The last two are 0 and 1 plus the prime.
var lowOrder = [...]PublicKey{
	mustHex("0000000000000000000000000000000000000000000000000000000000000000"),
	mustHex("0100000000000000000000000000000000000000000000000000000000000000"),
	mustHex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
	mustHex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
	mustHex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	mustHex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	mustHex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}

// check reports why no peer can have this key, or nil.
func (k PublicKey) check() error {
	if k.IsZero() {
		return errors.New("the key is missing or all zeros")
	}
	// RFC 7748, section 5: the top bit is ignored in the computation. The point is of small order with or without it.
	masked := k
	masked[keySize-1] &= 0x7f
	for _, low := range lowOrder {
		if masked == low {
			return errors.New("the key is one of the few that make every shared secret zero; ask the peer for its real key")
		}
	}
	// X25519 puts out numbers below the prime 2^255-19 only, so nobody's public key is larger. The peer would drop each
	// of our handshakes, since mac1 is keyed with the text of its key (WireGuard paper, section 5.4.4).
	if k[keySize-1] > 0x7f || (k[keySize-1] == 0x7f && k[0] >= 0xed && allOnes(k[1:keySize-1])) {
		return errors.New("no private key has this public key; look for a typing error, or ask the peer for its key again")
	}
	return nil
}

func allOnes(b []byte) bool {
	for _, x := range b {
		if x != 0xff {
			return false
		}
	}
	return true
}

// The secret keys keep their bytes behind a pointer that package unique hands out. Equal keys have equal pointers, so
// keys compare with ==; and where no method of ours is asked (an unexported field of somebody's struct, the verb %p, the
// argument words in a traceback) what shows is an address. The bytes are a string, since package fmt follows pointers to
// arrays and structs when the verb does not suit them, but never a pointer to a string. The two types have fields of
// different names so that not even a conversion turns one into the other.
type (
	privateBytes   string
	presharedBytes string
)

// A PrivateKey is the secret half of a host's key pair. It never prints itself: fmt, log/slog, encoding/json and other
// encoders show "(redacted)". [PrivateKey.Reveal], [Config.MarshalText] and [Config.Token] are the only ways out. Keys are
// compared with ==. The zero value means no key.
type PrivateKey struct {
	private unique.Handle[privateBytes]
}

// NewPrivateKey generates a private key, as `wg genkey` does. There is no error to return: crypto/rand does not fail.
func NewPrivateKey() PrivateKey {
	var raw [keySize]byte
	rand.Read(raw[:])
	// RFC 7748, section 5: the scalar is a multiple of eight with bit 254 set. X25519 sees to that by itself; it is
	// done here too so that the key's text is what every WireGuard tool would print for it.
	raw[0] &= 0xf8
	raw[keySize-1] = raw[keySize-1]&0x7f | 0x40
	return PrivateKey{unique.Make(privateBytes(raw[:]))}
}

// ParsePrivateKey parses 44 characters of base64, as `wg genkey` prints them, or 64 hexadecimal digits. The key is kept
// as written, not clamped. A key of all zeros, which WireGuard takes for none, is an error. No error repeats s.
func ParsePrivateKey(s string) (PrivateKey, error) {
	k, err := parsePrivateKey(s)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("wgnet: private key: %w", err)
	}
	return k, nil
}

func parsePrivateKey(s string) (PrivateKey, error) {
	raw, err := decodeKey(s)
	if err != nil {
		return PrivateKey{}, err
	}
	if raw == [keySize]byte{} {
		return PrivateKey{}, errors.New("the key is all zeros; make one with NewPrivateKey or `wg genkey`")
	}
	return PrivateKey{unique.Make(privateBytes(raw[:]))}, nil
}

// Public derives the public key, as `wg pubkey` does. The zero key has the zero public key.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	private, err := ecdh.X25519().NewPrivateKey([]byte(k.private.Value()))
	if err != nil {
		panic("wgnet: X25519 refuses 32 bytes: " + err.Error()) // it refuses other lengths only
	}
	return PublicKey(private.PublicKey().Bytes())
}

// IsZero reports whether k is the zero value, which means no key.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// Reveal returns the key in the clear as base64, or "" for the zero value. Handle the result as the secret that it is.
func (k PrivateKey) Reveal() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(k.private.Value()))
}

// hex returns the key in the clear as the device's UAPI text wants it: 64 zeros for the zero value.
func (k PrivateKey) hex() string {
	if k.IsZero() {
		return PublicKey{}.hex()
	}
	return hex.EncodeToString([]byte(k.private.Value()))
}

// String returns "(redacted)", or "(none)" for the zero value.
func (k PrivateKey) String() string { return redact(k.IsZero()) }

// GoString is String: %#v shows no more than %v does.
func (k PrivateKey) GoString() string { return k.String() }

// Format writes String, whatever the verb and the flags.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is String for log/slog.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns "(redacted)", or nothing for the zero value. It is here so that no encoder writes the key.
func (k PrivateKey) MarshalText() ([]byte, error) { return redactText(k.IsZero()), nil }

// UnmarshalText parses a key as [ParsePrivateKey] does. Empty text is the zero value.
func (k *PrivateKey) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*k = PrivateKey{}
		return nil
	}
	*k, err = ParsePrivateKey(string(text))
	return err
}

// A PresharedKey is a secret that two peers share beside their key pairs and that is mixed into each handshake
// (WireGuard paper, section 5.2). It hides itself as [PrivateKey] does. Keys are compared with ==. The zero value means
// no preshared key; the protocol makes no difference between that and a key of all zeros.
type PresharedKey struct {
	preshared unique.Handle[presharedBytes]
}

// NewPresharedKey generates a preshared key, as `wg genpsk` does. There is no error to return: crypto/rand does not
// fail.
func NewPresharedKey() PresharedKey {
	var raw [keySize]byte
	rand.Read(raw[:])
	return PresharedKey{unique.Make(presharedBytes(raw[:]))}
}

// ParsePresharedKey parses 44 characters of base64, as `wg genpsk` prints them, or 64 hexadecimal digits. All zeros are
// the zero value. No error repeats s.
func ParsePresharedKey(s string) (PresharedKey, error) {
	k, err := parsePresharedKey(s)
	if err != nil {
		return PresharedKey{}, fmt.Errorf("wgnet: preshared key: %w", err)
	}
	return k, nil
}

func parsePresharedKey(s string) (PresharedKey, error) {
	raw, err := decodeKey(s)
	if err != nil || raw == [keySize]byte{} {
		return PresharedKey{}, err
	}
	return PresharedKey{unique.Make(presharedBytes(raw[:]))}, nil
}

// IsZero reports whether k is the zero value, which means no preshared key.
func (k PresharedKey) IsZero() bool { return k == PresharedKey{} }

// Reveal returns the key in the clear as base64, or "" for the zero value. Handle the result as the secret that it is.
func (k PresharedKey) Reveal() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(k.preshared.Value()))
}

// hex returns the key in the clear as the device's UAPI text wants it: 64 zeros, which remove it, for the zero value.
func (k PresharedKey) hex() string {
	if k.IsZero() {
		return PublicKey{}.hex()
	}
	return hex.EncodeToString([]byte(k.preshared.Value()))
}

// String returns "(redacted)", or "(none)" for the zero value.
func (k PresharedKey) String() string { return redact(k.IsZero()) }

// GoString is String: %#v shows no more than %v does.
func (k PresharedKey) GoString() string { return k.String() }

// Format writes String, whatever the verb and the flags.
func (k PresharedKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue is String for log/slog.
func (k PresharedKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns "(redacted)", or nothing for the zero value. It is here so that no encoder writes the key.
func (k PresharedKey) MarshalText() ([]byte, error) { return redactText(k.IsZero()), nil }

// UnmarshalText parses a key as [ParsePresharedKey] does. Empty text is the zero value.
func (k *PresharedKey) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*k = PresharedKey{}
		return nil
	}
	*k, err = ParsePresharedKey(string(text))
	return err
}

func redact(zero bool) string {
	if zero {
		return noSecret
	}
	return redacted
}

func redactText(zero bool) []byte {
	if zero {
		return nil
	}
	return []byte(redacted)
}

// decodeKey decodes base64 or hex. Its errors say what is wrong without a character of s.
func decodeKey(s string) ([keySize]byte, error) {
	const want = "want 44 characters of base64, as `wg` prints, or 64 hex digits"
	var (
		raw []byte
		err error
	)
	switch {
	case s == "":
		return [keySize]byte{}, errors.New("no key: " + want)
	case s == redacted:
		return [keySize]byte{}, errors.New("the key was redacted when this text was written: put the real key in its place")
	case len(s) == 43 && !strings.HasSuffix(s, "="):
		return [keySize]byte{}, errors.New("43 characters: the = at the end is missing")
	case len(s) == 44:
		raw, err = base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(raw) != keySize {
			return [keySize]byte{}, errors.New("44 characters, but not the base64 of 32 bytes")
		}
	case len(s) == 64:
		if raw, err = hex.DecodeString(s); err != nil {
			return [keySize]byte{}, errors.New("64 characters, but not all of them hex digits")
		}
	default:
		return [keySize]byte{}, fmt.Errorf("%d characters: %s", len(s), want)
	}
	return [keySize]byte(raw), nil
}

func mustHex(s string) PublicKey {
	raw, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return PublicKey(raw)
}
