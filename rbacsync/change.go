package rbacsync

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// String returns the change as one line, the same in the CLI, the log and golden files.
func (c Change) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", c.Action, c.Key)
	if d := c.Details(20); len(d) > 0 {
		b.WriteString(": " + strings.Join(d, ", "))
	}
	if why := c.Reason(); why != "" {
		b.WriteString("  [" + why + "]")
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
	var out []string
	if c.Key.Kind == KindNamespace && c.Old != nil && c.New != nil {
		out = append(changed(c.Old.Labels(), c.New.Labels()), changed(c.Old.Annotations(), c.New.Annotations())...)
		if c.Old.Namespace.Wrong != "" {
			out = append(out, "put right: "+c.Old.Namespace.Wrong)
		}
	}
	if c.Key.Kind != KindRoleBinding {
		return out
	}
	before, after := c.bindings()
	if c.Action == Replace {
		out = append(out, fmt.Sprintf("role %s -> %s", before.Role, after.Role))
	}
	added, lost := c.Subjects()
	for _, list := range []struct {
		sign  string
		names []string
	}{{"- ", lost}, {"+ ", added}} {
		for _, n := range firstOf(list.names, limit) {
			out = append(out, list.sign+n)
		}
	}
	if len(out) == 0 && before.Members != after.Members {
		out = append(out, "user names in the annotation")
	}
	return out
}

// anAdministrator is who approved something of which it is not known who did.
const anAdministrator = "an administrator"

// Reason returns Why, with who approved it; and for whom, where not everybody loses something by the same approval.
func (c Change) Reason() string {
	if c.ApprovedBy != "" {
		return c.Why + ", approved by " + c.ApprovedBy
	}
	var whom map[string][]string
	all := c.losers()
	for _, u := range all {
		if by := c.ApprovedFor[u]; by != "" {
			if whom == nil {
				whom = map[string][]string{}
			}
			name := "CI"
			if u != 0 {
				name = UserText(u, c.users)
			}
			whom[by] = append(whom[by], name)
		}
	}
	var text strings.Builder
	text.WriteString(c.Why)
	for _, by := range sortedKeys(whom) {
		text.WriteString(", approved by " + by)
		if names := whom[by]; len(names) < len(all) {
			text.WriteString(" for " + strings.Join(firstOf(names, 20), ", "))
		}
	}
	return text.String()
}

// losers returns who is in a binding and is not after the change: people, and 0 at the end for all others.
func (c Change) losers() []int64 {
	before, after := c.bindings()
	users, others := before.beyond(&after)
	if len(others) > 0 {
		users = append(users, 0)
	}
	return users
}

// firstOf returns at most limit entries, and how many more there are.
func firstOf(list []string, limit int) []string {
	if len(list) <= limit {
		return list
	}
	return append(slices.Clone(list[:limit]), fmt.Sprintf("and %d more", len(list)-limit))
}

// bindings returns a binding as it is before and after a change, empty where it is not there.
func (c Change) bindings() (before, after Binding) {
	if c.Old != nil && c.Old.Binding != nil {
		before = *c.Old.Binding
	}
	if c.New != nil && c.New.Binding != nil {
		after = *c.New.Binding
	}
	return before, after
}

// Role returns the role of the binding that a change is about; "" for other kinds.
func (c Change) Role() string {
	before, after := c.bindings()
	return cmp.Or(after.Role, before.Role)
}

// Subjects returns the subjects that the change adds to and takes from its binding, GitLab users with their
// present user names: "gitlab:2 (alice)".
func (c Change) Subjects() (added, lost []string) {
	before, after := c.bindings()
	names := func(in, other *Binding) (out []string) {
		users, others := in.beyond(other)
		for _, id := range users {
			out = append(out, UserText(id, c.users))
		}
		for _, s := range others {
			out = append(out, subjectText(s.Kind, s.Namespace, s.Name))
		}
		return out
	}
	return names(&after, &before), names(&before, &after)
}

// UserText names a user for people: "gitlab:2 (alice)".
func UserText(id int64, users map[int64]authz.User) string {
	if u, ok := users[id]; ok {
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

// Reference names the object that a change is about, as Kubernetes does.
func (c Change) Reference() corev1.ObjectReference {
	ref := corev1.ObjectReference{APIVersion: "v1", Kind: c.Key.Kind.String(), Namespace: c.Key.Namespace, Name: c.Key.Name}
	if c.Key.Kind == KindRoleBinding {
		ref.APIVersion = rbacv1.SchemeGroupVersion.String()
	}
	o := c.New
	if c.Old != nil {
		ref.UID = c.Old.UID
		o = cmp.Or(o, &c.Old.Object)
	}
	if o != nil && o.FromTemplate != nil {
		ref.APIVersion, ref.Kind = o.FromTemplate.Kind.ToAPIVersionAndKind()
		ref.Name = o.FromTemplate.Name
	}
	return ref
}
