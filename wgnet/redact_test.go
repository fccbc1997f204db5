// SPDX-License-Identifier: MIT

package wgnet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// secretForms returns the ways in which a piece of a secret could show in text.
func secretForms(hexText string) []string {
	key := mustHex(hexText)
	raw := key[:]
	var forms []string
	for i := 0; i+4 <= len(raw); i++ {
		part := raw[i : i+4]
		reversed := slices.Clone(part)
		slices.Reverse(reversed) // a word of memory as a number
		forms = append(forms,
			string(part),
			strings.Trim(fmt.Sprint(part), "[]"), // 1 2 3 4
			strings.Trim(fmt.Sprintf("%q", string(part)), `"`),
			strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ", "),
			strings.ReplaceAll(strings.Trim(fmt.Sprint(part), "[]"), " ", ","),
			fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), fmt.Sprintf("% x", part), fmt.Sprintf("%# x", part),
			fmt.Sprintf("0x%x, 0x%x, 0x%x, 0x%x", part[0], part[1], part[2], part[3]),
			fmt.Sprintf("%x", reversed),
		)
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		text := enc.EncodeToString(raw)
		for i := 0; i+6 <= len(text); i++ {
			forms = append(forms, text[i:i+6])
		}
		// The base64 of the base64, which is what encoders of bytes make of a text.
		twice := enc.EncodeToString([]byte(text))
		for i := 0; i+8 <= len(twice); i++ {
			forms = append(forms, twice[i:i+8])
		}
	}
	return forms
}

// checkHidden fails if the text shows a piece of the two secrets of testConfig.
func checkHidden(t *testing.T, text string) {
	t.Helper()
	for _, form := range bothSecrets() {
		if strings.Contains(text, form) {
			t.Errorf("%q shows in:\n%.2000q", form, text)
			return
		}
	}
}

var bothSecrets = sync.OnceValue(func() []string { return append(secretForms(aliceHex), secretForms(bobHex)...) })

// The search itself works: each way of printing the bare bytes is found.
func TestSecretForms(t *testing.T) {
	key := mustHex(aliceHex)
	raw := key[:]
	forms := secretForms(aliceHex)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%# x"} {
		text := fmt.Sprintf(verb, raw)
		if !slices.ContainsFunc(forms, func(f string) bool { return strings.Contains(text, f) }) {
			t.Errorf("%s: nothing found in %s", verb, text)
		}
	}
}

// hider has the secrets in fields that are not exported: package fmt may not call their methods.
type hider struct {
	private   PrivateKey
	preshared PresharedKey
	config    Config
	peers     []PeerConfig
	pointer   *Config
}

// shower has them in exported fields, of which one is embedded.
type shower struct {
	Private   PrivateKey
	Preshared *PresharedKey
	Config    *Config
	Map       map[PrivateKey]PresharedKey
	PeerConfig
}

// secretValues returns everything that holds secrets, by name.
func secretValues(t testing.TB) map[string]any {
	c := testConfig(t)
	p := c.Peers[0]
	return map[string]any{
		"PrivateKey": c.PrivateKey, "*PrivateKey": &c.PrivateKey, "PresharedKey": p.PresharedKey, "*PresharedKey": &p.PresharedKey,
		"[]PrivateKey": []PrivateKey{c.PrivateKey}, "map": map[PrivateKey]PresharedKey{c.PrivateKey: p.PresharedKey},
		"Config": *c, "*Config": c, "PeerConfig": p, "*PeerConfig": &p, "[]PeerConfig": c.Peers,
		"exported fields":       shower{c.PrivateKey, &p.PresharedKey, c, map[PrivateKey]PresharedKey{c.PrivateKey: p.PresharedKey}, p},
		"fields, not exported":  hider{c.PrivateKey, p.PresharedKey, *c, c.Peers, c},
		"*fields, not exported": &hider{c.PrivateKey, p.PresharedKey, *c, c.Peers, c},
	}
}

// Fault 15: package fmt, with every verb and flag.
func TestRedactionInFmt(t *testing.T) {
	for name, value := range secretValues(t) {
		t.Run(name, func(t *testing.T) {
			for verb := 'A'; verb <= 'z'; verb++ {
				for _, flags := range []string{"", "+", "#", " ", "# ", "-060", "+.40"} {
					checkHidden(t, fmt.Sprintf("%"+flags+string(verb), value))
				}
			}
			checkHidden(t, fmt.Sprint(value))
			// Slips that vet finds in a constant format: a value too many, and one for %w that is no error.
			for _, format := range []string{"no verb", "%w", "%[2]d"} {
				checkHidden(t, fmt.Errorf(format, value).Error())
			}
		})
	}
	c := testConfig(t)
	for _, got := range []string{c.PrivateKey.String(), c.PrivateKey.GoString(), fmt.Sprintf("%x", c.PrivateKey), c.Peers[0].PresharedKey.String()} {
		if got != redacted {
			t.Errorf("got %q, want %q", got, redacted)
		}
	}
	if s := fmt.Sprintf("%+v", c); strings.Count(s, redacted) != 2 || !strings.Contains(s, "\nMTU = 1380\n") {
		t.Errorf("the config prints as\n%s", s)
	}
}

// Fault 15: encoders.
func TestRedactionInEncoders(t *testing.T) {
	for name, value := range secretValues(t) {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(value)
			if err != nil {
				t.Errorf("JSON: %v", err)
			}
			checkHidden(t, string(text))
			if name != "*Config" && name != "exported fields" { // which the doc comment speaks of
				text, _ = xml.Marshal(value) // some have no form in XML
				checkHidden(t, string(text))
			}
		})
	}
	text, err := json.Marshal(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"PrivateKey":"(redacted)"`, `"PresharedKey":"(redacted)"`, `"MTU":1380`, `"Name":"db"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	yaml, err := testConfig(t).MarshalYAML()
	if err != nil {
		t.Fatal(err)
	}
	checkHidden(t, fmt.Sprint(yaml))
}

// Fault 15: log/slog.
func TestRedactionInSlog(t *testing.T) {
	for name, value := range secretValues(t) {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
				log := slog.New(h)
				log.Info("message", "value", value)
				log.With("value", value).WithGroup("group").Info("message", slog.Any("value", []any{value}))
			}
			if strings.Count(b.String(), "message") != 4 {
				t.Errorf("not all was logged: %s", b.String())
			}
			checkHidden(t, b.String())
		})
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "config", testConfig(t), "peer", testConfig(t).Peers[0])
	for _, want := range []string{"config.listen_port=51820", "config.peers=3", "peer.name=db", "peer.preshared_key=(redacted)"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in %s", want, b.String())
		}
	}
}

const crashVariable = "WGNET_TEST_CRASH"

// Fault 15: a panic's dump, with a traceback through functions that have the secrets as arguments.
func TestRedactionInPanic(t *testing.T) {
	if name := os.Getenv(crashVariable); name != "" {
		crash(t, name)
		return
	}
	for name := range secretValues(t) {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRedactionInPanic$")
			cmd.Env = append(os.Environ(), crashVariable+"="+name, "GOTRACEBACK=system")
			out, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("panic: ")) || !bytes.Contains(out, []byte("takeSecrets(")) {
				t.Fatalf("the child did not crash as it should: %v\n%s", err, out)
			}
			checkHidden(t, string(out))
		})
	}
}

func crash(t *testing.T, name string) {
	c := testConfig(t)
	value := secretValues(t)[name]
	done := make(chan struct{})
	// Nobody stops this goroutine: its panic ends the process.
	go func() {
		takeSecrets(c.PrivateKey, c.Peers[0].PresharedKey, c.Peers[0], *c, value)
	}()
	<-done
}

//go:noinline
func takeSecrets(k PrivateKey, s PresharedKey, p PeerConfig, c Config, value any) string {
	if k.Public() == p.PublicKey || s.Reveal() == "" || len(c.Peers) == 0 {
		return ""
	}
	panic(value)
}
