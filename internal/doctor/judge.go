package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Problem is one thing that is wrong, with what follows from it.
type Problem struct {
	Code         string        `json:"code"`
	What         string        `json:"what"`
	Why          string        `json:"why"`
	Fix          string        `json:"fix"`
	Consequences []Consequence `json:"consequences,omitempty"`
}

// Consequence is what is wrong because of a Problem, as far as can be told.
type Consequence struct {
	Code string `json:"code"`
	What string `json:"what"`
}

// Report is what Judge makes of Facts.
type Report struct {
	Healthy     bool      `json:"healthy"` // there is no problem, and all was looked at
	Problems    []Problem `json:"problems"`
	NotLookedAt []Blind   `json:"notLookedAt,omitempty"` // it could not be
	NotAsked    []Blind   `json:"notAsked,omitempty"`    // it needs something that was not given
	Seen        []Seen    `json:"seen,omitempty"`        // what was found, right or wrong
}

// Judge applies the rules in their order, in which causes stand before what they cause. It does no I/O.
func Judge(f *Facts) Report {
	r := Report{Problems: []Problem{}, NotLookedAt: f.Blind, NotAsked: f.Skipped, Seen: f.seen()}
	for _, rule := range rules() {
		for _, h := range rule.when(f) {
			cause := slices.IndexFunc(r.Problems, func(p Problem) bool { return slices.Contains(rule.after, p.Code) })
			if cause >= 0 {
				r.Problems[cause].Consequences = append(r.Problems[cause].Consequences, Consequence{rule.code, h.what})
				continue
			}
			r.Problems = append(r.Problems, Problem{Code: rule.code, What: h.what, Why: rule.why, Fix: strings.ReplaceAll(rule.fix, blank, h.at)})
		}
	}
	r.Healthy = len(r.Problems) == 0 && len(r.NotLookedAt) == 0
	return r
}

// Print shows the report to people.
func (r Report) Print(out io.Writer) {
	for i, p := range r.Problems {
		fmt.Fprintf(out, "%d. %s: %s\n   why: %s\n   fix: %s\n", i+1, p.Code, lines(p.What), p.Why, lines(p.Fix))
		for _, c := range p.Consequences {
			fmt.Fprintf(out, "   follows from it: %s: %s\n", c.Code, lines(c.What))
		}
	}
	for _, b := range r.NotLookedAt {
		fmt.Fprintf(out, "could not look at %s: %s\n   fix: %s\n", lines(b.What), lines(b.Why), lines(b.Fix))
	}
	if len(r.Problems)+len(r.NotLookedAt) > 0 && len(r.Seen) > 0 {
		fmt.Fprintln(out)
	}
	for _, s := range r.Seen {
		fmt.Fprintf(out, "%-15s %s\n", s.What, lines(s.Said))
	}
	if len(r.NotAsked) > 0 {
		fmt.Fprintln(out, "\nmore is looked at with:")
	}
	for _, b := range r.NotAsked {
		fmt.Fprintf(out, "  %s: %s (%s)\n", lines(b.What), lines(b.Fix), lines(b.Why))
	}
	fmt.Fprintln(out)
	var codes []string
	for _, p := range r.Problems {
		codes = append(codes, p.Code)
	}
	switch {
	case len(r.Problems) > 0:
		fmt.Fprintf(out, "%d wrong (%s), %d not looked at\n", len(r.Problems), strings.Join(codes, ", "), len(r.NotLookedAt))
	case len(r.NotLookedAt) > 0:
		fmt.Fprintf(out, "nothing wrong in what could be looked at; %d not looked at\n", len(r.NotLookedAt))
	default:
		fmt.Fprintln(out, "all is well")
	}
}

// lines is text in which each line is printable: some of it is from the answers of other servers.
func lines(text string) string {
	all := strings.Split(text, "\n")
	for i, line := range all {
		all[i] = rbacsync.Printable(line)
	}
	return strings.Join(all, "\n")
}

// PrintJSON shows the report to programs.
func (r Report) PrintJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
