package docs_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The bars of docs/adr/0141, in lines.
const (
	mostOfPackage  = 3999 // code of a package in rbacsync
	mostOfType     = 350  // methods of a type
	mostOfFunction = 80
)

// TestSizes: a reader can take in each function, each type and each package of the engine.
func TestSizes(t *testing.T) {
	engine := 0
	for _, folder := range folders(t) {
		s := sizesOf(t, folder)
		if folder == "rbacsync" || strings.HasPrefix(folder, "rbacsync/") {
			engine++
			if s.code < 100 {
				t.Errorf("%s: only %d lines of code were found", folder, s.code)
			}
			s.over = append(s.over, above(folder, s.code, mostOfPackage)...)
		}
		for _, text := range s.over {
			t.Error(text)
		}
	}
	if engine < 6 {
		t.Errorf("only %d packages of rbacsync were found", engine)
	}
}

// sizes are those of a package without its tests.
type sizes struct {
	code int      // lines that are neither blank nor only comments
	over []string // what is over a bar of functions and types
}

// above returns what there is to say of something with n lines.
func above(name string, n, most int) []string {
	if n <= most {
		return nil
	}
	return []string{fmt.Sprintf("%s: %d lines, at most %d (docs/adr/0141)", name, n, most)}
}

func sizesOf(t *testing.T, folder string) (s sizes) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]int{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s.code += linesOfCode(text)
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name, n := f.Name.Name, set.Position(f.End()).Line-set.Position(f.Pos()).Line+1
			if f.Recv != nil {
				of := receiver(f.Recv.List[0].Type)
				name = of + "." + name
				methods[of] += n
			}
			s.over = append(s.over, above(folder+": "+name, n, mostOfFunction)...)
		}
	}
	for _, of := range slices.Sorted(maps.Keys(methods)) {
		s.over = append(s.over, above(folder+": methods of "+of, methods[of], mostOfType)...)
	}
	return s
}

// linesOfCode counts the lines that have more than a comment.
func linesOfCode(text []byte) int {
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && lit == "\n" { // where a line ends, not what stands in it
			continue
		}
		first := file.Line(pos)
		for line := first; line <= first+strings.Count(lit, "\n"); line++ {
			lines[line] = true
		}
	}
}

// TestLinesOfCode: comments and blank lines are none.
func TestLinesOfCode(t *testing.T) {
	text := "// Package a is.\npackage a\n\n/* two\nlines */\nvar a = `x\n\ny` // three\n\nfunc b() {\n\t// nothing\n}\n"
	if n := linesOfCode([]byte(text)); n != 6 {
		t.Errorf("%d lines, want 6", n)
	}
	long := bytes.Repeat([]byte("\n"), 9)
	if n := linesOfCode(append([]byte("package a\n"), long...)); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}
