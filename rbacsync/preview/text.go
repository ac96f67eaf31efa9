package preview

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Filter says what of a Document is shown; its zero value is all of it.
type Filter struct {
	Namespace string
	User      int64
}

// Only returns what a Filter lets through. The summary stays that of the whole plan.
func (d Document) Only(f Filter) Document {
	if f == (Filter{}) {
		return d
	}
	out := []Namespace{}
	for _, ns := range d.Namespaces {
		if f.Namespace != "" && ns.Name != f.Namespace {
			continue
		}
		if f.User != 0 {
			ns.People = slices.DeleteFunc(slices.Clone(ns.People), func(r Right) bool { return r.User.ID != f.User })
			ns.Held = slices.DeleteFunc(slices.Clone(ns.Held), func(h Held) bool { return h.User == nil || h.User.ID != f.User })
			ns.Jobs, ns.Deliveries, ns.Writes = nil, nil, nil
			if len(ns.People)+len(ns.Held) == 0 {
				continue
			}
		}
		out = append(out, ns)
	}
	d.Namespaces = out
	d.Findings = slices.DeleteFunc(slices.Clone(d.Findings), func(x Finding) bool {
		return !slices.ContainsFunc(out, func(ns Namespace) bool { return ns.Source == x.Source })
	})
	return d
}

// sign is what a line of text begins with.
type sign string

const (
	plus  sign = "+"
	minus sign = "-"
	tilde sign = "~"
	stays sign = "="
)

var colours = map[sign]string{plus: "\x1b[32m", minus: "\x1b[31m", tilde: "\x1b[33m", stays: "\x1b[36m"}

var signs = map[Action]sign{Create: plus, Gain: plus, Delete: minus, Lose: minus, Change: tilde, Keep: stays}

// Text returns the Document for people, with a summary at the end. A line begins with "+" for what is new or gained, "-" for
// what is gone or lost, "~" for what is changed and "=" for what is held. Colour is for terminals.
func (d Document) Text(colour bool) string {
	w := &writer{colour: colour}
	for i := range d.Namespaces {
		w.namespace(&d.Namespaces[i])
	}
	if w.b.Len() > 0 {
		w.b.WriteString("\n")
	}
	w.summary(d.Summary)
	return w.b.String()
}

type writer struct {
	b      strings.Builder
	colour bool
}

func (w *writer) line(indent int, s sign, format string, args ...any) {
	text := strings.Repeat(" ", indent) + string(s) + " " + fmt.Sprintf(format, args...)
	if w.colour {
		text = colours[s] + text + "\x1b[0m"
	}
	w.b.WriteString(text + "\n")
}

func (w *writer) namespace(ns *Namespace) {
	what := map[Action]string{Create: "new namespace", Delete: "namespace is deleted", Change: "namespace", Keep: "namespace"}[ns.Action]
	head := fmt.Sprintf("%s  (%s", ns.Name, what)
	if ns.Source != "" {
		head += " of " + strings.TrimSpace(ns.Source+" "+ns.Path)
	}
	head += ")"
	if ns.Why != "" {
		head += ": " + ns.Why
	}
	w.line(0, signs[ns.Action], "%s", head)
	width := [2]int{}
	var rows [][2]string
	for _, r := range ns.People {
		rows = append(rows, [2]string{r.User.String(), roles(r.From, r.To)})
	}
	for _, j := range ns.Jobs {
		rows = append(rows, [2]string{j.Subject.String(), j.Role})
	}
	for _, r := range rows {
		for i := range r {
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
	}
	pad := func(s string, i int) string { return s + strings.Repeat(" ", width[i]-utf8.RuneCountInString(s)) }
	for i, r := range ns.People {
		w.line(4, signs[r.Action], "%s  %s  %s", pad(rows[i][0], 0), pad(rows[i][1], 1), r.Reason.Text)
	}
	for i, j := range ns.Jobs {
		r := rows[len(ns.People)+i]
		w.line(4, signs[j.Action], "%s  %s  %s", pad(r[0], 0), pad(r[1], 1), j.Reason.Text)
	}
	for _, x := range ns.Writes {
		if x.plain && (x.Kind != "Namespace" || x.Action == "update") {
			w.write(x)
		}
	}
	for _, x := range ns.Deliveries {
		w.delivery(x)
	}
	w.held(ns.Held)
}

func (w *writer) write(x Write) {
	s := map[string]sign{"create": plus, "delete": minus}[x.Action]
	if s == "" {
		s = tilde
	}
	text := x.Kind
	if x.Kind != "Namespace" {
		text += " " + x.Name
	}
	if len(x.Details) > 0 {
		text += ": " + strings.Join(x.Details, ", ")
	}
	w.line(4, s, "%s", text)
}

func (w *writer) delivery(x Delivery) {
	to := strings.TrimSpace(x.Project + " " + x.Path)
	at := fmt.Sprintf("(environment %s, ", x.Environment)
	if x.Protected {
		at += "protected branches and tags)"
	} else {
		at += "all branches)"
	}
	switch {
	case x.OtherOwner != "":
		w.line(4, stays, "nothing for jobs of %s %s: another cluster (%s) has its variables there", to, at, x.OtherOwner)
		x.IntegrationAction = "" // an explanation may go all the same
	case len(x.Write) > 0:
		w.line(4, plus, "delivered to jobs of %s by %s %s: %s", to, x.Mode, at, strings.Join(x.Write, ", "))
	}
	if len(x.Change) > 0 {
		w.line(4, tilde, "replaced for jobs of %s %s: %s; %s", to, at, strings.Join(x.Change, ", "), x.Why)
	}
	switch x.IntegrationAction {
	case "remove":
		w.line(4, minus, "taken back from jobs of %s %s: GitLab's cluster integration", to, at)
	case "change":
		w.line(4, tilde, "replaced for jobs of %s %s: GitLab's cluster integration; %s", to, at, x.Why)
	case "write":
		w.line(4, plus, "delivered to jobs of %s by %s %s: GitLab's cluster integration", to, x.Mode, at)
	}
	const everywhere = "jobs without credentials are told why (environment *, all branches): KUBECONFIG"
	switch x.ExplanationAction {
	case "remove":
		w.line(4, minus, "taken back from %s: %s", to, everywhere)
	case "change":
		w.line(4, tilde, "replaced in %s: %s", to, everywhere)
	case "write":
		w.line(4, plus, "in %s %s", to, everywhere)
	}
	if len(x.Remove) > 0 {
		if x.RemoveFrom != "" {
			at = fmt.Sprintf("(environment %s)", x.RemoveFrom)
		}
		w.line(4, minus, "taken back from jobs of %s %s: %s", to, at, strings.Join(x.Remove, ", "))
	}
	if len(x.InTheWay) > 0 {
		w.line(4, stays, "left alone in %s %s: %s, which the project has itself", to, at, strings.Join(x.InTheWay, ", "))
	}
}

// held tells of one thing each, with the hash after the last one of a part.
func (w *writer) held(list []Held) {
	for _, h := range list {
		what := "the namespace is not made"
		switch {
		case h.User != nil:
			what = fmt.Sprintf("%s keeps %s", h.User, h.Role)
		case h.Role != "":
			what = "CI jobs keep " + h.Role
		}
		w.line(4, stays, "held: %s, because of %s: %s; approve %s", what, h.Cause, h.Text, h.Approval)
	}
}

// String returns "alice (gitlab:2)".
func (u User) String() string {
	if u.Username == "" {
		return u.Subject
	}
	return fmt.Sprintf("%s (%s)", u.Username, u.Subject)
}

// String returns "ServiceAccount haw/gitlab-serviceaccount".
func (s Subject) String() string {
	if s.Namespace != "" {
		return s.Kind + " " + s.Namespace + "/" + s.Name
	}
	return s.Kind + " " + s.Name
}

func roles(from, to []string) string {
	if len(from) > 0 && len(to) > 0 {
		return strings.Join(from, ", ") + " -> " + strings.Join(to, ", ")
	}
	return strings.Join(append(slices.Clone(from), to...), ", ")
}

func (w *writer) summary(s Summary) {
	if s.Writes == 0 {
		w.b.WriteString("cluster: nothing to change\n")
	} else {
		fmt.Fprintf(&w.b, "rights: %d gained, %d lost, %d exchanged, of %s\n", s.Gained, s.Lost, s.Exchanged, count(s.People, "person", "people"))
		fmt.Fprintf(&w.b, "writes to the cluster: %d", s.Writes)
		if s.EmptyBindings > 0 {
			fmt.Fprintf(&w.b, ", of them %s with nobody in them, not shown", count(s.EmptyBindings, "binding", "bindings"))
		}
		w.b.WriteString("\n")
	}
	if s.Deliveries > 0 {
		fmt.Fprintf(&w.b, "CI deliveries: %s\n", count(s.Deliveries, "project", "projects"))
	}
	if s.Held > 0 {
		fmt.Fprintf(&w.b, "held: %d\n", s.Held)
	}
	if s.Writes > 0 {
		fmt.Fprintf(&w.b, "namespaces: %d new, %d changed, %d deleted; then there are\n", s.Created, s.Changed, s.Deleted)
	} else if len(s.Sources) > 0 {
		w.b.WriteString("namespaces:\n")
	}
	for _, x := range s.Sources {
		made := x.Key
		if made == "" {
			made = "authz.kinds does not name them"
		}
		fmt.Fprintf(&w.b, "  %5d %-12s %d new  (%s)\n", x.Namespaces, map[string]string{"group": "of groups,", "project": "of projects,", "user": "personal,"}[string(x.Kind)], x.New, made)
	}
}

// count returns "1 person" or "2 people".
func count(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return strconv.Itoa(n) + " " + many
}
