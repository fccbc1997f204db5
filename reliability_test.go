// SPDX-License-Identifier: MIT

package wgnetroot_test

import (
	"fmt"
	"go/ast"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// faults is how many lines the tables of RELIABILITY.md have together.
const faults = 71

var (
	faultRow  = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| (.*) \|$`)
	namedTest = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")
)

// TestReliability: RELIABILITY.md has every fault once and in order, each with tests that exist.
func TestReliability(t *testing.T) {
	text, err := os.ReadFile("RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testNames(t)
	rows := faultRow.FindAllStringSubmatch(string(text), -1)
	if len(rows) != faults {
		t.Errorf("RELIABILITY.md has %d rows that begin with a number, want %d", len(rows), faults)
	}
	for i, row := range rows {
		if row[1] != strconv.Itoa(i+1) {
			t.Fatalf("RELIABILITY.md: fault %s is where fault %d should be", row[1], i+1)
		}
		if row[2] == "-" {
			continue // it says why
		}
		for cell := range strings.SplitSeq(row[2], ", ") {
			name := namedTest.FindStringSubmatch(cell)
			if name == nil || cell != name[0] {
				t.Errorf("RELIABILITY.md, fault %d: %q is not the name of a test: want `folder.TestName`", i+1, cell)
			} else if !tests[name[1]+"."+name[2]] {
				t.Errorf("RELIABILITY.md, fault %d: there is no %s in %s", i+1, name[2], name[1])
			}
		}
	}
	// And those of the other tables, and of SECURITY.md.
	security, err := os.ReadFile("SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range namedTest.FindAllStringSubmatch(string(text)+string(security), -1) {
		if !tests[name[1]+"."+name[2]] {
			t.Errorf("RELIABILITY.md or SECURITY.md: there is no %s in %s", name[2], name[1])
		}
	}
}

// testNames returns all tests and fuzz targets, each as folder.Name.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[fmt.Sprintf("%s.%s", s.dir, f.Name.Name)] = true
			}
		}
	}
	return names
}
