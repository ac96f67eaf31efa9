package authz_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
)

// rules are a part of what the ClusterRoles of Kubernetes allow.
func rules() map[string][]authz.Rule {
	read := []string{"get", "list", "watch"}
	view := []authz.Rule{
		{Verbs: read, Groups: []string{""}, Resources: []string{"pods", "pods/log", "services"}},
		{Verbs: read, Groups: []string{"apps"}, Resources: []string{"deployments", "deployments/scale"}},
	}
	return map[string][]authz.Rule{
		"view": view,
		"edit": append(slices.Clone(view), []authz.Rule{
			{Verbs: []string{"get", "list", "create", "delete"}, Groups: []string{""}, Resources: []string{"pods", "secrets", "pods/exec"}},
			{Verbs: []string{"create", "patch", "delete"}, Groups: []string{"apps"}, Resources: []string{"deployments"}},
		}...),
	}
}

func TestRuleIsRBACs(t *testing.T) {
	all := []string{"*"}
	for _, c := range []struct {
		rule authz.Rule
		q    authz.Question
		want bool
	}{
		{authz.Rule{Verbs: all, Groups: all, Resources: all}, authz.Question{Verb: "get", Group: "apps", Resource: "x", Subresource: "y", Name: "z"}, true},
		{authz.Rule{Verbs: all, Groups: []string{""}, Resources: all}, authz.Question{Verb: "get", Group: "apps", Resource: "x"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"pods"}}, authz.Question{Verb: "get", Resource: "pods", Subresource: "log"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"pods/log"}}, authz.Question{Verb: "get", Resource: "pods"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"pods/log"}}, authz.Question{Verb: "get", Resource: "pods", Subresource: "log"}, true},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"pods/*"}}, authz.Question{Verb: "get", Resource: "pods", Subresource: "log"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"*/scale"}}, authz.Question{Verb: "get", Resource: "pods", Subresource: "scale"}, true},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"*/scale"}}, authz.Question{Verb: "get", Resource: "pods"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: []string{"*/"}}, authz.Question{Verb: "get", Resource: "pods"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: all, Names: []string{"a"}}, authz.Question{Verb: "get", Resource: "pods", Name: "a"}, true},
		{authz.Rule{Verbs: all, Groups: all, Resources: all, Names: []string{"a"}}, authz.Question{Verb: "list", Resource: "pods"}, false},
		{authz.Rule{Verbs: all, Groups: all, Resources: all, Names: []string{"*"}}, authz.Question{Verb: "get", Resource: "pods", Name: "a"}, false},
		{authz.Rule{Verbs: []string{"get"}, Groups: all, Resources: all}, authz.Question{Verb: "list", Resource: "pods"}, false},
		{authz.Rule{}, authz.Question{}, false},
	} {
		if got := c.rule.Allows(c.q); got != c.want {
			t.Errorf("%+v allows %+v: %v", c.rule, c.q, got)
		}
	}
}

// TestRemedies: what is promised where levels stand for less, or for more, than they do elsewhere.
func TestRemedies(t *testing.T) {
	read := authz.Question{Namespace: "ns", Verb: "get", Resource: "pods"}
	change := authz.Question{Namespace: "ns", Verb: "delete", Resource: "pods"}
	marked := func(s *authz.Snapshot) {
		pr := s.Projects[10]
		pr.MarkedForDeletion = true
		s.Projects[10] = pr
	}
	guest := func(s *authz.Snapshot) {
		pr := s.Projects[10]
		pr.Members = append(slices.Clone(pr.Members), authz.Member{User: carol, Level: authz.Guest})
		s.Projects[10] = pr
	}
	for _, c := range []struct {
		name   string
		user   int64
		q      authz.Question
		world  []func(*authz.Snapshot)
		policy func(*authz.PolicyConfig)
		rules  map[string][]authz.Rule
		want   string
	}{
		{
			"Guest reads in a project marked for deletion", carol, read,
			[]func(*authz.Snapshot){marked, guest},
			nil, rules(), `get pods needs Developer, Maintainer or Owner (ask alice, bob, dave).`,
		},
		{
			"Guest changes in a project marked for deletion", carol, change,
			[]func(*authz.Snapshot){marked, guest},
			nil, rules(), `and that is archived or marked for deletion in GitLab: nobody may delete pods there meanwhile.`,
		},
		{
			"what would not be allowed otherwise either", carol,
			authz.Question{Namespace: "ns", Verb: "bind", Resource: "pods"},
			[]func(*authz.Snapshot){marked, guest},
			nil, rules(), `no GitLab role there allows bind pods. Ask the cluster's administrators.`,
		},
		{
			"nobody has rights", alice, read,
			[]func(*authz.Snapshot){marked},
			func(c *authz.PolicyConfig) { c.MarkedForDeletion = authz.FrozenNone }, rules(), `nobody has rights there.`,
		},
		{"rules not read", bob, change, nil, nil, nil, `you are Developer in haw/lab/world (ClusterRole "view"), and that does not allow delete pods.`},
		{
			"rules of the stronger role not read", bob, change, nil, nil,
			map[string][]authz.Rule{"view": rules()["view"]},
			`you are Developer in haw/lab/world (ClusterRole "view"), and that does not allow delete pods.`,
		},
		{
			"marked for deletion, and rules not read", bob, change,
			[]func(*authz.Snapshot){marked},
			nil,
			map[string][]authz.Rule{"edit": rules()["edit"]},
			`you are Developer in haw/lab/world (ClusterRole "view"), and that does not allow delete pods.`,
		},
		{
			"an extra mapping gives it", bob, change, nil, func(c *authz.PolicyConfig) {
				c.Extra = []authz.ExtraRole{{Source: authz.ProjectID(10), ClusterRole: "cleaner", Levels: []authz.Level{authz.Reporter}}}
			},
			map[string][]authz.Rule{"view": nil, "edit": nil, "cleaner": {{Verbs: []string{"delete"}, Groups: []string{""}, Resources: []string{"pods"}}}},
			`delete pods needs Reporter.`,
		},
		{
			"left out", bob, read, nil, func(c *authz.PolicyConfig) { c.Exclude.Sources = []authz.SourceID{authz.ProjectID(10)} }, rules(),
			`haw/lab/world is excluded by this cluster's configuration. Ask the cluster's administrators.`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			for _, change := range c.world {
				change(s)
			}
			p := newPolicy(t, func(pc *authz.PolicyConfig) {
				if c.policy != nil {
					c.policy(pc)
				}
			})
			v := authz.NewView(s, p, map[authz.SourceID]string{authz.ProjectID(10): "ns"}).WithRules(c.rules).WithGaps(map[authz.SourceID]authz.Gap{})
			if got := v.User(c.user, c.q, now); !strings.HasSuffix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestTextHangsOnItsNamespaceAlone is the law of docs/adr/0080: whatever else changes in GitLab, the text about somebody in
// a namespace stays as long as that namespace's GitLab object and its members stay. So a tenant, who may ask about
// anybody in it, learns of nothing else.
func TestTextHangsOnItsNamespaceAlone(t *testing.T) {
	kept, explained := 0, map[string]bool{}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 80))
		s := authztest.Snapshot(r)
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Levels: []authz.Level{authz.Guest}}, {Source: authz.GroupID(2), Below: true, ClusterRole: "most", Group: 3}}
		})
		names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
		gaps := randomGaps(r, p, s)
		before := authz.NewView(s, p, names).WithRules(rules()).WithGaps(gaps)
		later := authztest.Clone(s)
		for range 4 {
			authztest.Change(r, later)
		}
		others := maps.Clone(names)
		for id := range names {
			if id.Kind == authz.ProjectSource && r.IntN(4) == 0 {
				others[id] = fmt.Sprintf("other-%d", id.ID)
			}
		}
		for id, ns := range names {
			others[id] = ns
			otherGaps := randomGaps(r, p, s)
			otherGaps[id] = gaps[id]
			after := authz.NewView(later, p, others).WithRules(rules()).WithGaps(otherGaps)
			if !sameInside(p, s, later, id) {
				continue
			}
			kept++
			q := authz.Question{Namespace: ns, Verb: []string{"get", "delete"}[r.IntN(2)], Resource: []string{"pods", "secrets", "nodes"}[r.IntN(3)]}
			for user := range int64(12) {
				x, y := before.User(user, q, now), after.User(user, q, now)
				if x != y {
					t.Fatalf("seed %d: user %d in %s (%s):\n%s\n%s", seed, user, ns, id, x, y)
				}
				explained[strings.ReplaceAll(x, ns, "NS")] = true
			}
			for project := range int64(27) {
				if x, y := before.CIJob(project, q), after.CIJob(project, q); x != y {
					t.Fatalf("seed %d: job of project %d in %s:\n%s\n%s", seed, project, ns, x, y)
				}
			}
		}
	}
	if kept < 1000 || len(explained) < 100 {
		t.Errorf("only %d namespaces stayed, with %d texts", kept, len(explained))
	}
}

// sameInside reports whether a source, and what its members see of each other in GitLab, are the same in both Snapshots.
func sameInside(p authz.Policy, a, b *authz.Snapshot, id authz.SourceID) bool {
	x, inA := p.Source(a, id)
	y, inB := p.Source(b, id)
	if inA != inB || x.Path != y.Path || x.ReadOnly != y.ReadOnly {
		return false
	}
	look := func(s *authz.Snapshot) (out []string) {
		for m := range authz.NewResolver(s, now).Members(id).All() {
			out = append(out, fmt.Sprint(m.User, m.Level, m.Why.Row == id, s.Users[m.User]))
		}
		return out
	}
	return slices.Equal(look(a), look(b)) && coveredAlike(a, b, id)
}

// coveredAlike reports whether a source is below the group of the mapping in both.
func coveredAlike(a, b *authz.Snapshot, id authz.SourceID) bool {
	return a.Within(id, authz.GroupID(1)) == b.Within(id, authz.GroupID(1))
}

// TestStrangersHearOneSentence: nobody can tell a namespace of others from one that does not exist, nor a person that
// exists from one that doesn't, nor what state an account has.
func TestStrangersHearOneSentence(t *testing.T) {
	s, p := world(), policy(t)
	u := s.Users[mallory]
	u.State = "blocked"
	s.Users[mallory] = u
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	v := authz.NewView(s, p, names).WithRules(rules())
	seen := map[string]bool{}
	for _, ns := range []string{"haw-lab", "nowhere"} {
		for _, user := range []int64{carol, mallory, bot, 99} {
			q := authz.Question{Namespace: ns, Verb: "get", Resource: "pods"}
			seen[strings.ReplaceAll(v.User(user, q, now), ns, "X")] = true
			if a := v.Answer(user, q, now); a.Allowed != authz.No || a.Code != authz.CodeNoMember || a.Trail != nil || a.Ask != nil || a.Sentence != v.User(user, q, now) {
				t.Errorf("user %d in %s: %+v", user, ns, a)
			}
		}
	}
	if len(seen) != 1 {
		t.Errorf("what is said differs: %v", seen)
	}
}

// TestYoursIsWhatGrantsSay: through any changes, and over midnights, the list is that of the rights.
func TestYoursIsWhatGrantsSay(t *testing.T) {
	parts := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 81))
		s := authztest.Snapshot(r)
		for id, g := range s.Groups {
			for i := range g.Members {
				if r.IntN(3) == 0 {
					g.Members[i].Expires = authz.Date{Year: 2026, Month: 3, Day: 1 + r.IntN(4)}
				}
			}
			s.Groups[id] = g
		}
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Group: 3}, {Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Levels: []authz.Level{authz.Guest}}}
		})
		names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
		v := authz.NewView(s, p, names).WithGaps(map[authz.SourceID]authz.Gap{})
		at := time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)
		for range 12 {
			for user := int64(1); user <= 10; user++ {
				if u := v.Snapshot.Users[user]; u.State != authz.StateActive || !u.Human {
					continue
				}
				_, got, _ := strings.Cut(v.User(user, authz.Question{Verb: "list", Resource: "namespaces"}, at), "namespaces. ")
				if want := yoursByGrants(v, user, at); got != want {
					t.Fatalf("seed %d: user %d at %v:\ngot  %s\nwant %s", seed, user, at, got, want)
				}
			}
			at = at.Add(time.Duration(r.IntN(10)) * time.Hour)
			next := authztest.Clone(v.Snapshot)
			authztest.Change(r, next)
			if circular(next) { // no round touches these, and what counts in them depends on where one begins
				break
			}
			changed := p.Affected(v.Snapshot, next)
			if len(changed) > 0 && len(changed) < 10 {
				parts++
			}
			v = v.With(next, changed)
		}
	}
	if parts < 100 {
		t.Errorf("only %d small changes", parts)
	}
}

func circular(s *authz.Snapshot) bool {
	for _, why := range s.Incomplete() {
		if strings.Contains(why, "its own ancestor") {
			return true
		}
	}
	return false
}

// yoursByGrants makes the list from all rights.
func yoursByGrants(v authz.View, user int64, at time.Time) string {
	by := map[string][]string{}
	grants, _ := v.Policy.Grants(v.Snapshot, v.Policy.Sources(v.Snapshot), at)
	for _, g := range grants {
		if ns, ok := v.Namespace[g.Source]; ok && slices.Contains(g.Users, user) {
			by[g.ClusterRole] = append(by[g.ClusterRole], ns)
		}
	}
	var parts []string
	for _, role := range v.Policy.ClusterRoles() {
		if list := by[role]; len(list) > 0 {
			slices.Sort(list)
			parts = append(parts, strings.Join(list, ", ")+" ("+role+")")
		}
	}
	if len(parts) == 0 {
		return "You have no namespaces yet: ask a Maintainer of your group to add you in GitLab."
	}
	return "Your namespaces: " + strings.Join(parts, "; ") + "."
}

// TestManyNamespaces: all that most people have is named, and of more it is said how they are called.
func TestManyNamespaces(t *testing.T) {
	for _, n := range []int{40, 100, 130} {
		s, names := large(n)
		v := authz.NewView(s, newPolicy(t, func(*authz.PolicyConfig) {}), names).WithGaps(map[authz.SourceID]authz.Gap{})
		got := v.User(1, authz.Question{Verb: "list", Resource: "namespaces"}, now)
		if c := strings.Count(got, "ns-"); c != min(n, 100) || strings.Contains(got, fmt.Sprintf("; and %d more, which are named after", n-100)) != (n > 100) {
			t.Errorf("%d namespaces: %d are named: %s", n, c, got)
		}
	}
}

// large is a GitLab of one group and n projects in it: user 1 is Owner of all, 2 Guest of all, and each project has 29
// others of its own.
func large(n int) (*authz.Snapshot, map[authz.SourceID]string) {
	s := &authz.Snapshot{Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
	for u := range int64(2000) {
		s.Users[u+1] = authz.User{ID: u + 1, Username: fmt.Sprintf("u%d", u+1), State: authz.StateActive, Human: true}
	}
	s.Groups[1] = authz.Group{ID: 1, Path: "top", Members: []authz.Member{{User: 1, Level: authz.Owner}, {User: 2, Level: authz.Guest}}}
	names := map[authz.SourceID]string{}
	for i := range int64(n) {
		p := authz.Project{ID: i + 1, Group: 1, Path: fmt.Sprintf("top/p%d", i+1)}
		for k := range int64(29) {
			p.Members = append(p.Members, authz.Member{User: 4 + (i*31+k*7)%1990, Level: authz.Developer})
		}
		s.Projects[p.ID] = p
		names[authz.ProjectID(p.ID)] = fmt.Sprintf("ns-%d", p.ID)
	}
	return s, names
}

// BenchmarkRefusal is what an explanation costs at 20,000 namespaces: to an Owner of all, to a Guest of all, to a stranger,
// and after a few changes.
func BenchmarkRefusal(b *testing.B) {
	s, names := large(20_000)
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		b.Fatal(err)
	}
	all := authz.Question{Verb: "list", Resource: "namespaces"}
	b.Run("index", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			authz.NewView(s, p, names).User(3, all, now)
		}
	})
	v := authz.NewView(s, p, names).WithRules(rules())
	v.User(3, all, now)
	few := map[authz.SourceID]bool{}
	for i := range int64(16) {
		few[authz.ProjectID(i+1)] = true
	}
	planned := map[authz.SourceID]authz.Gap{} // a new installation in mode plan: nothing is in the cluster
	for id := range names {
		planned[id] = authz.Gap{All: authz.AbsentPlan}
	}
	none := authz.NewView(s, p, names).WithRules(rules()).WithGaps(planned)
	none.User(3, all, now)
	for _, c := range []struct {
		name string
		v    authz.View
		user int64
		q    authz.Question
	}{
		{"yours/owner", v, 1, all},
		{"yours/guest", v, 2, all},
		{"yours/stranger", v, 3, all},
		{"yours/changed", v.With(s, few), 500, all},
		{"yours/changed-owner", v.With(s, few), 1, all},
		{"yours/planned-owner", none, 1, all},
		{"inside/guest", v, 2, authz.Question{Namespace: "ns-7", Verb: "delete", Resource: "pods"}},
		{"inside/planned", none, 1, authz.Question{Namespace: "ns-7", Verb: "delete", Resource: "pods"}},
		{"inside/stranger", v, 3, authz.Question{Namespace: "ns-7", Verb: "delete", Resource: "pods"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.v.User(c.user, c.q, now)
			}
		})
	}
}
