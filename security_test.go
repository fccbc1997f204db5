// SPDX-License-Identifier: MIT

package wgnetroot_test

import (
	"encoding/json"
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// hostImports are what no library needs that starts no program and changes nothing of the host's.
var hostImports = []string{"os/exec", "plugin", "os/user"}

// hostCalls are functions that read the environment, start a program, end this one or print.
var hostCalls = map[string][]string{
	"os": {
		"Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "StartProcess", "Exit", "Chdir", "UserHomeDir", "UserConfigDir",
		"Stdin", "Stdout", "Stderr",
	},
	"syscall": {"Getenv", "Environ", "Exec", "ForkExec", "StartProcess"},
	"unix":    {"Exec", "Environ", "Getenv"},
	"log":     {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
	"fmt":     {"Print", "Printf", "Println"},
}

// quietFor are the exceptions.
var quietFor = map[string]string{
	"netstack/quiet.go": "it switches gVisor's printing off",
}

// TestHostIsLeftAlone: what SECURITY.md says of the host holds by the sources: no library starts a program, reads the
// environment, prints or exits.
func TestHostIsLeftAlone(t *testing.T) {
	libraries := []string{
		"wgnet", "wgnet/wghttp", "netstack", "gateway", "forward", "proxy", "pcapng",
		"internal/outer", "internal/resolver", "internal/happyeyeballs", "internal/relay", "internal/tcptune",
	}
	looked := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || !slices.Contains(libraries, s.dir) {
			continue
		}
		looked[s.dir] = true
		for _, p := range s.imports() {
			if slices.Contains(hostImports, p) {
				t.Errorf("%s imports %s: a library leaves the host alone", s.name, p)
			}
		}
		if quietFor[s.name] != "" {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Obj == nil && slices.Contains(hostCalls[pkg.Name], sel.Sel.Name) {
				t.Errorf("%v: %s.%s: a library does not print, exit, start programs or read the environment",
					fileSet.Position(n.Pos()), pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
	for _, dir := range libraries {
		if !looked[dir] {
			t.Errorf("there is no folder %s any more: take it off the list in this test", dir)
		}
	}
}

// TestUnmodified: the protocol's code and the stack's are what upstream has published, which the checksums in go.sum say.
func TestUnmodified(t *testing.T) {
	var mod struct {
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Replace {
		t.Errorf("go.mod replaces %s: SECURITY.md says that nothing is modified", r.Old.Path)
	}
	for _, s := range sources(t) {
		for _, c := range s.ast.Comments {
			for _, line := range c.List {
				if strings.HasPrefix(line.Text, "//go:linkname") && s.root {
					t.Errorf("%v: go:linkname reaches into code that is not ours", fileSet.Position(line.Pos()))
				}
			}
		}
	}
}
