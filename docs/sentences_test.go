package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// most is how many words a sentence of these pages may have.
const most = 30

var (
	inline   = regexp.MustCompile("`[^`\n]*(?:\n[^`\n]+)?`")
	sentence = regexp.MustCompile(`[.!?][)"*]*\s+`)
	item     = regexp.MustCompile(`^\s*(?:-|\d+\.) `)
	word     = regexp.MustCompile(`\S*[\pL\pN]\S*`)
)

// TestSentencesAreShort: people who read these pages in a hurry, or in a language that is not theirs, get through each sentence.
func TestSentencesAreShort(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, "../README.md") {
		if page == "CHANGELOG.md" { // what was said at the time
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, paragraph := range paragraphs(string(text)) {
			for _, s := range sentence.Split(inline.ReplaceAllString(paragraph, "code"), -1) {
				seen++
				if n := len(word.FindAllString(s, -1)); n > most {
					t.Errorf("%s: %d words, at most %d, in: %s", page, n, most, strings.Join(strings.Fields(s), " "))
				}
			}
		}
	}
	if seen < 500 {
		t.Errorf("only %d sentences were found", seen)
	}
}

// paragraphs returns the text of a page without its code blocks: paragraphs, items of lists, cells of tables.
func paragraphs(page string) (out []string) {
	begin := true
	for line := range strings.Lines(fenced.ReplaceAllString(page, "\n")) {
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#"):
			begin = true
			continue
		case strings.HasPrefix(strings.TrimSpace(line), "|"):
			out = append(out, strings.Split(strings.TrimSpace(line), " | ")...)
			begin = true
			continue
		}
		if begin || item.MatchString(line) {
			out = append(out, "")
		}
		out[len(out)-1] += line
		begin = false
	}
	return out
}
