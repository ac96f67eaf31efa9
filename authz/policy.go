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
	config   PolicyConfig
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
	p := Policy{config: c, roles: slices.Clone(c.Roles), byLevel: map[Level]string{}, kinds: map[SourceKind]bool{}, withBots: c.Bots}
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
	out := make([]Source, 0, len(s.Groups)+len(s.Projects))
	add := func(id SourceID) {
		if src, ok := p.Source(s, id); ok {
			out = append(out, src)
		}
	}
	for id := range s.Groups {
		add(Group(id))
	}
	for id := range s.Projects {
		add(Project(id))
	}
	for id := range s.Users {
		add(Person(id))
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
		src.Path, src.CreatedAt, ok = u.Username, u.CreatedAt, known && p.mayHaveRights(u)
	}
	src.ReadOnly = ok && p.frozen(s, id) != FrozenKeep
	return src, ok
}

// mayHaveRights is an allow-list: an unknown state or an unknown kind of account gets nothing.
func (p Policy) mayHaveRights(u User) bool {
	return u.State == StateActive && (u.Human || p.withBots) && !p.exclude.person(u)
}

// Grants returns the rights in these sources (Sources, or a part of them), sorted by source and role (strongest
// first), and what an administrator should know. It judges the Snapshot as it is: the caller leaves alone what
// Untouchable names.
func (p Policy) Grants(s *Snapshot, sources []Source, now time.Time) ([]Grant, []Finding) {
	r := newResolver(s, now)
	roles := p.ClusterRoles()
	rank := make(map[string]int, len(roles))
	for i, role := range roles {
		rank[role] = i
	}
	may := make(map[int64]bool, len(s.Users))
	for id, u := range s.Users {
		if p.mayHaveRights(u) {
			may[id] = true
		}
	}
	var findings []Finding
	for _, e := range p.extra {
		findings = append(findings, e.findings(s)...)
	}
	grants := make([]Grant, 0, len(sources)*len(p.roles))
	users := make([][]int64, len(roles))
	for _, src := range sources {
		for i := range users {
			users[i] = users[i][:0]
		}
		p.each(r, src, func(role string, a standing) {
			if may[a.user] {
				users[rank[role]] = append(users[rank[role]], a.user)
			}
		}, func(a standing) {
			if may[a.user] {
				findings = append(findings, Finding{
					"unknown_level", src.ID,
					fmt.Sprintf("gitlab user %d has access level %d in %s, which this program does not know: no right is given", a.user, a.level, src.ID),
				})
			}
		})
		for i, list := range users {
			if len(list) > 0 {
				grants = append(grants, Grant{src.ID, roles[i], unique(list)})
			}
		}
	}
	slices.SortFunc(grants, func(a, b Grant) int { return a.compare(b, rank) })
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.Text, b.Text))
	})
	return grants, findings
}

// unique returns a copy in order, each number once: two mappings may give one right.
func unique(list []int64) []int64 {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

// each calls give for every role that somebody gets in a source, whatever his account, and unknown for levels that
// this program does not know.
func (p Policy) each(r *resolver, src Source, give func(role string, a standing), unknown func(a standing)) {
	frozen := p.frozen(r.snap, src.ID)
	for _, a := range r.of(src.ID) {
		if !a.level.Known() {
			unknown(a)
			continue
		}
		if role := p.roleFor(frozen, a.level); role != "" {
			give(role, a)
		}
	}
	if src.ReadOnly {
		return
	}
	for _, e := range p.extra {
		if !e.covers(r.snap, src.ID) {
			continue
		}
		for _, a := range e.of(r, src.ID) {
			give(e.ClusterRole, a)
		}
	}
}

// roleIn returns the ClusterRole of a level in a source, or "". Nobody may change what GitLab has archived or
// is about to delete, unless configured otherwise: there the weakest role is what remains.
func (p Policy) roleIn(s *Snapshot, id SourceID, l Level) string {
	return p.roleFor(p.frozen(s, id), l)
}

func (p Policy) roleFor(frozen Frozen, l Level) string {
	role := p.byLevel[l]
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
