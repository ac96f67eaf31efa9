package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

var (
	title  = regexp.MustCompile(`^# (\d+)\. (.+)\n\n\*\*Status\.\*\* (.+)\. \*\*Date\.\*\* (\d{4}-\d\d-\d\d)\.\n\n`)
	row    = regexp.MustCompile(`(?m)^\| \[(\d+)\]\((\S+)\) \| (.+) \| (.+) \| (\d{4}-\d\d-\d\d) \|$`)
	status = regexp.MustCompile(`^(accepted|accepted, amended by|superseded by)((?:,? ?\[\d+\]\(\S+\))*)$`)
	later  = regexp.MustCompile(`\[(\d+)\]\((\S+)\)`)
	inADR  = regexp.MustCompile(`\bADR (\d+)`)
)

// decision is a page of docs/adr as its head says it, or as the index does.
type decision struct{ number, title, status, date string }

// TestTheIndexOfDecisions: each page of docs/adr has a head with status and date, and one row in the index that says the same.
func TestTheIndexOfDecisions(t *testing.T) {
	index, err := os.ReadFile("adr/README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]decision{}
	for _, m := range row.FindAllStringSubmatch(string(index), -1) {
		if _, twice := rows[m[2]]; twice {
			t.Errorf("%s has two rows in the index", m[2])
		}
		rows[m[2]] = decision{m[1], m[3], m[4], m[5]}
	}
	pages, err := filepath.Glob("adr/[0-9]*.md")
	if err != nil || len(pages) < 50 {
		t.Fatalf("%d decisions: %v", len(pages), err)
	}
	for _, path := range pages {
		name := filepath.Base(path)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m := title.FindStringSubmatch(string(text))
		if m == nil {
			t.Errorf("%s does not begin with its title, then **Status.** and **Date.**", name)
			continue
		}
		page := decision{m[1], m[2], m[3], m[4]}
		if n, _ := strconv.Atoi(name[:4]); strconv.Itoa(n) != page.number {
			t.Errorf("%s says that it is number %s", name, page.number)
		}
		if rows[name] != page {
			t.Errorf("%s\n says      %q\n the index %q", name, page, rows[name])
		}
		delete(rows, name)
		checkStatus(t, name, page)
		for _, cited := range inADR.FindAllStringSubmatch(string(text), -1) {
			if !exists(cited[1]) {
				t.Errorf("%s names ADR %s, which does not exist", name, cited[1])
			}
		}
	}
	for name := range rows {
		t.Errorf("the index has a row for %s, which does not exist", name)
	}
}

// checkStatus: a decision is changed by later ones alone, which exist.
func checkStatus(t *testing.T, name string, page decision) {
	t.Helper()
	m := status.FindStringSubmatch(page.status)
	if m == nil || (m[1] == "accepted") != (m[2] == "") {
		t.Errorf("%s: %q is no status: accepted; accepted, amended by [N](file), …; superseded by [N](file)", name, page.status)
		return
	}
	own, _ := strconv.Atoi(page.number)
	for _, by := range later.FindAllStringSubmatch(m[2], -1) {
		n, _ := strconv.Atoi(by[1])
		if _, err := os.Stat(filepath.Join("adr", by[2])); err != nil || n <= own || by[2][:4] != fourDigits(n) {
			t.Errorf("%s is changed by %s (%s): not a later decision: %v", name, by[1], by[2], err)
		}
	}
}

// exists reports whether there is a decision of that number.
func exists(number string) bool {
	n, _ := strconv.Atoi(number)
	found, err := filepath.Glob("adr/" + fourDigits(n) + "-*.md")
	return err == nil && len(found) == 1
}

func fourDigits(n int) string { return fmt.Sprintf("%04d", n) }
