package authz

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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
}

// PolicyConfig is what a Policy is made of.
type PolicyConfig struct {
	// Roles from the strongest to the weakest. The last one is what people keep in an archived project.
	Roles []Role
	// Kinds are the kinds of GitLab objects that get a namespace.
	Kinds []SourceKind
	// Bots gives rights to access-token users and service accounts too, not only to people.
	Bots bool
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
	return p, errors.Join(errs...)
}

// ClusterRoles returns the ClusterRoles that the policy can grant, strongest first.
func (p Policy) ClusterRoles() []string {
	names := make([]string, 0, len(p.roles))
	for _, r := range p.roles {
		names = append(names, r.ClusterRole)
	}
	return names
}

// Source is a GitLab object that gets a namespace.
type Source struct {
	ID        SourceID
	Path      string
	CreatedAt time.Time
}

// Sources returns what gets a namespace, sorted by SourceID: the groups, the projects and the personal
// namespaces of active people, as far as the policy includes their kind.
func (p Policy) Sources(s *Snapshot) []Source {
	var out []Source
	if p.kinds[GroupSource] {
		for _, g := range s.Groups {
			out = append(out, Source{Group(g.ID), g.Path, g.CreatedAt})
		}
	}
	if p.kinds[ProjectSource] {
		for _, pr := range s.Projects {
			out = append(out, Source{Project(pr.ID), pr.Path, pr.CreatedAt})
		}
	}
	if p.kinds[UserSource] {
		for _, u := range s.Users {
			if p.mayHaveRights(u) {
				out = append(out, Source{Person(u.ID), u.Username, u.CreatedAt})
			}
		}
	}
	slices.SortFunc(out, func(a, b Source) int { return a.ID.Compare(b.ID) })
	return out
}

// mayHaveRights is an allow-list: an unknown state or an unknown kind of account gets nothing.
func (p Policy) mayHaveRights(u User) bool { return u.State == StateActive && (u.Human || p.withBots) }

// Grants returns every right in every source that gets a namespace, sorted by source, role (strongest first) and
// user, and what an administrator should know. It judges the Snapshot as it is: the caller leaves alone what
// Untouchable names.
func (p Policy) Grants(s *Snapshot, now time.Time) ([]Grant, []Finding) {
	r := newResolver(s, now)
	rank := map[string]int{}
	for i, role := range p.roles {
		rank[role.ClusterRole] = i
	}
	var grants []Grant
	var findings []Finding
	for _, src := range p.Sources(s) {
		first := len(grants)
		for _, a := range r.of(src.ID) {
			if u, ok := s.Users[a.User]; !ok || !p.mayHaveRights(u) {
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
		slices.SortFunc(grants[first:], func(a, b Grant) int {
			return cmp.Or(cmp.Compare(rank[a.ClusterRole], rank[b.ClusterRole]), cmp.Compare(a.User, b.User))
		})
	}
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.Text, b.Text))
	})
	return grants, findings
}

// roleIn returns the ClusterRole of a level in a source, or "". Nobody may change what GitLab has archived or
// is about to delete: there the weakest role is what remains.
func (p Policy) roleIn(s *Snapshot, id SourceID, l Level) string {
	role := p.byLevel[l]
	if role != "" && frozen(s, id) {
		return p.roles[len(p.roles)-1].ClusterRole
	}
	return role
}

// frozen reports whether the source is archived or marked for deletion, itself or through an ancestor.
func frozen(s *Snapshot, id SourceID) bool {
	switch id.Kind {
	case GroupSource:
		g := s.Groups[id.ID]
		return g.Archived || g.MarkedForDeletion
	case ProjectSource:
		p := s.Projects[id.ID]
		return p.Archived || p.MarkedForDeletion
	case UserSource:
	}
	return false
}
