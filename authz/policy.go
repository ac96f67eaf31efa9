package authz

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Role says which GitLab access levels stand for a ClusterRole. The levels are an explicit set, not a minimum:
// GitLab's levels are not cumulative everywhere, and it adds new ones.
type Role struct {
	ClusterRole string
	Levels      []Level
}

// Policy says what a GitLab role means in the cluster. Make one with NewPolicy; it is not changed afterwards.
type Policy struct {
	roles    []Role
	byLevel  map[Level]string
	kinds    map[SourceKind]bool
	withBots bool
	exclude  filter
	extra    []Extra
	archived Frozen
	marked   Frozen
}

// Frozen says what becomes of rights in a group or project that GitLab has archived or is about to delete.
type Frozen string

// What can become of them.
const (
	FrozenView Frozen = "view" // everybody keeps the weakest role: nobody can change anything (default)
	FrozenNone Frozen = "none" // nobody keeps a right
	FrozenKeep Frozen = "keep" // as if nothing had happened
)

// PolicyConfig is what a Policy is made of.
type PolicyConfig struct {
	// Roles from the strongest to the weakest. The last one is what people keep in an archived project.
	Roles []Role
	// Kinds are the kinds of GitLab objects that get a namespace.
	Kinds []SourceKind
	// Bots gives rights to access-token users and service accounts too, not only to people.
	Bots bool
	// Exclude says what is left out.
	Exclude Filter
	// Extra mappings give further ClusterRoles in single sources.
	Extra []Extra
	// Archived and MarkedForDeletion say what rights are left there; default FrozenView.
	Archived, MarkedForDeletion Frozen
}

// DefaultRoles maps Owner and Maintainer to edit and Developer to view.
func DefaultRoles() []Role {
	return []Role{
		{ClusterRole: "edit", Levels: []Level{Maintainer, Owner}},
		{ClusterRole: "view", Levels: []Level{Developer}},
	}
}

// NewPolicy checks a PolicyConfig and returns all of its faults at once.
func NewPolicy(c PolicyConfig) (Policy, error) {
	p := Policy{roles: slices.Clone(c.Roles), byLevel: map[Level]string{}, kinds: map[SourceKind]bool{}, withBots: c.Bots}
	var errs []error
	if len(c.Roles) == 0 {
		errs = append(errs, errors.New("roles: at least one role is needed"))
	}
	seen := map[string]bool{}
	for i, r := range c.Roles {
		if r.ClusterRole == "" {
			errs = append(errs, fmt.Errorf("roles[%d]: clusterRole is empty", i))
		}
		if seen[r.ClusterRole] {
			errs = append(errs, fmt.Errorf("roles[%d]: ClusterRole %q appears twice", i, r.ClusterRole))
		}
		seen[r.ClusterRole] = true
		for _, l := range r.Levels {
			if !l.Known() || l <= MinimalAccess {
				errs = append(errs, fmt.Errorf("roles[%d]: %s can't be mapped to a role", i, l))
			}
			if other, ok := p.byLevel[l]; ok {
				errs = append(errs, fmt.Errorf("roles[%d]: %s is mapped to %q already", i, l, other))
			}
			p.byLevel[l] = r.ClusterRole
		}
	}
	for _, k := range c.Kinds {
		switch k {
		case GroupSource, ProjectSource, UserSource:
			p.kinds[k] = true
		default:
			errs = append(errs, fmt.Errorf("kinds: unknown kind %q: want group, project or user", k))
		}
	}
	for _, f := range []struct {
		name string
		from Frozen
		to   *Frozen
	}{{"archived", c.Archived, &p.archived}, {"markedForDeletion", c.MarkedForDeletion, &p.marked}} {
		switch f.from {
		case FrozenView, FrozenNone, FrozenKeep, "":
			*f.to = cmp.Or(f.from, FrozenView)
		default:
			errs = append(errs, fmt.Errorf("%s: want view, none or keep, not %q", f.name, f.from))
		}
	}
	var err error
	if p.exclude, err = newFilter(c.Exclude); err != nil {
		errs = append(errs, err)
	}
	p.extra = slices.Clone(c.Extra)
	for i, e := range p.extra {
		if err := e.check(); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				errs = append(errs, fmt.Errorf("extra[%d]: %s", i, line))
			}
		}
	}
	return p, errors.Join(errs...)
}

// BaseRoles returns the ClusterRoles of the levels, strongest first. Every namespace has a binding of each.
func (p Policy) BaseRoles() []string {
	names := make([]string, 0, len(p.roles))
	for _, r := range p.roles {
		names = append(names, r.ClusterRole)
	}
	return names
}

// FurtherRoles returns the ClusterRoles that only extra mappings grant.
func (p Policy) FurtherRoles() []string {
	var names []string
	for _, e := range p.extra {
		if !slices.Contains(names, e.ClusterRole) && !slices.ContainsFunc(p.roles, func(r Role) bool { return r.ClusterRole == e.ClusterRole }) {
			names = append(names, e.ClusterRole)
		}
	}
	return names
}

// ClusterRoles returns every ClusterRole that the policy can grant: BaseRoles, then FurtherRoles.
func (p Policy) ClusterRoles() []string { return append(p.BaseRoles(), p.FurtherRoles()...) }

// Untouchable is the function of that name, and knows that extra mappings hang on a group as well.
func (p Policy) Untouchable(s *Snapshot) map[SourceID]string {
	out := Untouchable(s)
	u := untouchable{snap: s, groups: map[int64]string{}}
	for _, e := range p.extra {
		if _, known := s.Groups[e.Group]; e.Group == 0 || (!known && s.Missing[Group(e.Group)] == "") {
			continue // a group that is gone from GitLab is a finding, and gives nothing
		}
		why := u.group(e.Group)
		if why == "" {
			continue
		}
		for _, src := range p.Sources(s) {
			if out[src.ID] == "" && e.covers(s, src.ID) {
				out[src.ID] = why
			}
		}
	}
	return out
}

// Source is a GitLab object that gets a namespace.
type Source struct {
	ID        SourceID
	Path      string
	CreatedAt time.Time
	// ReadOnly is set when nobody may change anything there: its CI gets no rights either.
	ReadOnly bool
}

// Sources returns what gets a namespace, sorted by SourceID: the groups, the projects and the personal
// namespaces of active people, as far as the policy includes their kind and does not leave them out.
func (p Policy) Sources(s *Snapshot) []Source {
	var out []Source
	if p.kinds[GroupSource] {
		for _, g := range s.Groups {
			if !p.exclude.group(s, g.ID) {
				out = append(out, Source{Group(g.ID), g.Path, g.CreatedAt, p.frozen(s, Group(g.ID)) != FrozenKeep})
			}
		}
	}
	if p.kinds[ProjectSource] {
		for _, pr := range s.Projects {
			if !p.exclude.project(s, pr) {
				out = append(out, Source{Project(pr.ID), pr.Path, pr.CreatedAt, p.frozen(s, Project(pr.ID)) != FrozenKeep})
			}
		}
	}
	if p.kinds[UserSource] {
		for _, u := range s.Users {
			if p.mayHaveRights(u) {
				out = append(out, Source{Person(u.ID), u.Username, u.CreatedAt, false})
			}
		}
	}
	slices.SortFunc(out, func(a, b Source) int { return a.ID.Compare(b.ID) })
	return out
}

// mayHaveRights is an allow-list: an unknown state or an unknown kind of account gets nothing.
func (p Policy) mayHaveRights(u User) bool {
	return u.State == StateActive && (u.Human || p.withBots) && !p.exclude.person(u)
}

// Grants returns every right in every source that gets a namespace, sorted by source, role (strongest first) and
// user, and what an administrator should know. It judges the Snapshot as it is: the caller leaves alone what
// Untouchable names.
func (p Policy) Grants(s *Snapshot, now time.Time) ([]Grant, []Finding) {
	r := newResolver(s, now)
	rank := map[string]int{}
	for i, role := range p.ClusterRoles() {
		rank[role] = i
	}
	may := make(map[int64]bool, len(s.Users))
	for id, u := range s.Users {
		may[id] = p.mayHaveRights(u)
	}
	var grants []Grant
	var findings []Finding
	for _, e := range p.extra {
		findings = append(findings, e.findings(s)...)
	}
	for _, src := range p.Sources(s) {
		first := len(grants)
		for _, a := range r.of(src.ID) {
			if !may[a.User] {
				continue
			}
			if !a.Level.Known() {
				findings = append(findings, Finding{
					"unknown_level", src.ID,
					fmt.Sprintf("gitlab user %d has access level %d in %s, which this program does not know: no right is given", a.User, a.Level, src.ID),
				})
				continue
			}
			if role := p.roleIn(s, src.ID, a.Level); role != "" {
				grants = append(grants, Grant{Source: src.ID, ClusterRole: role, Access: a})
			}
		}
		for _, e := range p.extra {
			if src.ReadOnly || !e.covers(s, src.ID) {
				continue
			}
			for _, a := range e.of(r, src.ID) {
				if may[a.User] {
					grants = append(grants, Grant{Source: src.ID, ClusterRole: e.ClusterRole, Access: a})
				}
			}
		}
		own := grants[first:]
		slices.SortFunc(own, func(a, b Grant) int {
			return cmp.Or(cmp.Compare(rank[a.ClusterRole], rank[b.ClusterRole]), cmp.Compare(a.User, b.User), cmp.Compare(b.Level, a.Level), a.Why.compare(b.Why))
		})
		if len(p.extra) > 0 { // two mappings may give one right
			own = slices.CompactFunc(own, func(a, b Grant) bool { return a.ClusterRole == b.ClusterRole && a.User == b.User })
			grants = grants[:first+len(own)]
		}
	}
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.Text, b.Text))
	})
	return grants, findings
}

// roleIn returns the ClusterRole of a level in a source, or "". Nobody may change what GitLab has archived or
// is about to delete, unless configured otherwise: there the weakest role is what remains.
func (p Policy) roleIn(s *Snapshot, id SourceID, l Level) string {
	role := p.byLevel[l]
	if role == "" {
		return ""
	}
	switch p.frozen(s, id) {
	case FrozenView:
		return p.roles[len(p.roles)-1].ClusterRole
	case FrozenNone:
		return ""
	case FrozenKeep:
	}
	return role
}

// frozen returns what rights are left in a source. Of a source that is both archived and marked for deletion,
// itself or through an ancestor, the stricter rule counts.
func (p Policy) frozen(s *Snapshot, id SourceID) Frozen {
	var archived, marked bool
	switch id.Kind {
	case GroupSource:
		g := s.Groups[id.ID]
		archived, marked = g.Archived, g.MarkedForDeletion
	case ProjectSource:
		pr := s.Projects[id.ID]
		archived, marked = pr.Archived, pr.MarkedForDeletion
	case UserSource:
	}
	rules := [2]Frozen{FrozenKeep, FrozenKeep}
	if archived {
		rules[0] = p.archived
	}
	if marked {
		rules[1] = p.marked
	}
	for _, strict := range []Frozen{FrozenNone, FrozenView} {
		if slices.Contains(rules[:], strict) {
			return strict
		}
	}
	return FrozenKeep
}
