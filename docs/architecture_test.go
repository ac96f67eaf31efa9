package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The map, which people read first, and the pages beside it, which have all of what it names.
const (
	architecture = "architecture.md"
	packages     = "packages.md"
	walks        = "walks.md"
	invariants   = "invariants.md"
	glossary     = "glossary.md"
)

// section returns what is between a heading of a page and the next one of the same rank or higher.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut("\n"+string(text), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	if end := regexp.MustCompile(`(?m)^#{1,` + string(rune('0'+strings.Count(heading, "#"))) + `} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

var named = regexp.MustCompile("`([^`]+)`")

// firstCells returns the first cell of each row of the tables in text.
func firstCells(text string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^\| (.+?) \|`).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// folders returns the folders with Go files that match, below the root of the repository.
func folders(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && d.Name() != "..")):
			return fs.SkipDir
		case !d.IsDir() && filepath.Ext(path) == ".go":
			folder, _ := filepath.Rel("..", filepath.Dir(path))
			out = append(out, filepath.ToSlash(folder))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestEveryPackageIsOnTheMap: each folder with Go files has one row among the packages, and each row its folder.
func TestEveryPackageIsOnTheMap(t *testing.T) {
	var rows []string
	for _, cell := range firstCells(section(t, packages, "## All packages")) {
		for _, m := range named.FindAllStringSubmatch(cell, -1) {
			rows = append(rows, m[1])
		}
	}
	have := folders(t)
	have = slices.DeleteFunc(have, func(f string) bool {
		return strings.HasPrefix(f, "internal/controlplane/") // modules that only name what is built
	})
	if len(have) < 30 {
		t.Fatalf("only %d folders were found: %v", len(have), have)
	}
	for _, folder := range have {
		if n := len(slices.DeleteFunc(slices.Clone(rows), func(r string) bool { return r != folder })); n != 1 {
			t.Errorf("%s has %d rows among the packages of docs/%s, want one", folder, n, packages)
		}
	}
	for _, row := range rows {
		if !slices.Contains(have, row) {
			t.Errorf("docs/%s has a row for %s, which is no folder with Go files", packages, row)
		}
	}
}

// TestImportRulesAreOnTheMap: the table of the page and depguard's rules name the same.
func TestImportRulesAreOnTheMap(t *testing.T) {
	text, err := os.ReadFile("../.golangci.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var lint struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						Deny []struct {
							Pkg string `json:"pkg"`
						} `json:"deny"`
					} `json:"rules"`
				} `json:"depguard"`
			} `json:"settings"`
		} `json:"linters"`
	}
	if err := yaml.Unmarshal(text, &lint); err != nil {
		t.Fatal(err)
	}
	rules := lint.Linters.Settings.Depguard.Rules
	if len(rules) < 5 {
		t.Fatalf("only %d rules were found", len(rules))
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| .+ \\| (.+) \\|$").FindAllStringSubmatch(section(t, packages, "## Who may import whom"), -1) {
		rows[m[1]] = m[2]
	}
	for name, rule := range rules {
		var want, have []string
		for _, d := range rule.Deny {
			pkg := strings.TrimPrefix(d.Pkg, "github.com/gl-k8s-integrator/gl-k8s-integrator/")
			want = append(want, strings.TrimSuffix(pkg, "$"))
		}
		for _, m := range named.FindAllStringSubmatch(rows[name], -1) {
			have = append(have, m[1])
		}
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(want, have) {
			t.Errorf("rule %s denies %q, docs/%s says %q", name, want, packages, have)
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("docs/%s has the rule %s, .golangci.yaml has not", packages, name)
	}
}

// walk is one of the four, as a page lists it.
type walk struct {
	name  string
	steps []string
}

var (
	stop   = regexp.MustCompile("`([a-z0-9_/-]+\\.go): ([A-Za-z.]+)`")
	acting = regexp.MustCompile("\\*\\*`([a-z0-9_/-]+\\.go): ([A-Za-z.]+)`\\*\\*")
)

// walksOf returns the walks in text, each of which begins with a heading of a rank.
func walksOf(t *testing.T, text, rank string) (out []walk) {
	t.Helper()
	for _, part := range strings.Split(text, "\n"+rank+" ")[1:] {
		name, steps, _ := strings.Cut(part, "\n")
		_, steps, _ = strings.Cut(steps, "\n1. ")
		steps = strings.ReplaceAll("1. "+strings.TrimSpace(steps), "\n   ", " ")
		out = append(out, walk{name, strings.Split(steps, "\n")})
	}
	if len(out) != 4 {
		t.Fatalf("%d walks, want four", len(out))
	}
	return out
}

// stops returns what a pattern of stops finds in the steps.
func (w walk) stops(pattern *regexp.Regexp) (out []string) {
	for _, m := range pattern.FindAllStringSubmatch(strings.Join(w.steps, "\n"), -1) {
		out = append(out, m[1]+": "+m[2])
	}
	return out
}

// TestWalksExist: each file that a walk names is there, and what it names in that file is declared in it. The map names what
// the longer walks have in bold.
func TestWalksExist(t *testing.T) {
	short, long := walksOf(t, section(t, architecture, "## Four walks"), "###"), walksOf(t, section(t, walks, "# Four walks"), "##")
	declared := map[string]map[string]bool{}
	for _, w := range slices.Concat(short, long) {
		for _, step := range w.steps {
			stops := stop.FindAllStringSubmatch(step, -1)
			if !regexp.MustCompile(`^\d+\. `).MatchString(step) || len(stops) == 0 {
				t.Errorf("%s: %q is no step: a number, then `path/file.go: Name` and some words", w.name, step)
			}
			for _, s := range stops {
				if declared[s[1]] == nil {
					declared[s[1]] = declarations(t, s[1])
				}
				if !declared[s[1]][s[2]] {
					t.Errorf("%s: %s declares no %s", w.name, s[1], s[2])
				}
			}
		}
	}
	for i, w := range long {
		bold := w.stops(acting)
		if n := len(bold); n == 0 || n > 6 {
			t.Errorf("%s: %d files act, want at most six", w.name, n)
		}
		if have := short[i].stops(stop); short[i].name != w.name || !slices.Equal(have, bold) {
			t.Errorf("docs/%s has in bold\n%s: %q, docs/%s has\n%s: %q", walks, w.name, bold, architecture, short[i].name, have)
		}
	}
}

// TestTheMapIsShort: a new engineer reads it in ten minutes, and what it says of packages and words is what the pages say that
// have all of them.
func TestTheMapIsShort(t *testing.T) {
	if n := len(strings.Fields(read(t, architecture))); n > 1300 {
		t.Errorf("docs/%s has %d words, at most 1,300", architecture, n)
	}
	rows := func(text string) (out []string) {
		for _, m := range regexp.MustCompile(`(?m)^(\| .+? \| .+? \|)`).FindAllStringSubmatch(text, -1) {
			out = append(out, m[1])
		}
		return out
	}
	for _, of := range []struct{ heading, page, all string }{{"## The parts", packages, "## All packages"}, {"## Words", glossary, "## Of ours"}} {
		all, some := rows(section(t, of.page, of.all)), rows(section(t, architecture, of.heading))
		if len(some) < 10 {
			t.Errorf("docs/%s has only %d rows in %q", architecture, len(some), of.heading)
		}
		for _, row := range some {
			if !slices.Contains(all, row) {
				t.Errorf("docs/%s says otherwise than docs/%s: %s", of.page, architecture, row)
			}
		}
	}
}

// declarations returns what a file declares: Func, Type.Method, Type.
func declarations(t *testing.T, path string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", path), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("a walk names %s: %v", path, err)
		return out
	}
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			out[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if s, ok := s.(*ast.TypeSpec); ok {
					out[s.Name.Name] = true
				}
			}
		}
	}
	return out
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// TestCitationsResolve: what code and decisions cite of what holds stands there, and nothing else is cited as design.
func TestCitationsResolve(t *testing.T) {
	numbered := regexp.MustCompile(`(?m)^(\d+)\. `)
	numbers := func(text string) (out []string) {
		for _, m := range numbered.FindAllStringSubmatch(text, -1) {
			out = append(out, m[1])
		}
		return out
	}
	known := map[string][]string{
		"decision":  numbers(section(t, invariants, "## Decisions")),
		"invariant": numbers(section(t, invariants, "## Invariants of security")),
	}
	cited := regexp.MustCompile(`docs/(\w+\.md),?\s+(?://\s+)?(decision|invariant) (\d+)`)
	elsewhere := regexp.MustCompile(`\bDESIGN\b|\bSTYLE\.md|\bfacts(/\w+\.md| \d)`)
	found := 0
	for _, folder := range append(folders(t), "docs/adr") {
		files, err := filepath.Glob(filepath.Join("..", folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if ext := filepath.Ext(path); (ext != ".go" && ext != ".md") || filepath.Base(path) == "architecture_test.go" {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range cited.FindAllStringSubmatch(string(text), -1) {
				found++
				if m[1] != invariants || !slices.Contains(known[m[2]], m[3]) {
					t.Errorf("%s cites %s %s of docs/%s, which is none of docs/%s", path, m[2], m[3], m[1], invariants)
				}
			}
			if m := elsewhere.FindString(string(text)); m != "" {
				t.Errorf("%s cites %s, which is not in this repository", path, m)
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d citations were found", found)
	}
}
