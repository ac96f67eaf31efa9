package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// most is how many words a sentence of these pages may have.
const most = 29

var (
	inline   = regexp.MustCompile("`[^`\n]*(?:\n[^`\n]+)?`")
	sentence = regexp.MustCompile(`[.!?][)"*]*\s+`)
	item     = regexp.MustCompile(`^\s*(?:-|\d+\.) `)
	word     = regexp.MustCompile(`\S*[\pL\pN]\S*`)
)

// TestSentencesAreShort: people who read these pages in a hurry, or in a language that is not theirs, get through each sentence.
// The changelog and the decisions in docs/adr are exempt: they are records of their time.
func TestSentencesAreShort(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, "../README.md", "../SECURITY.md") {
		if page == "CHANGELOG.md" {
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

// adminWords are of the configuration, or of what only administrators see.
var adminWords = regexp.MustCompile(`(?i)\b(?:OAuth|fence|cage|findings?|untouchable|rounds?|brakes?|tenants?|kube-apiserver|deploy/manifests)\b`)

// TestPagesForPeople: who only wants to use the cluster meets no word of those who run it, on the pages and parts that are for them.
func TestPagesForPeople(t *testing.T) {
	for page, end := range map[string]string{"user.md": "", "page-people.md": "", "kubeconfig.md": "\n## For the administrator\n", "ci.md": "\n## For the administrator: the deliveries\n"} {
		text := read(t, page)
		if end != "" {
			var ok bool
			if text, _, ok = strings.Cut(text, end); !ok {
				t.Errorf("%s has no heading %q", page, end)
			}
		}
		for _, paragraph := range paragraphs(text) {
			if m := adminWords.FindString(inline.ReplaceAllString(paragraph, "code")); m != "" {
				t.Errorf("%s says %q to people: %s", page, m, strings.Join(strings.Fields(paragraph), " "))
			}
		}
	}
}

// TestNumbersNameOneThing: a page with numbered headings has no numbered list beside them.
func TestNumbersNameOneThing(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	heading, list := regexp.MustCompile(`(?m)^#+ \d+\. `), regexp.MustCompile(`(?m)^ {0,3}\d+\. `)
	numbered := 0
	for _, page := range pages {
		text := fenced.ReplaceAllString(read(t, page), "\n")
		if !heading.MatchString(text) {
			continue
		}
		numbered++
		if m := list.FindString(text); m != "" {
			t.Errorf("%s numbers its headings, and a list by %q: it is not known which step is meant", page, m)
		}
	}
	if numbered == 0 {
		t.Error("no page with numbered headings was found")
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
