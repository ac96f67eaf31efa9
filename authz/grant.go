package authz

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/byid"
)

// Grant is a right: these people get a ClusterRole in the namespace of a source.
type Grant struct {
	Source      SourceID
	ClusterRole string
	Users       []int64 // ascending, each once, not empty
}

// compare orders grants by source; rank says in which order the roles of one source come.
func (g Grant) compare(o Grant, rank map[string]int) int {
	return cmp.Or(g.Source.Compare(o.Source), cmp.Compare(rank[g.ClusterRole], rank[o.ClusterRole]))
}

// Grants returns the rights in these sources (Sources, or a part of them), sorted by source and role (strongest
// first), and what an administrator should know. It judges the Snapshot as it is: the caller leaves alone what
// Untouchable names.
func (p Policy) Grants(s *Snapshot, sources []Source, now time.Time) ([]Grant, []Finding) {
	r := NewResolver(s, now)
	r.passing = true // each project is asked about once: what they take would be most of the memory of a plan
	roles := p.ClusterRoles()
	rank := make(map[string]int, len(roles))
	for i, role := range roles {
		rank[role] = i
	}
	const yes, no = 1, 2
	asked := byid.New[int8](byid.Limit(len(sources), len(s.Users))) // once for each user who is a member somewhere
	may := func(user int64) bool {
		answer := asked.Get(user)
		if answer == 0 {
			answer = no
			if u, there := s.Users[user]; there && p.MayHaveRights(u) {
				answer = yes
			}
			asked.Set(user, answer)
		}
		return answer == yes
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
			if may(a.user) {
				i := slices.Index(roles, role)
				users[i] = append(users[i], a.user)
			}
		}, func(a standing) {
			if may(a.user) {
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

// each calls give for every role that somebody gets in a source, whatever their account, and unknown for levels that
// this program does not know.
func (p Policy) each(r *Resolver, src Source, give func(role string, a standing), unknown func(a standing)) {
	frozen := p.frozen(r.snap, src.ID)
	for _, a := range r.Members(src.ID).list {
		if role := p.roleFor(frozen, a.level); role != "" {
			give(role, a)
		} else if !a.level.Known() { // a role stands for known levels alone
			unknown(a)
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

// Finding is something an administrator should know; it never changes what is granted.
type Finding struct {
	Code   string // stable, e.g. "unknown_level"
	Source SourceID
	Text   string
}
