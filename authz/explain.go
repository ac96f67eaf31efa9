package authz

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// View is what an explanation is made from: one Snapshot with the namespaces of its round, and what the cluster lacks of it. It
// is not changed after NewView, or a method whose name starts with With, made it.
type View struct {
	Snapshot  *Snapshot
	Policy    Policy
	Namespace map[SourceID]string
	Source    map[string]SourceID // the reverse of Namespace

	rules   map[string][]Rule
	gone    map[string]bool  // ClusterRoles that don't exist
	gaps    map[SourceID]Gap // nil: not known
	rank    map[string]int   // of Policy.ClusterRoles
	own     *possessions
	changed map[SourceID]bool // since own was made
}

// NewView indexes one round.
func NewView(s *Snapshot, p Policy, namespace map[SourceID]string) View {
	v := View{Snapshot: s, Policy: p, Namespace: namespace, Source: make(map[string]SourceID, len(namespace)), rank: map[string]int{}, own: &possessions{}}
	for src, ns := range namespace {
		v.Source[ns] = src
	}
	for i, role := range p.ClusterRoles() {
		v.rank[role] = i
	}
	return v
}

// With returns the View with a later Snapshot and the same namespaces. changed are the sources in which rights can
// differ, at least (Policy.Affected).
func (v View) With(s *Snapshot, changed map[SourceID]bool) View {
	v.Snapshot = s
	return v.since(changed)
}

// since notes in which sources rights can differ from those of the View before.
func (v View) since(changed map[SourceID]bool) View {
	if len(v.changed)+len(changed) > maxChanged || !v.own.made() {
		v.own, v.changed = &possessions{}, nil
		return v
	}
	both := maps.Clone(changed)
	maps.Copy(both, v.changed)
	v.changed = both
	return v
}

// WithRules returns the View with what the ClusterRoles allow. One that is missing there was not read yet, and nothing is
// promised of it.
func (v View) WithRules(rules map[string][]Rule) View {
	v.rules = rules
	return v
}

// Person explains to a GitLab user why a request was refused.
//
// Tenants may ask about anybody in their own namespaces (LocalSubjectAccessReview). So the answer about a namespace is
// made of what the members of its group or project see in GitLab anyway: its path, and its members with their accounts
// and levels. Of somebody who is no member there is one sentence, whoever it is and whether or not the namespace
// exists. Only questions about the whole cluster, which tenants can't ask about others, tell of the person's account
// and other namespaces (docs/adr/0080).
func (v View) Person(user int64, q Question, now time.Time) string {
	u, known := v.Snapshot.Users[user]
	src, managed := v.Source[q.Namespace]
	access, member := resolverOf(user, v.Snapshot, now).Members(src).Access(user)
	switch {
	case q.Namespace != "" && (!managed || !member || !known):
		return fmt.Sprintf("namespace %q is not one you have a GitLab role in, if it exists. %s", clean(q.Namespace), howToList)
	case !known:
		return "GitLab's rights for your account were not read yet. Try again in a minute."
	case u.State != StateActive:
		return fmt.Sprintf("your GitLab account is %s. Ask an administrator of GitLab.", clean(string(u.State)))
	case v.Policy.exclude.person(u):
		return "your GitLab account is left out here by configuration. Ask the cluster's administrators."
	case !v.Policy.MayHaveRights(u):
		return "only people get rights here, and your GitLab account is a bot or service account."
	case q.Namespace == "":
		return v.clusterWide(user, q, now)
	}
	return v.memberRefused(src, user, access.Level, q, now)
}

// howToList ends what is said to somebody who may be in the wrong namespace.
const howToList = `"kubectl get namespaces" is refused too, and lists yours.`

// CIServiceAccount explains a refusal to a job that uses the token of a namespace's CI ServiceAccount. Of another namespace
// than its own it says nothing that the account's name does not.
func (v View) CIServiceAccount(own string, q Question) string {
	if q.Namespace == own {
		return v.ci(own, 0, q)
	}
	return fmt.Sprintf("this token belongs to the CI of namespace %q and is good for that namespace alone.", clean(own))
}

// CIJob explains a refusal to a job that authenticated with its ID token. As with Person, what it says about a namespace
// hangs on that namespace alone.
func (v View) CIJob(project int64, q Question) string {
	own, ok := v.Namespace[Project(project)]
	switch {
	case ok && q.Namespace == own:
		return v.ci(own, project, q)
	case q.Namespace != "":
		return fmt.Sprintf("namespace %q is not the one of this job's project, if it exists. %s", clean(q.Namespace), howToList)
	case !ok:
		return fmt.Sprintf("GitLab project %d has no namespace in this cluster.", project)
	}
	return fmt.Sprintf("CI jobs have rights in one namespace only (kubectl -n NAMESPACE …). That of this job's project is %q.%s", clean(own), v.butNothing(Project(project)))
}

// memberRefused speaks to somebody who is a member of the source, and so may hear its path and people.
func (v View) memberRefused(id SourceID, user int64, level Level, q Question, now time.Time) string {
	path, _ := v.Snapshot.Path(id)
	where := clean(path)
	frozen := v.Policy.frozen(v.Snapshot, id)
	src, ok := v.Policy.Source(v.Snapshot, id)
	switch {
	case !ok:
		return fmt.Sprintf("%s is left out here by configuration. Ask the cluster's administrators.", where)
	case frozen == FrozenNone:
		return fmt.Sprintf("%s is archived or marked for deletion in GitLab: nobody has rights there.", where)
	}
	roles := v.rolesOf(src.ID, level, frozen)
	g := v.unfulfilled(roles, q, func(role string) Absence { return v.absent(src.ID, role, user) })
	if len(g.roles) > 0 {
		return fmt.Sprintf("GitLab gives you %s here (you are %s in %s)%s", quoted(g.roles), level, where, g.say(v, src.ID, q))
	}
	you := fmt.Sprintf("you are %s in %s, which gives no right in the cluster", level, where)
	if len(roles) > 0 {
		you = fmt.Sprintf("you are %s in %s (%s)", level, where, quoted(roles))
	}
	able, known := v.able(src.ID, frozen, q)
	if len(able) > 0 {
		return fmt.Sprintf("%s; %s needs %s%s.%s", you, q.what(), levels(able), v.ask(src.ID, able, frozen, q, now), v.butNothing(src.ID))
	}
	if frozen != FrozenKeep && known {
		if later, _ := v.able(src.ID, FrozenKeep, q); len(later) > 0 {
			return fmt.Sprintf("%s, and that is archived or marked for deletion in GitLab: nobody may %s there meanwhile.", you, q.what())
		}
	}
	if !known {
		return fmt.Sprintf("%s, and that does not allow %s.", you, q.what())
	}
	return fmt.Sprintf("%s; no GitLab role there allows %s. Ask the cluster's administrators.", you, q.what())
}

// rolesOf returns the ClusterRoles that a level gives in a source. What extra mappings give to the members of other groups
// is not in it: who is in those is not for the members of this source to know.
func (v View) rolesOf(id SourceID, l Level, frozen Frozen) []string {
	var out []string
	if role := v.Policy.roleFor(frozen, l); role != "" {
		out = append(out, role)
	}
	if frozen != FrozenKeep {
		return out
	}
	for _, e := range v.Policy.extra {
		if (e.Group == 0 || Group(e.Group) == id) && e.covers(v.Snapshot, id) && e.counts(l) && !slices.Contains(out, e.ClusterRole) {
			out = append(out, e.ClusterRole)
		}
	}
	return out
}

// verdict is what ClusterRoles say to a request.
type verdict int

const (
	no verdict = iota
	unknown
	yes
)

// allow reports whether one of the ClusterRoles allows the request.
func (v View) allow(roles []string, q Question) verdict {
	out := no
	for _, role := range roles {
		rules, read := v.rules[role]
		if !read {
			out = max(out, unknown)
		}
		if slices.ContainsFunc(rules, func(r Rule) bool { return r.Allows(q) }) {
			return yes
		}
	}
	return out
}

// able returns the levels in a source that allow the request, ascending. known is false if there may be others.
func (v View) able(id SourceID, frozen Frozen, q Question) (able []Level, known bool) {
	known = true
	for _, l := range slices.Sorted(maps.Keys(levelNames)) {
		if l <= MinimalAccess || (id.Kind == UserSource && l != Owner) {
			continue
		}
		switch v.allow(v.rolesOf(id, l, frozen), q) {
		case yes:
			able = append(able, l)
		case unknown:
			known = false
		case no:
		}
	}
	return able, known
}

// clusterWide answers requests outside any namespace; a refused list of namespaces names the asker's own.
func (v View) clusterWide(user int64, q Question, now time.Time) string {
	if q.Resource == "namespaces" && q.Verb != "create" {
		return "nobody can list all namespaces. " + v.yours(user, now)
	}
	if q.Resource == "namespaces" {
		return "namespaces are made from GitLab: create a group or project there, and its namespace appears. " + v.yours(user, now)
	}
	return "your GitLab roles give rights inside namespaces only (kubectl -n NAMESPACE …). " + v.yours(user, now)
}

// maxListed is how many namespaces a sentence names: more than most people have, and still no flood.
const maxListed = 100

// yours lists the namespaces in which the person has a right in the cluster, by role, and says of how many rights GitLab gives
// them that are not there yet.
func (v View) yours(user int64, now time.Time) string {
	p := v.possessions(user, now, maxListed)
	if p.all == 0 && len(p.lacks) == 0 {
		return "You have no namespaces yet: ask a Maintainer of your group to add you in GitLab."
	}
	var b strings.Builder
	switch {
	case p.all == 0:
		b.WriteString("You have no namespaces in the cluster yet")
	case v.gaps == nil:
		b.WriteString("Your namespaces, if they are in the cluster already: ")
	default:
		b.WriteString("Your namespaces: ")
	}
	names := v.Policy.ClusterRoles()
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
func (v View) ask(id SourceID, able []Level, frozen Frozen, q Question, now time.Time) string {
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
	_, gap := v.gaps[id]
	people := make([]contact, 0, maxAsked+1)
	for _, a := range NewResolver(v.Snapshot, now).Members(id).list {
		if !slices.Contains(able, a.level) {
			continue
		}
		u, ok := v.Snapshot.Users[a.user]
		if !ok || !v.Policy.MayHaveRights(u) {
			continue
		}
		if gap && !slices.ContainsFunc(v.rolesOf(id, a.level, frozen), func(role string) bool {
			return v.allow([]string{role}, q) == yes && v.absent(id, role, a.user) == ""
		}) {
			continue
		}
		people = append(people, contact{v.Policy.RoleIn(v.Snapshot, id, a.level) != v.Policy.roles[0].ClusterRole, a.row != refOf(id), clean(u.Username)})
		slices.SortFunc(people, func(a, b contact) int {
			return cmp.Or(cmp.Compare(rank(a.weaker), rank(b.weaker)), cmp.Compare(rank(a.far), rank(b.far)), cmp.Compare(a.name, b.name))
		})
		people = people[:min(len(people), maxAsked)]
	}
	if len(people) == 0 {
		return ""
	}
	names := make([]string, 0, len(people))
	for _, p := range people {
		names = append(names, p.name)
	}
	return " (ask " + strings.Join(names, ", ") + ")"
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
