package web_test

import (
	"encoding/json"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsNamePagesAndProblemsAsShown: the docs call a page what its tab says, and tell of problems in the words that are shown.
func TestDocsNamePagesAndProblemsAsShown(t *testing.T) {
	tab := regexp.MustCompile(`<li><a href="([^"]*)"[^>]*>([^<]*)</a></li>`)
	tabs := map[string]string{} // path by label
	_, menu, _ := strings.Cut(signedIn(t, newFixture(t, nil)).get("/namespaces").body, `<nav class="tabs"`)
	menu, _, _ = strings.Cut(menu, "</nav>")
	for _, m := range tab.FindAllStringSubmatch(menu, -1) {
		tabs[html.UnescapeString(m[2])] = m[1]
	}
	shown := []string{"The redirect URI included is not valid", "The requested scope is invalid"} // by GitLab
	text := map[string]string{}
	if err := json.Unmarshal([]byte(readDoc(t, "lang/en.json")), &text); err != nil {
		t.Fatal(err)
	}
	for _, words := range text {
		before, _, _ := strings.Cut(words, ": ")
		shown = append(shown, words, before)
	}

	byPath := regexp.MustCompile("\\| \\*([^*]+)\\*, `(/[^`]*)`")
	named := byPath.FindAllStringSubmatch(readDoc(t, "../../docs/page-people.md"), -1)
	if len(named) < len(tabs) {
		t.Errorf("docs/page-people.md names %d pages, and there are %d tabs", len(named), len(tabs))
	}
	for _, m := range named {
		if tabs[m[1]] != m[2] {
			t.Errorf("docs/page-people.md calls %s %q; the tabs are %v", m[2], m[1], tabs)
		}
	}
	for _, m := range regexp.MustCompile(`(?:the page|page-people\.md\),) \*([^*]+)\*`).FindAllStringSubmatch(readDoc(t, "../../docs/ci.md"), -1) {
		if _, ok := tabs[m[1]]; !ok {
			t.Errorf("docs/ci.md names a page %q; the tabs are %v", m[1], tabs)
		}
	}

	pages, err := filepath.Glob("../../docs/page*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range pages {
		_, table, _ := strings.Cut(readDoc(t, page), "\n## When it does not work\n")
		for line := range strings.Lines(table) {
			if !strings.HasPrefix(line, "| ") {
				continue
			}
			for _, m := range regexp.MustCompile(`\*([^*]+)\*`).FindAllStringSubmatch(strings.Split(line, " | ")[0], -1) {
				if seen++; !slices.Contains(shown, m[1]) {
					t.Errorf("%s: no page shows %q", page, m[1])
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d problems were found in the docs", seen)
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
