package rbacsync

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// String returns the change as one line, the same in the CLI, the log and golden files.
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", c.Action, c.Key)
	if d := c.Details(20); len(d) > 0 {
		b.WriteString(": " + strings.Join(d, ", "))
	}
	if c.Why != "" {
		b.WriteString("  [" + c.Why + "]")
	}
	return b.String()
}

// Text returns a plan as lines, with a summary at the end.
func Text(changes []Change) string {
	var b strings.Builder
	var revoke int
	for _, c := range changes {
		b.WriteString(c.String() + "\n")
		if c.Revokes {
			revoke++
		}
	}
	if len(changes) == 0 {
		return "nothing to do\n"
	}
	fmt.Fprintf(&b, "changes: %d, taking rights away: %d\n", len(changes), revoke)
	return b.String()
}

// Details lists what is different, at most limit entries of subjects.
func (c Change) Details(limit int) []string {
	old := c.Was()
	var out []string
	if c.Key.Kind == KindNamespace && old != nil && c.New != nil {
		out = append(changed(old.Labels(), c.New.Labels()), changed(old.Annotations(), c.New.Annotations())...)
		if old.Namespace.Wrong != "" {
			out = append(out, "put right: "+old.Namespace.Wrong)
		}
	}
	if c.Key.Kind != KindRoleBinding {
		return out
	}
	var before, after Binding
	if old != nil {
		before = *old.Binding
	}
	if c.New != nil {
		after = *c.New.Binding
	}
	if c.Action == Replace {
		out = append(out, fmt.Sprintf("role %s -> %s", before.Role, after.Role))
	}
	added, lost := c.subjects(&before, &after)
	for _, list := range []struct {
		sign  string
		names []string
	}{{"- ", lost}, {"+ ", added}} {
		for i, n := range list.names {
			if i == limit {
				out = append(out, fmt.Sprintf("%sand %d more", list.sign, len(list.names)-i))
				break
			}
			out = append(out, list.sign+n)
		}
	}
	if len(out) == 0 && before.Members != after.Members {
		out = append(out, "user names in the annotation")
	}
	return out
}

// Was returns what was there before, nil for Create.
func (c Change) Was() *Object {
	if c.Old == nil {
		return nil
	}
	return &c.Old.Object
}

// Subjects returns the subjects that the change adds to and takes from its binding, GitLab users with their
// present user names: "gitlab:2 (alice)".
func (c Change) Subjects() (added, lost []string) {
	if c.Key.Kind != KindRoleBinding {
		return nil, nil
	}
	var before, after Binding
	if c.Old != nil {
		before = *c.Old.Binding
	}
	if c.New != nil {
		after = *c.New.Binding
	}
	return c.subjects(&before, &after)
}

func (c Change) subjects(before, after *Binding) (added, lost []string) {
	plus, minus := diff(before.Users, after.Users)
	for _, id := range plus {
		added = append(added, c.user(id))
	}
	for _, id := range minus {
		lost = append(lost, c.user(id))
	}
	for _, s := range after.Others {
		if !slices.Contains(before.Others, s) {
			added = append(added, subjectText(s.Kind, s.Namespace, s.Name))
		}
	}
	for _, s := range before.Others {
		if !slices.Contains(after.Others, s) {
			lost = append(lost, subjectText(s.Kind, s.Namespace, s.Name))
		}
	}
	return added, lost
}

func (c Change) user(id int64) string {
	if u, ok := c.users[id]; ok {
		return kubename.User(id) + " (" + Printable(u.Username) + ")"
	}
	return kubename.User(id)
}

func subjectText(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return kind + " " + Printable(name)
}

// changed lists the keys whose values differ: `key "old" -> "new"`.
func changed(old, now map[string]string) []string {
	var out []string
	for _, k := range sortedKeys(now) {
		if old[k] != now[k] {
			out = append(out, fmt.Sprintf("%s %s -> %s", k, strconv.Quote(old[k]), strconv.Quote(now[k])))
		}
	}
	return out
}

// TemplateObject returns what the change makes of an object from a template, or what was there before; nil for other kinds.
func (c Change) TemplateObject() *TemplateObject {
	switch {
	case c.New != nil && c.New.FromTemplate != nil:
		return c.New.FromTemplate
	case c.Old != nil:
		return c.Old.FromTemplate
	}
	return nil
}
