package rbacsynctest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// CopySnap is deep enough for tests that edit rows.
func CopySnap(s *authz.Snapshot) *authz.Snapshot {
	n := *s
	n.Users, n.Groups, n.Projects = maps.Clone(s.Users), maps.Clone(s.Groups), maps.Clone(s.Projects)
	for id, g := range n.Groups {
		g.Members, g.Links = slices.Clone(g.Members), slices.Clone(g.Links)
		n.Groups[id] = g
	}
	for id, p := range n.Projects {
		p.Members, p.Links = slices.Clone(p.Members), slices.Clone(p.Links)
		n.Projects[id] = p
	}
	return &n
}

// Drop removes the rows of a person everywhere.
func Drop(s *authz.Snapshot, user int64) {
	is := func(m authz.Member) bool { return m.User == user }
	for id, g := range s.Groups {
		g.Members = slices.DeleteFunc(g.Members, is)
		s.Groups[id] = g
	}
	for id, p := range s.Projects {
		p.Members = slices.DeleteFunc(p.Members, is)
		s.Projects[id] = p
	}
}

func Keys(items []rbacsync.Item) string {
	var out []string
	for _, i := range items {
		out = append(out, i.Key()+" by "+i.Cause.String())
	}
	return strings.Join(out, "\n")
}

var Noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Organisation has top-level groups with ids 1, 2, …, each with a subgroup, two projects and people of its own.
func Organisation(tops, users int) *authz.Snapshot {
	s := &authz.Snapshot{Issuer: Issuer, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
	for g := range int64(tops) {
		top, sub := g+1, g+1001
		s.Groups[top] = authz.Group{ID: top, Path: fmt.Sprintf("top%d", top)}
		s.Groups[sub] = authz.Group{ID: sub, Parent: top, Path: fmt.Sprintf("top%d/sub", top)}
		s.Projects[top] = authz.Project{ID: top, Group: top, Path: fmt.Sprintf("top%d/a", top)}
		s.Projects[sub] = authz.Project{ID: sub, Group: sub, Path: fmt.Sprintf("top%d/sub/b", top)}
		for u := range int64(users) {
			id := g*int64(users) + u + 1
			s.Users[id] = authz.User{ID: id, Username: fmt.Sprintf("u%d", id), State: authz.StateActive, Human: true}
			m := authz.Member{User: id, Level: []authz.Level{authz.Developer, authz.Maintainer, authz.Owner}[u%3]}
			switch u % 4 {
			case 0:
				gr := s.Groups[top]
				gr.Members = append(gr.Members, m)
				s.Groups[top] = gr
			case 1:
				gr := s.Groups[sub]
				gr.Members = append(gr.Members, m)
				s.Groups[sub] = gr
			default:
				p := s.Projects[[]int64{top, sub}[u%2]]
				p.Members = append(p.Members, m)
				s.Projects[p.ID] = p
			}
		}
	}
	return s
}

// Strict holds everything that is inferred from absence.
var Strict = rbacsync.Limits{PerGroup: rbacsync.Limit{Fraction: 1e-9}}

func WantedFor(p authz.Policy, s *authz.Snapshot, have *rbacsync.Observed) *rbacsync.Wanted {
	sources := p.Sources(s)
	known, taken := have.Names(s.Issuer)
	names, _ := authz.AssignNames(sources, known, taken, nil)
	grants, _ := p.Grants(s, sources, Noon)
	return rbacsync.Desired(rbacsync.Input{
		Snapshot: s, Sources: sources, Names: names, Grants: grants,
		Roles: p.BaseRoles(), Further: p.FurtherRoles(), Untouchable: p.Untouchable(s), Now: Noon,
	})
}

// Company is a small GitLab; alice, bob and carol are 2, 3 and 4.
func Company() rbacsync.Input {
	created := time.Date(2024, 5, 6, 7, 8, 9, 123e6, time.UTC)
	haw, world, carol := authz.GroupID(7), authz.ProjectID(42), authz.UserID(4)
	grant := func(id authz.SourceID, role string, user int64) authz.Grant {
		return authz.Grant{Source: id, ClusterRole: role, Users: []int64{user}}
	}
	return rbacsync.Input{
		Snapshot: &authz.Snapshot{
			Issuer:   Issuer,
			Users:    map[int64]authz.User{2: {ID: 2, Username: "alice"}, 3: {ID: 3, Username: "bob"}, 4: {ID: 4, Username: "carol\n\x1b[31m"}},
			Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw", CreatedAt: created}},
			Projects: map[int64]authz.Project{42: {ID: 42, Group: 7, Path: "haw/world", CreatedAt: created}},
		},
		Sources: []authz.Source{{ID: haw, Path: "haw", CreatedAt: created}, {ID: world, Path: "haw/world", CreatedAt: created}, {ID: carol, Path: "carol"}},
		Names:   map[authz.SourceID]string{haw: "haw", world: "haw-world", carol: "carol"},
		Grants:  []authz.Grant{grant(haw, "edit", 2), grant(world, "edit", 2), grant(world, "view", 3), grant(carol, "edit", 4)},
		Roles:   Roles,
	}
}

// Apply writes changes into a model of the cluster.
func Apply(have *rbacsync.Observed, changes []rbacsync.Change) *rbacsync.Observed {
	live := map[rbacsync.Key]*rbacsync.Live{}
	for _, l := range have.Live {
		live[l.Key] = l
	}
	for i, c := range changes {
		delete(live, c.Key)
		if c.New != nil {
			l := &rbacsync.Live{Object: rbacsync.Object{Key: c.Key}, UID: types.UID(fmt.Sprint("u", i)), ResourceVersion: fmt.Sprint(i)}
			l.Deleting = c.Old != nil && c.Old.Deleting
			if c.New.Namespace != nil {
				s := *c.New.Namespace
				l.Namespace = &s
			}
			if c.New.Binding != nil {
				b := *c.New.Binding
				b.Users, b.Others = slices.Clone(b.Users), slices.Clone(b.Others)
				l.Binding = &b
			}
			live[c.Key] = l
		}
	}
	out := &rbacsync.Observed{Foreign: have.Foreign}
	for _, l := range live {
		out.Live = append(out.Live, l)
	}
	return out
}

const Issuer = "https://gitlab.example.com"

var Roles = []string{"edit", "view"}

// HawWorld is group 7 with project 42; alice (2) is its Owner, bob (3) a Developer of the project.
func HawWorld() *authz.Snapshot {
	created := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	user := func(id int64, name string) authz.User {
		return authz.User{ID: id, Username: name, State: authz.StateActive, Human: true}
	}
	return &authz.Snapshot{
		Issuer:   Issuer,
		Users:    map[int64]authz.User{2: user(2, "alice"), 3: user(3, "bob")},
		Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw", CreatedAt: created, Members: []authz.Member{{User: 2, Level: authz.Owner}}}},
		Projects: map[int64]authz.Project{42: {ID: 42, Group: 7, Path: "haw/world", CreatedAt: created, Members: []authz.Member{{User: 3, Level: authz.Developer}}}},
	}
}

func Policy(t *testing.T) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
