package authz

import (
	"fmt"
	"maps"
	"slices"
	"time"
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

// User explains to a GitLab user why a request was refused.
//
// Tenants may ask about anybody in their own namespaces (LocalSubjectAccessReview). So the answer about a namespace is
// made of what the members of its group or project see in GitLab anyway: its path, and its members with their accounts
// and levels. Of somebody who is no member there is one sentence, whoever it is and whether or not the namespace
// exists. Only questions about the whole cluster, which tenants can't ask about others, tell of the person's account
// and other namespaces (docs/adr/0080).
func (v View) User(user int64, q Question, now time.Time) string {
	return (&refusal{v: v, q: q, now: now}).user(user)
}

// user is View.User.
func (r *refusal) user(user int64) string {
	v, q := r.v, r.q
	u, known := v.Snapshot.Users[user]
	src, managed := v.Source[q.Namespace]
	access, member := resolverOf(user, v.Snapshot, r.now).Members(src).Access(user)
	switch {
	case q.Namespace != "" && (!managed || !member || !known):
		return r.because(CodeNoMember, "namespace %q is not one you have a GitLab role in, if it exists. %s", clean(q.Namespace), howToList)
	case !known:
		return r.because(CodeAccountUnknown, "GitLab's rights for your account were not read yet. Try again in a minute.")
	case u.State != StateActive:
		return r.because(CodeAccountInactive, "your GitLab account is %s. Ask an administrator of GitLab.", clean(string(u.State)))
	case v.Policy.exclude.user(u):
		return r.because(CodeAccountExcluded, "your GitLab account is excluded by this cluster's configuration. Ask the cluster's administrators.")
	case !v.Policy.MayHaveRights(u):
		return r.because(CodeNotHuman, "only people get rights here, and your GitLab account is a bot or service account.")
	case q.Namespace == "":
		r.code = CodeClusterWide
		return r.clusterWide(user)
	}
	return r.memberRefused(src, user, access.Level)
}

// howToList ends what is said to somebody who may be in the wrong namespace.
const howToList = `"kubectl get namespaces" is refused too, and lists yours.`

// CIServiceAccount explains a refusal to a job that uses the token of a namespace's CI ServiceAccount. Of another namespace
// than its own it says nothing that the account's name does not.
func (v View) CIServiceAccount(own string, q Question) string {
	if q.Namespace == own {
		return (&refusal{v: v, q: q}).ci(own, 0)
	}
	return fmt.Sprintf("this token belongs to the CI of namespace %q and is good for that namespace alone.", clean(own))
}

// CIJob explains a refusal to a job that authenticated with its ID token. As with User, what it says about a namespace
// depends on that namespace alone.
func (v View) CIJob(project int64, q Question) string {
	own, ok := v.Namespace[ProjectID(project)]
	switch {
	case ok && q.Namespace == own:
		return (&refusal{v: v, q: q}).ci(own, project)
	case q.Namespace != "":
		return fmt.Sprintf("namespace %q is not the one of this job's project, if it exists. %s", clean(q.Namespace), howToList)
	case !ok:
		return fmt.Sprintf("GitLab project %d has no namespace in this cluster.", project)
	}
	return fmt.Sprintf("CI jobs have rights in one namespace only (kubectl -n NAMESPACE …). That of this job's project is %q.%s", clean(own), v.butNothing(ProjectID(project)))
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
		if (e.Group == 0 || GroupID(e.Group) == id) && e.covers(v.Snapshot, id) && e.counts(l) && !slices.Contains(out, e.ClusterRole) {
			out = append(out, e.ClusterRole)
		}
	}
	return out
}
