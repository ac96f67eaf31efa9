package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// causePackages are those that begin a pass, or have one begun.
var causePackages = []string{"rbacsync/intake", "rbacsync/syncer", "internal/app", "internal/store", "internal/gitlab", "internal/webadmin"}

// TestCausesOfTheHistory: the table of causes has each that the code can give to a pass, and no other: what is handed to a parameter
// or a field for it, is assigned to one, or is a constant of that name.
func TestCausesOfTheHistory(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "history.md"), "| cause |")
	table, _, _ = strings.Cut(table, "\n\n")
	var told []string
	for _, cell := range firstCells(table) {
		for _, m := range named.FindAllStringSubmatch(cell, -1) {
			told = append(told, strings.TrimSuffix(m[1], " …"))
		}
	}
	files := parseAll(t, causePackages)
	c := &causes{at: map[string]int{}, found: map[string]bool{}}
	for _, f := range files {
		ast.Inspect(f, c.declared)
	}
	for _, f := range files {
		ast.Inspect(f, c.used)
	}
	delete(c.found, "stored") // of what a process loads: that is no pass
	if len(c.found) < 15 {
		t.Errorf("only %d causes were found in the code", len(c.found))
	}
	slices.Sort(told)
	if got := slices.Sorted(maps.Keys(c.found)); !slices.Equal(got, told) {
		t.Errorf("the code has the causes\n%q\nand history.md\n%q", got, told)
	}
}

func parseAll(t *testing.T, folders []string) (out []*ast.File) {
	t.Helper()
	for _, folder := range folders {
		names, err := filepath.Glob("../" + folder + "/*.go")
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %d files, %v", folder, len(names), err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, f)
		}
	}
	return out
}

// causes finds texts that become the cause of a pass.
type causes struct {
	at    map[string]int // by name of a function, or of a struct: which parameter or field it is
	found map[string]bool
}

var (
	causeName = regexp.MustCompile(`^(?:[cC]auses?|why)$`)
	causeText = regexp.MustCompile(`^[a-z][A-Za-z ]*$`)
)

// place returns which of these fields is a cause; -1 for none.
func place(fields *ast.FieldList) int {
	n := 0
	for _, f := range fields.List {
		kind, _ := f.Type.(*ast.Ident)
		for _, name := range f.Names {
			if causeName.MatchString(name.Name) && kind != nil && kind.Name == "string" {
				return n
			}
			n++
		}
	}
	return -1
}

// declared notes functions and structs with a cause.
func (c *causes) declared(n ast.Node) bool {
	note := func(name string, fields *ast.FieldList) {
		if i := place(fields); i >= 0 {
			c.at[name] = i
		}
	}
	switch n := n.(type) {
	case *ast.FuncDecl:
		note(n.Name.Name, n.Type.Params)
	case *ast.Field:
		if f, ok := n.Type.(*ast.FuncType); ok && len(n.Names) == 1 {
			note(n.Names[0].Name, f.Params)
		}
	case *ast.TypeSpec:
		if s, ok := n.Type.(*ast.StructType); ok {
			note(n.Name.Name, s.Fields)
		}
	}
	return true
}

// used notes the texts that are given to them.
func (c *causes) used(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		if i, ok := c.at[nameOf(n.Fun)]; ok && i < len(n.Args) {
			c.take(n.Args[i])
		}
	case *ast.CompositeLit:
		i, ok := c.at[nameOf(n.Type)]
		for at, x := range n.Elts {
			switch pair, keyed := x.(*ast.KeyValueExpr); {
			case keyed && causeName.MatchString(nameOf(pair.Key)) && nameOf(pair.Key) != "why":
				c.take(pair.Value)
			case !keyed && ok && at == i:
				c.take(x)
			}
		}
	case *ast.AssignStmt:
		for i, x := range n.Lhs {
			if name := nameOf(x); causeName.MatchString(name) && name != "why" && i < len(n.Rhs) {
				c.take(n.Rhs[i])
			}
		}
	case *ast.ValueSpec:
		for i, x := range n.Names {
			if strings.HasPrefix(x.Name, "cause") && i < len(n.Values) {
				c.take(n.Values[i])
			}
		}
	case *ast.FuncDecl:
		if n.Name.Name == "causeOf" {
			c.take(n.Body)
		}
	}
	return true
}

func nameOf(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}

// take notes each text in a part of the code.
func (c *causes) take(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil && causeText.MatchString(text) {
				c.found[strings.TrimSpace(text)] = true
			}
		}
		return true
	})
}
