package authz

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role says which GitLab access levels stand for a ClusterRole. The levels are an explicit set, not a minimum:
// GitLab's levels are not cumulative everywhere, and it adds new ones.
type Role struct {
	ClusterRole string
	Levels      []Level
}

// Policy says what a GitLab role means in the cluster. Make one with NewPolicy; it is not changed afterwards.
type Policy struct {
	config   PolicyConfig
	roles    []Role
	byLevel  []string // the ClusterRole of each level that has a name, by its number
	kinds    map[SourceKind]bool
	withBots bool
	exclude  filter
	extra    []ExtraRole
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
	Extra []ExtraRole
	// Archived and MarkedForDeletion say what rights are left there; default DefaultFrozen.
	Archived, MarkedForDeletion Frozen
}

// DefaultFrozen is what is left where PolicyConfig says nothing of it.
const DefaultFrozen = FrozenView

// DefaultRoles maps Owner and Maintainer to edit and Developer to view. The configuration's default is this.
func DefaultRoles() []Role {
	return []Role{
		{ClusterRole: "edit", Levels: []Level{Maintainer, Owner}},
		{ClusterRole: "view", Levels: []Level{Developer}},
	}
}

// NewPolicy checks a PolicyConfig and returns all of its faults at once.
func NewPolicy(c PolicyConfig) (Policy, error) {
	p := Policy{config: c, roles: slices.Clone(c.Roles), byLevel: make([]string, len(levelNames)), kinds: map[SourceKind]bool{}, withBots: c.Bots}
	var errs []error
	if len(c.Roles) == 0 {
		errs = append(errs, errors.New("roles: at least one role is needed"))
	}
	seen, mapped := map[string]bool{}, map[Level]string{}
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
				continue
			}
			if other, ok := mapped[l]; ok {
				errs = append(errs, fmt.Errorf("roles[%d]: %s is mapped to %q already", i, l, other))
			}
			mapped[l], p.byLevel[l] = r.ClusterRole, r.ClusterRole
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
			*f.to = cmp.Or(f.from, DefaultFrozen)
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

// Config returns what the Policy was made of. It must not be changed.
func (p Policy) Config() PolicyConfig { return p.config }

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

// Sources returns what gets a namespace, sorted by SourceID: the groups, the projects and the personal
// namespaces of active people, as far as the policy includes their kind and does not leave them out.
func (p Policy) Sources(s *Snapshot) []Source {
	out := make([]Source, 0, len(s.Groups)+len(s.Projects))
	add := func(id SourceID) {
		if src, ok := p.Source(s, id); ok {
			out = append(out, src)
		}
	}
	for id := range s.Groups {
		add(GroupID(id))
	}
	for id := range s.Projects {
		add(ProjectID(id))
	}
	for id := range s.Users {
		add(UserID(id))
	}
	slices.SortFunc(out, func(a, b Source) int { return a.ID.Compare(b.ID) })
	return out
}

// Source returns one of Sources; false when that source gets no namespace.
func (p Policy) Source(s *Snapshot, id SourceID) (src Source, ok bool) {
	if !p.kinds[id.Kind] {
		return Source{}, false
	}
	src.ID = id
	switch id.Kind {
	case GroupSource:
		g, known := s.Groups[id.ID]
		src.Path, src.CreatedAt, ok = g.Path, g.CreatedAt, known && !p.exclude.group(s, id.ID)
	case ProjectSource:
		pr, known := s.Projects[id.ID]
		src.Path, src.CreatedAt, ok = pr.Path, pr.CreatedAt, known && !p.exclude.project(s, pr)
	case UserSource:
		u, known := s.Users[id.ID]
		src.Path, src.CreatedAt, ok = u.Username, u.CreatedAt, known && p.MayHaveRights(u)
	}
	src.ReadOnly = ok && p.frozen(s, id) != FrozenKeep
	return src, ok
}

// MayHaveRights reports whether an account can have rights at all: active, a person (or bots are allowed), and not left out.
// It is an allow-list: an unknown state or an unknown kind of account gets nothing.
func (p Policy) MayHaveRights(u User) bool {
	return u.State == StateActive && (u.Human || p.withBots) && !p.exclude.user(u)
}

// RoleIn returns the ClusterRole that a level stands for in a source, or "". Nobody may change what GitLab has archived or
// is about to delete, unless configured otherwise: there the weakest role is what remains.
func (p Policy) RoleIn(s *Snapshot, id SourceID, l Level) string {
	return p.roleFor(p.frozen(s, id), l)
}

// mappedTo returns the ClusterRole that authz.roles maps a level to, or "".
func (p Policy) mappedTo(l Level) string {
	if l < 0 || int(l) >= len(p.byLevel) {
		return ""
	}
	return p.byLevel[l]
}

func (p Policy) roleFor(frozen Frozen, l Level) string {
	role := p.mappedTo(l)
	switch {
	case role == "" || frozen == FrozenNone:
		return ""
	case frozen == FrozenView:
		return p.roles[len(p.roles)-1].ClusterRole
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
