package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryFindingIsInTheDocs: each code has one row, in docs/ci.md if it begins with ci_, else in docs/operations.md.
func TestEveryFindingIsInTheDocs(t *testing.T) {
	documented := map[string]int{}
	for _, page := range []string{"ci", "operations"} {
		text, err := os.ReadFile("../../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		_, section, _ := strings.Cut(string(text), "\n## Findings\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(section, -1) {
			for _, code := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
				documented[code[1]]++
				if strings.HasPrefix(code[1], "ci_") != (page == "ci") {
					t.Errorf("docs/%s.md is the wrong page for %s", page, code[1])
				}
			}
		}
	}
	codes := findingCodes(t)
	if len(codes) < 30 {
		t.Errorf("only %d codes were found in the source: %v", len(codes), codes)
	}
	for _, code := range codes {
		if documented[code] != 1 {
			t.Errorf("finding %s has %d rows in the docs, want one", code, documented[code])
		}
		delete(documented, code)
	}
	for code := range documented {
		t.Errorf("finding %s is in the docs and not in the program", code)
	}
}

// findingCodes collects them from the source: a code is written into a Finding, given to a function find, or kept in a
// variable code.
func findingCodes(t *testing.T) []string {
	t.Helper()
	var codes []string
	fset := token.NewFileSet()
	for _, root := range []string{"../../authz", "../../rbacsync", "../../internal/app"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(fset, path, nil, 0)
			if err != nil {
				return err
			}
			add := func(e ast.Expr) {
				switch e := e.(type) {
				case *ast.BasicLit:
					code, err := strconv.Unquote(e.Value)
					if err != nil {
						t.Fatal(err)
					}
					codes = append(codes, code)
				case *ast.Ident:
					if e.Name == "code" {
						return
					}
					t.Errorf("%s: the code is in %s: name that variable code", fset.Position(e.Pos()), e.Name)
				default:
					t.Errorf("%s: this code can't be collected", fset.Position(e.Pos()))
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CompositeLit:
					for _, lit := range findings(n) {
						add(codeOf(lit))
					}
				case *ast.CallExpr:
					if name(n.Fun) == "find" && len(n.Args) > 2 {
						add(n.Args[0])
					}
				case *ast.AssignStmt:
					if lit, ok := n.Rhs[0].(*ast.BasicLit); ok && len(n.Lhs) == 1 && name(n.Lhs[0]) == "code" {
						add(lit)
					}
				case *ast.ValueSpec:
					if len(n.Names) == 1 && n.Names[0].Name == "code" && len(n.Values) == 1 {
						add(n.Values[0])
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// findings returns the Findings that a literal is: itself, or the elements of a slice that leave the type out.
func findings(lit *ast.CompositeLit) []*ast.CompositeLit {
	if name(lit.Type) == "Finding" {
		return []*ast.CompositeLit{lit}
	}
	var out []*ast.CompositeLit
	if list, ok := lit.Type.(*ast.ArrayType); ok && name(list.Elt) == "Finding" {
		for _, e := range lit.Elts {
			if e, ok := e.(*ast.CompositeLit); ok && e.Type == nil {
				out = append(out, e)
			}
		}
	}
	return out
}

// codeOf returns the field Code of a Finding, which is its first one.
func codeOf(lit *ast.CompositeLit) ast.Expr {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok && name(kv.Key) == "Code" {
			return kv.Value
		}
	}
	return lit.Elts[0]
}

// name returns the last part of a name; "" for what is none.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
