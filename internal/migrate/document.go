package migrate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
)

// APIVersion and Kind head every Document. Fields may be added to a version; none is taken out and none changes its meaning.
const (
	APIVersion = "gl-k8s-integrator/v1"
	Kind       = "Migration"
)

// Document is what `migrate` says. Its fields are documented in docs/migrate.md.
type Document struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	GitLab     string           `json:"gitlab"`
	Made       time.Time        `json:"made"`
	Summary    Summary          `json:"summary"`
	Adopt      []Entry          `json:"adopt"` // all of rbacsync.adopt: what the configuration has, and what is proposed
	Label      []string         `json:"label,omitempty"`
	Proposed   []Item           `json:"proposed"`
	Decide     []Item           `json:"decide"`
	Settings   []Setting        `json:"settings,omitempty"`
	Leftovers  []Leftover       `json:"leftovers"`
	Remove     []string         `json:"remove,omitempty"`
	Taken      []string         `json:"taken,omitempty"` // what the plan must not take: then the command fails
	Plan       preview.Document `json:"plan"`
}

// Summary counts.
type Summary struct {
	Found      map[Origin]int `json:"found"` // namespaces of each origin
	Ours       int            `json:"ours"`  // of them, those that belong to their source already
	Configured int            `json:"configured"`
	Proposed   int            `json:"proposed"`
	Decide     int            `json:"decide"`
	Leftovers  int            `json:"leftovers"`
}

// NewDocument puts together what was found and the plan that follows from it. unmarked are the namespaces that lack our label.
func NewDocument(r Result, unmarked map[string]bool, settings []Setting, taken []string, plan preview.Document) Document {
	d := Document{
		APIVersion: APIVersion, Kind: Kind, GitLab: plan.GitLab, Made: plan.Made, Adopt: r.Adopt(),
		Proposed: list(r.Proposed), Decide: list(r.Decide), Settings: settings, Leftovers: list(r.Leftovers), Remove: Remove(r.Leftovers), Taken: taken, Plan: plan,
		Summary: Summary{Found: r.Found, Ours: r.Ours, Configured: len(r.Configured), Proposed: len(r.Proposed), Decide: len(r.Decide), Leftovers: len(r.Leftovers)},
	}
	var names []string
	for _, e := range d.Adopt {
		if unmarked[e.Namespace] {
			names = append(names, e.Namespace)
		}
	}
	for part := range slices.Chunk(names, labelled) {
		d.Label = append(d.Label, fmt.Sprintf("kubectl label namespace %s %s=%s", strings.Join(part, " "), kubename.LabelManagedBy, kubename.ManagedBy))
	}
	return d
}

// list returns a list that JSON writes as one, also when it is empty.
func list[T any](of []T) []T { return append([]T{}, of...) }

// labelled is how many namespaces one command labels.
const labelled = 50

// Adopt returns the whole of rbacsync.adopt: what the configuration has, and what is proposed.
func (r Result) Adopt() []Entry {
	out := append([]Entry{}, r.Configured...)
	for _, it := range r.Proposed {
		out = append(out, it.Entries[0])
	}
	return out
}

// String returns an entry as one line of YAML. Everything is quoted: a namespace may be called 1e3.
func (e Entry) String() string {
	q := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			panic(err) // a string always has a form in JSON
		}
		return string(b)
	}
	line := fmt.Sprintf("{namespace: %s, source: %s", q(e.Namespace), q(e.Source))
	if e.Path != "" {
		line += ", path: " + q(e.Path)
	}
	return line + "}"
}

// Block returns rbacsync.adopt for the configuration file, with what a person has to decide as comments.
func (d Document) Block() string {
	var b strings.Builder
	b.WriteString("rbacsync:\n  adopt:")
	if len(d.Adopt) == 0 {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	for _, e := range d.Adopt {
		fmt.Fprintf(&b, "    - %s\n", e)
	}
	for _, it := range d.Decide {
		for _, e := range it.Entries {
			fmt.Fprintf(&b, "    # - %s  # %s\n", e, strings.Join(it.codes(), ", "))
		}
	}
	return b.String()
}

func (it Item) codes() (out []string) {
	for _, r := range it.Reasons {
		if !slices.Contains(out, string(r.Code)) {
			out = append(out, string(r.Code))
		}
	}
	return out
}

// Text returns the Document for people, without the plan.
func (d Document) Text() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s := d.Summary
	say("found: %d namespaces of the integrator of 2018, %d of GitLab's certificate integration; %d of them are ours already", s.Found[Integrator2018], s.Found[Certificate], s.Ours)
	say("proposed: %d; in the configuration already: %d; for a person to decide: %d", s.Proposed, s.Configured, s.Decide)
	if len(d.Settings) > 0 {
		say("\nWhat takes the place of the old environment:\n")
		for _, x := range d.Settings {
			say("%s", x)
		}
	}
	if len(d.Adopt)+len(d.Decide) > 0 {
		say("\nFor the configuration, in the place of rbacsync.adopt:\n\n%s", d.Block())
	}
	if len(d.Label) > 0 {
		say("Then an administrator of the cluster marks the namespaces:\n\n%s", strings.Join(d.Label, "\n"))
	}
	if len(d.Decide) > 0 {
		say("\nTo decide. Nothing of it is in the plan below. Take an entry out of the comments once it is known whose the namespace is:\n")
		for _, it := range d.Decide {
			say("%s", it.Namespace)
			for _, r := range it.Reasons {
				say("    %s: %s", r.Code, r.Text)
			}
		}
	}
	if slices.ContainsFunc(d.Proposed, func(it Item) bool { return len(it.Notes) > 0 }) {
		say("\nGood to know:\n")
		for _, it := range d.Proposed {
			for _, r := range it.Notes {
				say("%s\n    %s: %s", it.Namespace, r.Code, r.Text)
			}
		}
	}
	if len(d.Leftovers) > 0 {
		say("\nWhat the old services leave behind. It stays as it is, and gives what it gave. Remove it when nobody needs it any more:\n")
		for _, l := range d.Leftovers {
			say("%s", l)
		}
		say("\n%s", strings.Join(d.Remove, "\n"))
	}
	if len(d.Taken) > 0 {
		say("\nThe plan takes what it must not take:\n\n%s", strings.Join(d.Taken, "\n"))
	}
	say("\nThe plan with these entries and marks:\n")
	return b.String()
}

// String returns "GITLAB_ENVIRONMENT_NAME -> ci.environment: ICC-K8s  (…)".
func (s Setting) String() string {
	to := s.Key
	if to == "" {
		to = "nothing"
	}
	if s.Value != "" {
		to += ": " + s.Value
	}
	return fmt.Sprintf("%s -> %s  (%s)", s.Variable, to, s.Text)
}

// String returns "haw-world  RoleBinding … gives alice edit; GitLab gives view".
func (l Leftover) String() string {
	out := fmt.Sprintf("%s  %s %s", l.Namespace, l.Kind, rbacsync.Printable(l.Name))
	if l.Role != "" {
		out += fmt.Sprintf("  gives %s %s", rbacsync.Printable(l.To), rbacsync.Printable(l.Role))
		switch {
		case len(l.Now) > 0:
			out += "; GitLab gives " + strings.Join(l.Now, ", ")
		case l.Person:
			out += "; GitLab gives nothing"
		}
	}
	if l.InTheWay {
		out += "  (has a name of ours)"
	}
	return out
}
