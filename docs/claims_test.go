package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testsOf  = regexp.MustCompile("`([a-z0-9/]+)`: ((?:`Test\\w+`(?:, )?)+)")
	testName = regexp.MustCompile(`Test\w+`)
)

// TestWhatHoldsIsTested: each line of what holds names tests, and they are where the line says.
func TestWhatHoldsIsTested(t *testing.T) {
	rows := 0
	for line := range strings.Lines(section(t, "security.md", "## What holds")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 2 || strings.HasPrefix(cells[0], "---") || strings.TrimSpace(cells[1]) == "tests" {
			continue
		}
		rows++
		named := 0
		for _, m := range testsOf.FindAllStringSubmatch(cells[1], -1) {
			source := testSource(t, m[1])
			for _, name := range testName.FindAllString(m[2], -1) {
				named++
				if !strings.Contains(source, "\nfunc "+name+"(t *testing.T)") {
					t.Errorf("security.md: there is no %s in %s", name, m[1])
				}
			}
		}
		if all := testName.FindAllString(cells[1], -1); named == 0 || named != len(all) {
			t.Errorf("security.md: of %d tests %d have a package: %s", len(all), named, line)
		}
	}
	if rows < 15 {
		t.Errorf("security.md has only %d lines of what holds", rows)
	}
}

// TestFiguresHaveTheirBench: each name of a figure is printed by a benchmark.
func TestFiguresHaveTheirBench(t *testing.T) {
	page, err := os.ReadFile("figures.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../internal/bench/sync/*.go")
	if err != nil {
		t.Fatal(err)
	}
	source := read(t, files...)
	names := regexp.MustCompile("`((?:sync|revoke|ci)\\.\\w+)`").FindAllStringSubmatch(string(page), -1)
	for _, m := range names {
		if !strings.Contains(source, `"`+m[1]+`"`) {
			t.Errorf("figures.md: no benchmark prints %s", m[1])
		}
	}
	makefile := read(t, "../Makefile")
	for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("figures.md: make has no target %s", m[1])
		}
	}
	if len(names) < 10 {
		t.Errorf("only %d names of figures were found", len(names))
	}
}

// TestStepsOfInit: the steps that the page of the unit names are those of NEXT.md.
func TestStepsOfInit(t *testing.T) {
	source := read(t, "../internal/setup/next.go")
	steps := regexp.MustCompile(`(?m)^   \| (.+?) \|`).FindAllStringSubmatch(section(t, "install-unit.md", "## With init"), -1)
	found := 0
	for _, m := range steps {
		if m[1] == "step" || strings.HasPrefix(m[1], "---") {
			continue
		}
		if found++; !strings.Contains(source, `"`+m[1]+`"`) {
			t.Errorf("install-unit.md names the step %q, internal/setup does not", m[1])
		}
	}
	if found != 8 {
		t.Errorf("install-unit.md has %d steps", found)
	}
}

// testSource returns the tests of a package.
func testSource(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return read(t, files...)
}

// read returns what is in files.
func read(t *testing.T, files ...string) string {
	t.Helper()
	var b strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}
