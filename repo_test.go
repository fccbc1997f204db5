// SPDX-License-Identifier: MIT

// The rules of this repository, as tests. Each failure says what to do about it; ARCHITECTURE.md says why the rules
// are there.
package wgnetroot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module    = "example.com/wgnet"
	wireguard = "golang.zx2c4.com/wireguard"
	gvisor    = "gvisor.dev/gvisor"
	spdx      = "// SPDX-License-Identifier: MIT\n\n"
)

// pinned are the modules that go.mod may name. Those that are true may be imported by our own code.
var pinned = map[string]bool{
	wireguard:             true,
	gvisor:                true,
	"golang.org/x/crypto": true,
	"golang.org/x/net":    true,
	"golang.org/x/sys":    true,

	"github.com/google/btree": false, // of gVisor
	"golang.org/x/exp":        false, // of gVisor
	"golang.org/x/time":       false, // of gVisor
	"golang.zx2c4.com/wintun": false, // of wireguard
}

// layers says what the code of a folder may import besides the standard library: a path allows itself and what is
// below it. Tests are free, and folders that are not listed are bound by reach alone.
var layers = []struct {
	dir string
	may []string
}{
	{".", nil},
	{"wgnet", []string{module + "/netstack", module + "/pcapng", module + "/internal", wireguard, "golang.org/x"}},
	{"wgnet/wgnettest", []string{module + "/wgnet", module + "/internal/memnet"}},
	{"wgnet/wghttp", []string{module + "/wgnet"}},
	{"netstack", []string{gvisor, wireguard + "/tun", module + "/internal"}},
	{"gateway", []string{"golang.org/x/net", module + "/internal"}},
	{"forward", []string{module + "/internal"}},
	{"proxy", []string{module + "/internal"}},
	{"pcapng", nil},
	{"internal/chaos", []string{module + "/wgnet", module + "/internal/memnet", module + "/internal/testpeer"}},
	{"internal/interop", nil},
	{"internal/memnet", nil},
	{"internal/netns", []string{"golang.org/x/sys"}},
	{"internal/nettests", nil},
	{"internal/relay", nil},
	{"internal/outer", []string{wireguard + "/conn", "golang.org/x"}},
	{"internal/testpeer", []string{wireguard, gvisor}},
}

// reach says which folders may import something. inTests says that tests anywhere may too.
var reach = []struct {
	what    string
	dirs    []string
	inTests bool
}{
	{gvisor, []string{"netstack", "internal/testpeer"}, false},
	// internal/bench measures upstream's parts as they are published.
	{wireguard, []string{"netstack", "internal/testpeer", "wgnet", "internal/outer", "internal/bench"}, true},
}

// never says what no file of a folder may import; freeTests says that its tests may.
var never = []struct {
	dir, what, why string
	freeTests      bool
}{
	{"netstack", module + "/wgnet", "the stack is of use by itself, so the arrow points the other way", false},
	{"internal/testpeer", module, "the test peer shares no code with what it tests", false},
	{"examples", module + "/internal", "an example shows what users can do, and they cannot import it", true},
}

// A source is one Go file of the repository.
type source struct {
	name string // its path from the root, with slashes
	dir  string // its folder, with slashes
	test bool
	root bool // it belongs to the root module, not to a nested one
	text []byte
	ast  *ast.File
}

var fileSet = token.NewFileSet()

// sources reads every Go file but those in testdata and in hidden folders.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	nested := "" // the folder of the nested module that the walk is in
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		base := path.Base(name)
		if d.IsDir() {
			if name != "." && (base[0] == '.' || base[0] == '_' || base == "testdata") {
				return fs.SkipDir
			}
			if nested != "" && !under(name, nested) {
				nested = ""
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != "." && nested == "" {
				nested = name
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fileSet, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		list = append(list, source{
			name: name, dir: dir, test: strings.HasSuffix(name, "_test.go"), root: nested == "" || !under(dir, nested),
			text: text, ast: file,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// under says whether a slash-separated path is dir or below it.
func under(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

func (s source) imports() (paths []string) {
	for _, spec := range s.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value) // the parser has accepted it
		paths = append(paths, p)
	}
	return paths
}

func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

func TestLicenseHeader(t *testing.T) {
	for _, s := range sources(t) {
		if !bytes.HasPrefix(s.text, []byte(spdx)) {
			t.Errorf("%s: the first line must be %q, the second must be empty", s.name, strings.TrimSpace(spdx))
		}
	}
}

func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			documented[s.dir] = documented[s.dir] || s.ast.Doc != nil
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: say above the package clause of one file what the package is and how it is used", dir)
		}
	}
}

func TestLayers(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range s.imports() {
			if why := misplaced(s, p); why != "" {
				t.Errorf("%s imports %s: %s", s.name, p, why)
			}
		}
	}
}

// misplaced says what is wrong with an import, or nothing.
func misplaced(s source, p string) string {
	if standard(p) {
		return ""
	}
	for _, n := range never {
		free := s.test && (n.freeTests || under(p, module+"/"+s.dir))
		if under(s.dir, n.dir) && under(p, n.what) && !free {
			return fmt.Sprintf("no file in %s may import %s: %s", n.dir, n.what, n.why)
		}
	}
	if !s.root {
		return "" // a nested module is there to import what it needs
	}
	for _, r := range reach {
		if under(p, r.what) && !slices.Contains(r.dirs, s.dir) && !(s.test && r.inTests) {
			return fmt.Sprintf("only %s may reach %s; use what they export", strings.Join(r.dirs, ", "), r.what)
		}
	}
	for _, l := range layers {
		allowed := func(may string) bool { return under(p, may) }
		if s.dir == l.dir && !s.test && !slices.ContainsFunc(l.may, allowed) {
			return fmt.Sprintf("%s may import the standard library and %v; move the code or take an interface", l.dir, l.may)
		}
	}
	return ""
}

func TestMisplaced(t *testing.T) {
	for _, tc := range []struct {
		file, imports string
		ok            bool
	}{
		{"netstack/stack.go", gvisor + "/pkg/tcpip", true},
		{"wgnet/net.go", gvisor + "/pkg/tcpip", false},
		{"wgnet/net_test.go", gvisor + "/pkg/tcpip", false},
		{"wgnet/net.go", wireguard + "/device", true},
		{"gateway/gateway.go", wireguard + "/device", false},
		{"gateway/gateway_test.go", wireguard + "/device", true},
		{"gateway/gateway.go", module + "/wgnet", false},
		{"gateway/gateway_test.go", module + "/wgnet", true},
		{"netstack/stack_test.go", module + "/wgnet", false},
		{"netstack/stack.go", wireguard + "/device", false},
		{"netstack/stack.go", wireguard + "/tun", true},
		{"internal/memnet/memnet.go", "golang.org/x/net/ipv4", false},
		{"internal/memnet/memnet.go", "net/netip", true},
		{"internal/testpeer/tun.go", module + "/internal/memnet", false},
		{"internal/testpeer/x_test.go", module + "/internal/testpeer", true},
		{"examples/dialer/main.go", module + "/internal/testpeer", false},
		{"examples/dialer/main_test.go", module + "/internal/testpeer", true},
		{"examples/dialer/main.go", module + "/wgnet", true},
	} {
		s := source{name: tc.file, dir: path.Dir(tc.file), test: strings.HasSuffix(tc.file, "_test.go"), root: true}
		if why := misplaced(s, tc.imports); (why == "") != tc.ok {
			t.Errorf("%s imports %s: %q", tc.file, tc.imports, why)
		}
	}
}

// TestNoSleep keeps waiting for a guessed time out of the tests.
func TestNoSleep(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && !usesSynctest(s) {
					t.Errorf("%v: wait for the event itself instead of sleeping", fileSet.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// usesSynctest says whether a file's time is testing/synctest's, where a sleep is exact and takes none.
func usesSynctest(s source) bool { return slices.Contains(s.imports(), "testing/synctest") }

func TestDependencies(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range mod.Require {
		seen[r.Path] = true
		direct, ok := pinned[r.Path]
		switch {
		case !ok:
			t.Errorf("go.mod: %s is new. Do without it, or use it in a nested module; "+
				"if it must be, add it to the list in this test and say why in the commit", r.Path)
		case !direct && !r.Indirect:
			t.Errorf("go.mod: %s has become a direct dependency. Do without it", r.Path)
		}
	}
	for p := range pinned {
		if !seen[p] {
			t.Errorf("go.mod no longer has %s: take it off the list in this test", p)
		}
	}
}

// TestExamples: an example is read from top to bottom in a minute, or it is none.
func TestExamples(t *testing.T) {
	const most = 60
	lines := map[string]int{}
	for _, s := range sources(t) {
		if under(s.dir, "examples") && !s.test && s.ast.Name.Name == "main" {
			end := fileSet.Position(s.ast.FileEnd).Line
			lines[s.dir] += end - fileSet.Position(s.ast.Package).Line
		}
	}
	for dir, n := range lines {
		if n > most {
			t.Errorf("%s: %d lines from the package clause on, at most %d: simplify it, or the API", dir, n, most)
		}
	}
}

func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"go run ./examples/httpserver", "go test ./..."} {
		if !bytes.Contains(readme, []byte(command)) {
			t.Errorf("README.md must name the command %q", command)
		}
	}
	program, err := firstProgram(readme)
	if err != nil {
		t.Fatal(err)
	}
	// The overlay puts the program into a folder of the module that exists for the go command alone.
	dir := t.TempDir()
	file, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(root, "readmeprogram", "main.go"): file},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(file, program, 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	goCommand(t, "build", "-overlay", overlay, "-o", filepath.Join(dir, "program"), "./readmeprogram")
}

// firstProgram is the first block of README.md that is marked as Go.
func firstProgram(readme []byte) ([]byte, error) {
	_, after, found := bytes.Cut(readme, []byte("\n```go\n"))
	program, _, closed := bytes.Cut(after, []byte("\n```"))
	if !found || !closed || !bytes.Contains(program, []byte("package main")) {
		return nil, errors.New("README.md: the first block that starts with ```go must be a whole program (package main)")
	}
	return append(program, '\n'), nil
}

// goCommand runs the go command in the root of the module and returns its standard output.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}
