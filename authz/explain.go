package authz

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// View is what an explanation is made from: one Snapshot with the namespaces of its round. It is not changed after
// NewView or With made it.
type View struct {
	Snapshot  *Snapshot
	Policy    Policy
	Namespace map[SourceID]string
	Source    map[string]SourceID // the reverse of Namespace
}

// NewView indexes one round.
func NewView(s *Snapshot, p Policy, namespace map[SourceID]string) View {
	v := View{Snapshot: s, Policy: p, Namespace: namespace, Source: make(map[string]SourceID, len(namespace))}
	for src, ns := range namespace {
		v.Source[ns] = src
	}
	return v
}

// With returns the View with a later Snapshot and the same namespaces.
func (v View) With(s *Snapshot) View {
	v.Snapshot = s
	return v
}

// Question is a refused request, as far as an explanation needs it.
type Question struct {
	Namespace string // empty for cluster-wide requests
	Verb      string
	Resource  string // plural, lower case; empty for a non-resource request
}

// reads are the verbs for which view is enough.
var reads = []string{"get", "list", "watch"}

// Person explains to a GitLab user why a request was refused. Paths and people of a source are told only to
// somebody who has some membership in it; everybody else gets one sentence, which is the same for a namespace
// that does not exist, so that nothing can be learned by asking.
func (v View) Person(user int64, q Question, now time.Time) string {
	u, known := v.Snapshot.Users[user]
	switch {
	case !known:
		return "GitLab's rights for your account were not read yet. Try again in a minute."
	case u.State != StateActive:
		return fmt.Sprintf("your GitLab account is %s. Ask an administrator of GitLab.", clean(string(u.State)))
	case v.Policy.exclude.person(u):
		return "your GitLab account is left out here by configuration. Ask the cluster's administrators."
	case !v.Policy.mayHaveRights(u):
		return "only people get rights here, and your GitLab account is a bot or service account."
	case q.Namespace == "":
		return v.clusterWide(user, q, now)
	}
	src, managed := v.Source[q.Namespace]
	access, member := accessOf(v.Snapshot, src, user, now)
	if !managed || !member {
		return fmt.Sprintf("namespace %q is not one you have a GitLab role in, if it exists. %s", clean(q.Namespace), v.yours(user, now))
	}
	return v.memberRefused(src, access, q, now)
}

// CIServiceAccount explains a refusal to a job that uses the token of a namespace's CI ServiceAccount.
func (v View) CIServiceAccount(own string, q Question) string {
	if q.Namespace == own {
		return fmt.Sprintf("the CI ServiceAccount may read, change and delete everything in namespace %q, but not do this (%s %s).",
			clean(own), clean(q.Verb), clean(q.Resource))
	}
	return fmt.Sprintf("this token belongs to the CI of namespace %q and is good for that namespace alone.", clean(own))
}

// CIJob explains a refusal to a job that authenticated with its ID token.
func (v View) CIJob(project int64, q Question) string {
	own, ok := v.Namespace[Project(project)]
	if !ok {
		return fmt.Sprintf("GitLab project %d has no namespace in this cluster.", project)
	}
	return v.CIServiceAccount(own, q)
}

// memberRefused speaks to somebody who has a membership in the source, and so may hear its path and people.
func (v View) memberRefused(src SourceID, a Access, q Question, now time.Time) string {
	where := clean(v.path(src))
	role := v.Policy.roleIn(v.Snapshot, src, a.Level)
	strongest := v.Policy.roles[0]
	switch {
	case role == "" && v.Policy.frozen(v.Snapshot, src) == FrozenNone:
		return fmt.Sprintf("%s is archived or marked for deletion in GitLab: nobody has rights there.", where)
	case role == "":
		return fmt.Sprintf("you are %s in %s, which gives no right in the cluster; %s%s.", a.Level, where, v.needs(v.Policy.roles), v.ask(src, now))
	case v.Policy.frozen(v.Snapshot, src) != FrozenKeep:
		return fmt.Sprintf("%s is archived or marked for deletion in GitLab: nobody may change it, you keep %q.", where, role)
	case role == strongest.ClusterRole:
		return fmt.Sprintf("you are %s in %s, which gives the ClusterRole %q in namespace %q, and that does not include %s %s. Ask the cluster's administrators.",
			a.Level, where, role, q.Namespace, clean(q.Verb), clean(q.Resource))
	case slices.Contains(reads, q.Verb):
		return fmt.Sprintf("you are %s in %s, whose ClusterRole %q does not include reading %s; %s%s.",
			a.Level, where, role, clean(q.Resource), v.needs(v.Policy.roles[:1]), v.ask(src, now))
	}
	return fmt.Sprintf("you are %s in %s, which may read; changes need %s%s.", a.Level, where, levels(strongest), v.ask(src, now))
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

// maxListed is how many namespaces or people a sentence names.
const maxListed = 10

// yours lists the namespaces in which the person has a right. It looks for him alone: what that costs does not hang
// on how many rights the others have.
func (v View) yours(user int64, now time.Time) string {
	r := newResolver(v.Snapshot, now)
	r.only = user
	var own []string
	for id, ns := range v.Namespace {
		src, ok := v.Policy.Source(v.Snapshot, id)
		if !ok {
			continue
		}
		v.Policy.each(r, src, func(role string, _ standing) {
			own = append(own, fmt.Sprintf("%s (%s)", ns, role))
		}, func(standing) {})
	}
	if len(own) == 0 {
		return "You have no namespaces yet: ask a Maintainer of your group to add you in GitLab."
	}
	slices.Sort(own)
	return "Your namespaces: " + list(slices.Compact(own)) + "."
}

// ask names people who can do what the asker can't, nearest first, as " (ask alice, dave)".
func (v View) ask(src SourceID, now time.Time) string {
	type contact struct {
		name string
		far  int
	}
	var people []contact
	for a := range Members(v.Snapshot, src, now).All() {
		u, ok := v.Snapshot.Users[a.User]
		if !ok || !v.Policy.mayHaveRights(u) || v.Policy.roleIn(v.Snapshot, src, a.Level) != v.Policy.roles[0].ClusterRole {
			continue
		}
		far := 0
		if a.Why.Row != src {
			far = 1
		}
		people = append(people, contact{clean(u.Username), far})
	}
	slices.SortFunc(people, func(a, b contact) int {
		return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name))
	})
	names := make([]string, 0, len(people))
	for _, p := range people[:min(3, len(people))] {
		names = append(names, p.name)
	}
	if len(names) == 0 {
		return ""
	}
	return " (ask " + strings.Join(names, ", ") + ")"
}

// needs says which levels give anything: "Developer reads (view), Maintainer or Owner changes (edit)".
func (v View) needs(roles []Role) string {
	parts := make([]string, 0, len(roles))
	for _, r := range slices.Backward(roles) {
		parts = append(parts, fmt.Sprintf("%s gives %q", levels(r), r.ClusterRole))
	}
	return strings.Join(parts, ", ")
}

func levels(r Role) string {
	names := make([]string, 0, len(r.Levels))
	for _, l := range slices.Sorted(slices.Values(r.Levels)) {
		names = append(names, l.String())
	}
	return strings.Join(names, " or ")
}

func (v View) path(id SourceID) string {
	switch id.Kind {
	case GroupSource:
		return v.Snapshot.Groups[id.ID].Path
	case ProjectSource:
		return v.Snapshot.Projects[id.ID].Path
	case UserSource:
		return v.Snapshot.Users[id.ID].Username
	}
	return id.String()
}

func list(items []string) string {
	if len(items) <= maxListed {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:maxListed], ", "), len(items)-maxListed)
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
