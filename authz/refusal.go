package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// refusal is one refused request, to be explained from a View. What is said is remembered in code, able and asked: the
// Explanation for an administrator goes on from there.
type refusal struct {
	v     View
	q     Question
	now   time.Time // not needed for CI
	code  Code
	able  []Level  // that would allow it
	asked []string // user names of members who may do it
}

// because notes what a sentence says, for programs.
func (r *refusal) because(code Code, format string, args ...any) string {
	r.code = code
	return fmt.Sprintf(format, args...)
}

// memberRefused speaks to somebody who is a member of the source, and so may hear its path and people.
func (r *refusal) memberRefused(id SourceID, user int64, level Level) string {
	path, _ := r.v.Snapshot.Path(id)
	where := clean(path)
	frozen := r.v.Policy.frozen(r.v.Snapshot, id)
	src, ok := r.v.Policy.Source(r.v.Snapshot, id)
	switch {
	case !ok:
		return r.because(CodeSourceExcluded, "%s is excluded by this cluster's configuration. Ask the cluster's administrators.", where)
	case frozen == FrozenNone:
		return r.because(CodeFrozen, "%s is archived or marked for deletion in GitLab: nobody has rights there.", where)
	}
	roles := r.v.rolesOf(src.ID, level, frozen)
	g := r.unfulfilled(roles, func(role string) Absence { return r.v.absent(src.ID, role, user) })
	if len(g.roles) > 0 {
		return r.because(CodeNotInCluster, "GitLab gives you %s here (you are %s in %s)%s", quoted(g.roles), level, where, g.say(r, src.ID))
	}
	you := fmt.Sprintf("you are %s in %s, which gives no right in the cluster", level, where)
	if len(roles) > 0 {
		you = fmt.Sprintf("you are %s in %s (%s)", level, where, quoted(roles))
	}
	able, known := r.levelsIn(src.ID, frozen)
	if r.able = able; len(able) > 0 {
		return r.because(CodeLevel, "%s; %s needs %s%s.%s", you, r.q.what(), levels(able), r.ask(src.ID, able, frozen), r.v.butNothing(src.ID))
	}
	if frozen != FrozenKeep && known {
		if later, _ := r.levelsIn(src.ID, FrozenKeep); len(later) > 0 {
			return r.because(CodeFrozen, "%s, and that is archived or marked for deletion in GitLab: nobody may %s there meanwhile.", you, r.q.what())
		}
	}
	if !known {
		return r.because(CodeRulesUnread, "%s, and that does not allow %s.", you, r.q.what())
	}
	return r.because(CodeNoLevel, "%s; no GitLab role there allows %s. Ask the cluster's administrators.", you, r.q.what())
}

// allow reports whether one of the ClusterRoles allows the request.
func (r *refusal) allow(roles ...string) Verdict {
	out := No
	for _, role := range roles {
		if r.q.Verb == "" && r.q.Resource == "" && !r.v.gone[role] {
			return Yes
		}
		rules, read := r.v.rules[role]
		if !read {
			out = max(out, Unknown)
		}
		if slices.ContainsFunc(rules, func(rule Rule) bool { return rule.Allows(r.q) }) {
			return Yes
		}
	}
	return out
}

// levelsIn returns the levels in a source that allow the request, ascending. known is false if there may be others.
func (r *refusal) levelsIn(id SourceID, frozen Frozen) (able []Level, known bool) {
	known = true
	for _, l := range allLevels() {
		if l <= MinimalAccess || (id.Kind == UserSource && l != Owner) {
			continue
		}
		switch r.allow(r.v.rolesOf(id, l, frozen)...) {
		case Yes:
			able = append(able, l)
		case Unknown:
			known = false
		case No:
		}
	}
	return able, known
}

// clusterWide answers requests outside any namespace; a refused list of namespaces names the user's own.
func (r *refusal) clusterWide(user int64) string {
	if r.q.Resource == "namespaces" && r.q.Verb != "create" {
		return "nobody can list all namespaces. " + r.yours(user)
	}
	if r.q.Resource == "namespaces" {
		return "namespaces are made from GitLab: create a group or project there, and its namespace appears. " + r.yours(user)
	}
	return "your GitLab roles give rights inside namespaces only (kubectl -n NAMESPACE …). " + r.yours(user)
}

// maxListed is how many namespaces a sentence names: more than most people have, and still no flood.
const maxListed = 100

// yours lists the namespaces in which the person has a right in the cluster, by role, and says of how many rights GitLab gives
// them that are not there yet.
func (r *refusal) yours(user int64) string {
	p := r.v.possessions(user, r.now, maxListed)
	if p.all == 0 && len(p.lacks) == 0 {
		return "You have no namespaces yet: ask a Maintainer of your group to add you in GitLab."
	}
	var b strings.Builder
	switch {
	case p.all == 0:
		b.WriteString("You have no namespaces in the cluster yet")
	case r.v.gaps == nil:
		b.WriteString("Your namespaces, if they are in the cluster already: ")
	default:
		b.WriteString("Your namespaces: ")
	}
	names := r.v.Policy.ClusterRoles()
	for i, f := range p.first {
		b.WriteString(f.ns)
		switch {
		case i+1 == len(p.first) || p.first[i+1].role != f.role:
			fmt.Fprintf(&b, " (%s)", names[f.role])
			if i+1 < len(p.first) {
				b.WriteString("; ")
			}
		default:
			b.WriteString(", ")
		}
	}
	if p.all > len(p.first) {
		fmt.Fprintf(&b, "; and %d more, which are named after your groups and projects in GitLab, as haw-world after haw/world", p.all-len(p.first))
	}
	b.WriteByte('.')
	for _, l := range p.lacks {
		rights, are := "rights", "are"
		if l.n == 1 {
			rights, are = "right", "is"
		}
		fmt.Fprintf(&b, " GitLab gives you %d %s that %s not in the cluster yet%s", l.n, rights, are, l.why.why())
	}
	return b.String()
}

// maxAsked is how many people a sentence names.
const maxAsked = 3

// ask names members with one of these levels, as " (ask alice, dave)": first those with the strongest role, then those
// who are members of the source itself. Who has the right in GitLab alone can't help.
func (r *refusal) ask(id SourceID, able []Level, frozen Frozen) string {
	type contact struct {
		weaker, far bool
		name        string
	}
	rank := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	_, gap := r.v.gaps[id]
	contacts := make([]contact, 0, maxAsked+1)
	for _, a := range NewResolver(r.v.Snapshot, r.now).Members(id).list {
		if !slices.Contains(able, a.level) {
			continue
		}
		u, ok := r.v.Snapshot.Users[a.user]
		if !ok || !r.v.Policy.MayHaveRights(u) {
			continue
		}
		if gap && !slices.ContainsFunc(r.v.rolesOf(id, a.level, frozen), func(role string) bool {
			return r.allow(role) == Yes && r.v.absent(id, role, a.user) == ""
		}) {
			continue
		}
		contacts = append(contacts, contact{r.v.Policy.RoleIn(r.v.Snapshot, id, a.level) != r.v.Policy.roles[0].ClusterRole, a.row != refOf(id), clean(u.Username)})
		slices.SortFunc(contacts, func(a, b contact) int {
			return cmp.Or(cmp.Compare(rank(a.weaker), rank(b.weaker)), cmp.Compare(rank(a.far), rank(b.far)), cmp.Compare(a.name, b.name))
		})
		contacts = contacts[:min(len(contacts), maxAsked)]
	}
	if len(contacts) == 0 {
		return ""
	}
	for _, p := range contacts {
		r.asked = append(r.asked, p.name)
	}
	return " (ask " + strings.Join(r.asked, ", ") + ")"
}

// given is what GitLab gives somebody that would allow, or could allow, what was refused.
type given struct {
	roles []string
	sure  bool // they allow it; else that is not known
	why   Absence
}

// unfulfilled returns what of these ClusterRoles would allow the request if it were in the cluster; no roles: nothing.
// Those that are read and allow it come before those that are not read.
func (r *refusal) unfulfilled(roles []string, absent func(role string) Absence) given {
	var out given
	there := false // one of them is in the cluster: that another one is not is no reason
	for _, want := range []Verdict{Yes, Unknown} {
		for _, role := range roles {
			why := absent(role)
			if r.allow(role) != want || (want == Unknown && why == "") {
				continue // who has a role and is refused has one that does not allow it, also where its rules were not read
			}
			there = there || why == ""
			out.roles, out.sure, out.why = append(out.roles, role), want == Yes, cmp.Or(out.why, why)
		}
		if len(out.roles) > 0 {
			break
		}
	}
	if there {
		out.why = ""
	}
	return out
}

// say completes "GitLab gives you … here".
func (g given) say(r *refusal, id SourceID) string {
	switch {
	case g.sure && r.q.Verb != "":
		return fmt.Sprintf(", which allows %s, but %s", r.q.what(), r.v.notYet(id, g.why))
	case g.why == AbsentUnknown:
		return fmt.Sprintf("; whether it allows %s, and is in the cluster yet, is not known here. Try again in a minute, then ask the cluster's administrators.", r.q.what())
	}
	return ", but " + r.v.notYet(id, g.why)
}

// ci explains a refusal to the CI of a namespace, in that namespace: to the jobs of a project, or (0) to the ServiceAccount.
func (r *refusal) ci(ns string, project int64) string {
	id, managed := r.v.Source[ns]
	ns = clean(ns)
	if !managed {
		return fmt.Sprintf("the CI of namespace %q has no right there to %s, or the cluster does not have it yet. Ask the cluster's administrators.", ns, r.q.what())
	}
	switch src, ok := r.v.Policy.Source(r.v.Snapshot, id); {
	case !ok:
		return fmt.Sprintf("namespace %q is excluded by this cluster's configuration. Ask the cluster's administrators.", ns)
	case src.ReadOnly:
		return fmt.Sprintf("namespace %q belongs to something that is archived or marked for deletion in GitLab: its CI has no rights meanwhile.", ns)
	}
	g := r.unfulfilled([]string{kubename.CIClusterRole}, func(string) Absence { return r.v.absent(id, "", project) })
	if len(g.roles) > 0 {
		return fmt.Sprintf("the CI of namespace %q should have %s there%s", ns, quoted(g.roles), g.say(r, id))
	}
	return fmt.Sprintf("the CI of namespace %q may read, change and delete everything there, but not do this (%s).", ns, r.q.what())
}

// levels lists names of levels: "Developer, Maintainer or Owner".
func levels(list []Level) string {
	names := make([]string, 0, len(list))
	for _, l := range list {
		names = append(names, l.String())
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// quoted lists ClusterRoles.
func quoted(roles []string) string {
	if len(roles) == 1 {
		return fmt.Sprintf("ClusterRole %q", roles[0])
	}
	return fmt.Sprintf("ClusterRoles %q", roles)
}

// clean makes what GitLab users wrote fit for a terminal: printable, on one line, of bounded length.
func clean(s string) string {
	const limit = 120
	out := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(out); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return out
}
