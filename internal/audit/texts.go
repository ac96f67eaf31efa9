package audit

import "strings"

// texts numbers texts, from 1; 0 is "".
type texts struct {
	all []string
	by  map[string]uint32
}

func newTexts() texts { return texts{by: map[string]uint32{}} }

// text returns the number of a text.
func (t *texts) text(s string) uint32 {
	if s == "" {
		return 0
	}
	n, ok := t.by[s]
	if !ok {
		t.all = append(t.all, strings.Clone(s))
		n = number(len(t.all))
		t.by[t.all[n-1]] = n
	}
	return n
}

func (t *texts) textOf(n uint32) string {
	if n == 0 || int(n) > len(t.all) {
		return ""
	}
	return t.all[n-1]
}

// number is a count as what numbers people, namespaces and texts: there is no memory for as many as do not fit.
func number(n int) uint32 { return uint32(n) } //nolint:gosec // see above
