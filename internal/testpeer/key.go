// SPDX-License-Identifier: MIT

package testpeer

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
)

// Key is a Curve25519 private or public key, or a preshared key. The zero Key means "none".
// Keys of other packages whose underlying type is [32]byte convert to it.
type Key [32]byte

// GenerateKey makes a private key, clamped as `wg genkey` clamps it.
func GenerateKey() Key {
	var k Key
	rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// ParseKey reads a key in the base64 form that `wg` prints.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != len(Key{}) {
		return Key{}, fmt.Errorf("testpeer: a key must be 32 bytes in base64, as wg(8) prints them")
	}
	return Key(b), nil
}

// Public is the public key of a private key.
func (k Key) Public() Key {
	// crypto/ecdh rather than the device's own arithmetic: a second opinion costs nothing here.
	priv, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic(err) // 32 bytes are always a valid X25519 private key
	}
	return Key(priv.PublicKey().Bytes())
}

// IsZero says whether k is the zero Key.
func (k Key) IsZero() bool { return k == Key{} }

// String is the base64 form that `wg` prints. Keys of a test peer live for one test, so they are not redacted.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// hex is the form that the device's configuration protocol uses.
func (k Key) hex() string { return hex.EncodeToString(k[:]) }
