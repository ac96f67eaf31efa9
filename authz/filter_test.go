package authz_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

func newPolicy(t *testing.T, change func(*authz.PolicyConfig)) authz.Policy {
	t.Helper()
	c := authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource}}
	change(&c)
	p, err := authz.NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestExclude: what is left out gets no namespace, people no right; membership through it counts as before.
func TestExclude(t *testing.T) {
	all := "group/1 group/2 group/3 group/4 project/10 project/11 user/1 user/2 user/3 user/4 user/5"
	without := func(ids ...string) string {
		return strings.Join(slices.DeleteFunc(strings.Fields(all), func(s string) bool { return slices.Contains(ids, s) }), " ")
	}
	for _, c := range []struct {
		name   string
		filter authz.Filter
		want   string
	}{
		{"nothing", authz.Filter{}, all},
		{"a project", authz.Filter{Sources: []authz.SourceID{authz.ProjectID(10)}}, without("project/10")},
		{"a group with all below", authz.Filter{Sources: []authz.SourceID{authz.GroupID(1)}}, without("group/1", "group/2", "project/10")},
		{"a user with their personal projects", authz.Filter{Sources: []authz.SourceID{authz.UserID(bob)}}, without("user/2", "project/11")},
		{"a path and what is below", authz.Filter{Paths: []string{"haw"}}, without("group/1", "group/2", "project/10")},
		{"a path does not match a longer name", authz.Filter{Paths: []string{"ha", "haw/la"}}, all},
		{"case does not count", authz.Filter{Paths: []string{"HAW/Lab"}}, without("group/2", "project/10")},
		{"* is one segment", authz.Filter{Paths: []string{"*/inner"}}, without("group/4")},
		{"* is not two segments", authz.Filter{Paths: []string{"haw*world"}}, all},
		{"** is any", authz.Filter{Paths: []string{"**/world"}}, without("project/10")},
		{"** in the middle", authz.Filter{Paths: []string{"haw/**/world"}}, without("project/10")},
		{"people by name", authz.Filter{People: []string{"mall*"}}, without("user/5")},
		{"a path pattern is no user name", authz.Filter{Paths: []string{"alice"}}, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPolicy(t, func(pc *authz.PolicyConfig) { pc.Exclude = c.filter })
			var got []string
			for _, s := range p.Sources(world()) {
				got = append(got, s.ID.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
				t.Errorf("sources (-want +got):\n%s", d)
			}
		})
	}
	t.Run("inheritance goes through what is left out", func(t *testing.T) {
		p := newPolicy(t, func(pc *authz.PolicyConfig) { pc.Exclude.Sources = []authz.SourceID{authz.UserID(alice)} })
		p2 := newPolicy(t, func(pc *authz.PolicyConfig) { pc.Exclude.Paths = []string{"guests/*"} })
		if got := grantsIn(p, world(), authz.ProjectID(10)); got != "bob:view dave:edit" {
			t.Errorf("without alice: %s", got)
		}
		s := world()
		s.Groups[2] = withLink(s.Groups[2], authz.Link{Group: 4, Level: authz.Developer})
		if got := grantsIn(p2, s, authz.ProjectID(10)); got != "alice:edit bob:view dave:edit mallory:view" {
			t.Errorf("with a group invited that has no namespace: %s", got)
		}
	})
}

func withLink(g authz.Group, l authz.Link) authz.Group {
	g.Links = append(slices.Clone(g.Links), l)
	return g
}

func grantsIn(p authz.Policy, s *authz.Snapshot, id authz.SourceID) string {
	grants, _ := p.Grants(s, p.Sources(s), now)
	var out []string
	for _, g := range grants {
		for _, u := range g.Users {
			if g.Source == id {
				out = append(out, s.Users[u].Username+":"+g.ClusterRole)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestPatternsOnlyExclude is docs/invariants.md, decision 18: no field of a Policy that gives something takes a pattern. Whatever path a
// person makes up, a Policy with patterns grants no more than the one without.
func TestPatternsOnlyExclude(t *testing.T) {
	plain := newPolicy(t, func(*authz.PolicyConfig) {})
	for _, pattern := range []string{"*a*", "haw/*", "**/in*", "?aw"} {
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Exclude = authz.Filter{Paths: []string{pattern}, People: []string{pattern}}
		})
		have := map[string]bool{}
		before, _ := plain.Grants(world(), plain.Sources(world()), now)
		for _, g := range before {
			for _, u := range g.Users {
				have[fmt.Sprint(g.Source, g.ClusterRole, u)] = true
			}
		}
		after, _ := p.Grants(world(), p.Sources(world()), now)
		for _, g := range after {
			for _, u := range g.Users {
				if !have[fmt.Sprint(g.Source, g.ClusterRole, u)] {
					t.Errorf("%q gives %v to %d", pattern, g, u)
				}
			}
		}
	}
}

func TestFrozenSources(t *testing.T) {
	archived := func(s *authz.Snapshot) { p := s.Projects[10]; p.Archived = true; s.Projects[10] = p }
	marked := func(s *authz.Snapshot) { p := s.Projects[10]; p.MarkedForDeletion = true; s.Projects[10] = p }
	for _, c := range []struct {
		name             string
		archived, marked authz.Frozen
		change           []func(*authz.Snapshot)
		want             string
		readOnly         bool
	}{
		{"not frozen", "", "", nil, "alice:edit bob:view dave:edit", false},
		{"archived: view is the default", "", "", []func(*authz.Snapshot){archived}, "alice:view bob:view dave:view", true},
		{"archived: none", authz.FrozenNone, "", []func(*authz.Snapshot){archived}, "", true},
		{"archived: keep", authz.FrozenKeep, "", []func(*authz.Snapshot){archived}, "alice:edit bob:view dave:edit", false},
		{"marked: view is the default", authz.FrozenKeep, "", []func(*authz.Snapshot){marked}, "alice:view bob:view dave:view", true},
		{"marked: none", "", authz.FrozenNone, []func(*authz.Snapshot){marked}, "", true},
		{"both: the stricter rule", authz.FrozenKeep, authz.FrozenNone, []func(*authz.Snapshot){archived, marked}, "", true},
		{"both: the stricter rule, the other way", authz.FrozenView, authz.FrozenKeep, []func(*authz.Snapshot){archived, marked}, "alice:view bob:view dave:view", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			for _, f := range c.change {
				f(s)
			}
			p := newPolicy(t, func(pc *authz.PolicyConfig) { pc.Archived, pc.MarkedForDeletion = c.archived, c.marked })
			if got := grantsIn(p, s, authz.ProjectID(10)); got != c.want {
				t.Errorf("rights %q, want %q", got, c.want)
			}
			for _, src := range p.Sources(s) {
				if src.ID == authz.ProjectID(10) && src.ReadOnly != c.readOnly {
					t.Errorf("ReadOnly %t, want %t", src.ReadOnly, c.readOnly)
				}
			}
		})
	}
}

// TestGrantsAreStable: the same Snapshot gives the same grants, whatever order Go's maps come in.
func TestGrantsAreStable(t *testing.T) {
	p := newPolicy(t, func(pc *authz.PolicyConfig) {
		for _, g := range []int64{1, 3, 4} {
			pc.Extra = append(pc.Extra, authz.ExtraRole{Source: authz.ProjectID(10), ClusterRole: "deployer", Group: g})
		}
	})
	first, _ := p.Grants(world(), p.Sources(world()), now)
	for range 20 {
		again, _ := p.Grants(world(), p.Sources(world()), now.Add(time.Second))
		if d := cmp.Diff(first, again); d != "" {
			t.Fatal(d)
		}
	}
}
