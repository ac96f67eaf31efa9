// Package docs holds the pages that the program itself shows parts of: so they are written once.
package docs

import (
	_ "embed"
	"regexp"
	"strings"
)

//go:embed operations.md
var operations string

//go:embed ci.md
var ci string

// Finding is what the pages say of a finding: in plain text, with `backticks` around what is code.
type Finding struct {
	Says string // empty: the page of CI has only what to do
	Do   string
}

var (
	code     = regexp.MustCompile("`([a-z_]+)`")
	pageLink = regexp.MustCompile(`\[([^\]]+)\]\(([^)#]*)(?:#[^)]*)?\)`)
)

// Findings returns the tables of findings in operations.md and ci.md, by code.
func Findings() map[string]Finding {
	out := map[string]Finding{}
	for name, page := range map[string]string{"operations": operations, "ci": ci} {
		_, section, _ := strings.Cut(page, "\n## Findings\n")
		section, _, _ = strings.Cut(section, "\n## ")
		for line := range strings.Lines(section) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			if len(cells) < 2 || !strings.Contains(cells[0], "`") {
				continue
			}
			f := Finding{Do: plain(cells[len(cells)-1], name)}
			if len(cells) > 2 {
				f.Says = plain(cells[1], name)
			}
			for _, m := range code.FindAllStringSubmatch(cells[0], -1) {
				out[m[1]] = f
			}
		}
	}
	return out
}

// plain writes links as text: "[held](held.md)" is "held (docs/held.md)".
func plain(cell, page string) string {
	return strings.TrimSpace(pageLink.ReplaceAllStringFunc(cell, func(link string) string {
		m := pageLink.FindStringSubmatch(link)
		if m[2] == "" {
			m[2] = page + ".md"
		}
		return m[1] + " (docs/" + m[2] + ")"
	}))
}

// Job returns a job of ci.md by its name, as that page shows it; empty if it shows none.
func Job(name string) string {
	for block := range strings.SplitSeq(ci, "```yaml ci\n") {
		if text, _, ended := strings.Cut(block, "```"); ended && strings.HasPrefix(text, name+":\n") {
			return text
		}
	}
	return ""
}
