// SPDX-License-Identifier: MIT

package wgnetroot_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"strings"
	"testing"
)

// TestNoForeignTypes keeps the types of gVisor and wireguard-go out of what wgnet exports: both change without notice,
// and wgnet's users must not.
func TestNoForeignTypes(t *testing.T) {
	for _, public := range []string{"/wgnet", "/wgnet/wghttp", "/wgnet/wgnettest"} {
		for _, complaint := range foreignTypes(loadPackage(t, module+public)) {
			t.Errorf("%s: hide it behind a type of ours or of the standard library", complaint)
		}
	}
}

// TestForeignTypes shows that the check finds what it is for, in a package that is full of it.
func TestForeignTypes(t *testing.T) {
	found := strings.Join(foreignTypes(loadPackage(t, wireguard+"/tun/netstack")), "\n")
	for _, want := range []string{
		"CreateNetTUN has golang.zx2c4.com/wireguard/tun.Device",                   // a result
		"Net.ListenTCP has gvisor.dev/gvisor/pkg/tcpip/adapters/gonet.TCPListener", // a method's result, a pointer
	} {
		if !strings.Contains(found, want) {
			t.Errorf("did not find %q in:\n%s", want, found)
		}
	}
}

// loadPackage reads the types of a package as the compiler exported them.
func loadPackage(t *testing.T, importPath string) *types.Package {
	t.Helper()
	exports := map[string]string{}
	list := json.NewDecoder(strings.NewReader(string(
		goCommand(t, "list", "-export", "-deps", "-json=ImportPath,Export", importPath))))
	for {
		var p struct{ ImportPath, Export string }
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	open := func(p string) (io.ReadCloser, error) {
		if exports[p] == "" {
			return nil, fmt.Errorf("no export data of %s", p)
		}
		return os.Open(exports[p])
	}
	pkg, err := importer.ForCompiler(token.NewFileSet(), "gc", open).Import(importPath)
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

// foreignTypes lists what a user of the package can see of gVisor's and wireguard-go's types.
func foreignTypes(pkg *types.Package) (complaints []string) {
	v := apiVisitor{pkg: pkg, seen: map[types.Type]bool{}, complain: func(where string, foreign *types.TypeName) {
		complaints = append(complaints, fmt.Sprintf("%s has %s.%s", where, foreign.Pkg().Path(), foreign.Name()))
	}}
	for _, name := range pkg.Scope().Names() {
		if object := pkg.Scope().Lookup(name); object.Exported() {
			v.visit(name, object.Type())
		}
	}
	return complaints
}

// apiVisitor walks from exported objects over all that their types let a user reach.
type apiVisitor struct {
	pkg      *types.Package
	seen     map[types.Type]bool
	complain func(where string, foreign *types.TypeName)
}

func (v apiVisitor) visit(where string, t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		v.visit(where, types.Unalias(t))
	case *types.Named:
		v.visitNamed(where, t)
	case *types.Pointer:
		v.visit(where, t.Elem())
	case *types.Slice:
		v.visit(where, t.Elem())
	case *types.Array:
		v.visit(where, t.Elem())
	case *types.Chan:
		v.visit(where, t.Elem())
	case *types.Map:
		v.visit(where, t.Key())
		v.visit(where, t.Elem())
	case *types.Tuple:
		for variable := range t.Variables() {
			v.visit(where, variable.Type())
		}
	case *types.Signature:
		v.visit(where, t.Params())
		v.visit(where, t.Results())
		for parameter := range t.TypeParams().TypeParams() {
			v.visit(where, parameter.Constraint())
		}
	case *types.Struct:
		for field := range t.Fields() {
			if field.Exported() || field.Embedded() {
				v.visit(where+"."+field.Name(), field.Type())
			}
		}
	case *types.Interface:
		for embedded := range t.EmbeddedTypes() {
			v.visit(where, embedded)
		}
		for method := range t.ExplicitMethods() {
			if method.Exported() {
				v.visit(where+"."+method.Name(), method.Type())
			}
		}
	case *types.Union:
		for term := range t.Terms() {
			v.visit(where, term.Type())
		}
	}
}

func (v apiVisitor) visitNamed(where string, t *types.Named) {
	for argument := range t.TypeArgs().Types() {
		v.visit(where, argument)
	}
	name := t.Obj()
	if name.Pkg() == nil {
		return // error and comparable
	}
	if name.Pkg() != v.pkg {
		if under(name.Pkg().Path(), gvisor) || under(name.Pkg().Path(), wireguard) {
			v.complain(where, name)
		}
		return
	}
	if v.seen[t] {
		return
	}
	v.seen[t] = true
	for method := range t.Methods() {
		if method.Exported() {
			v.visit(name.Name()+"."+method.Name(), method.Type())
		}
	}
	v.visit(name.Name(), t.Underlying())
}
