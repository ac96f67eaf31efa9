package authz_test

import (
	"encoding/json"
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

func TestTrails(t *testing.T) {
	in := func(day int) authz.Date { return authz.Date{Year: 2026, Month: 11, Day: day} }
	for _, c := range []struct {
		name   string
		change func(*authz.Snapshot)
		user   int64
		at     authz.SourceID
		want   string
	}{
		{"direct", nil, alice, authz.ProjectID(10), "Maintainer in haw/lab/world, direct member"},
		{"inherited", nil, dave, authz.ProjectID(10), "Owner in haw/lab/world, inherited from haw"},
		{"own project", nil, bob, authz.ProjectID(11), "Owner in bob/toy, because it is their own"},
		{"personal namespace", nil, carol, authz.UserID(carol), "Owner in carol, because it is their own"},
		{"no member", nil, mallory, authz.ProjectID(10), ""},
		{
			"until the membership ends", func(s *authz.Snapshot) { s.Groups[1].Members[0].Expires = in(30) },
			dave, authz.ProjectID(10), "Owner in haw/lab/world, inherited from haw, until 2026-11-30",
		},
		{
			"invited and capped, until the invitation ends", func(s *authz.Snapshot) {
				g := s.Groups[2]
				g.Links = []authz.Link{{Group: 3, Level: authz.Developer, Expires: in(29)}}
				s.Groups[2] = g
				s.Groups[3].Members[0].Expires = in(30)
			},
			carol, authz.ProjectID(10),
			"Developer in haw/lab/world, through the group guests, which is invited into haw/lab with Developer at most (they are Maintainer), until 2026-11-29",
		},
		{
			"invited into a project, by a membership above the invited group", func(s *authz.Snapshot) {
				p := s.Projects[10]
				p.Links = []authz.Link{{Group: 4, Level: authz.Owner}}
				s.Projects[10] = p
			},
			carol, authz.ProjectID(10), "Maintainer in haw/lab/world, through the group guests/inner, which is invited into haw/lab/world (member of guests)",
		},
		{
			"an invitation behind an invitation ends first", func(s *authz.Snapshot) {
				p, g := s.Projects[10], s.Groups[4]
				p.Links = []authz.Link{{Group: 4, Level: authz.Maintainer, Expires: in(30)}}
				g.Links = []authz.Link{{Group: 2, Level: authz.Guest, Expires: in(25)}}
				s.Projects[10], s.Groups[4] = p, g
				s.Groups[2].Members[0] = authz.Member{User: carol, Level: authz.Owner}
				s.Groups[3].Members[0].User = mallory
				g2 := s.Groups[2]
				g2.Parent = 0
				s.Groups[2] = g2
				p.Group = 0
				s.Projects[10] = p
			},
			carol, authz.ProjectID(10), "Guest in haw/lab/world, through the group guests/inner, which is invited into haw/lab/world (member of haw/lab) with Guest at most (they are Owner), until 2026-11-25",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			if c.change != nil {
				c.change(s)
			}
			got, ok := authz.NewView(s, policy(t), nil).Trail(c.user, c.at, now)
			if got.Text != c.want || ok != (c.want != "") {
				t.Errorf("got  %s\nwant %s", got.Text, c.want)
			}
		})
	}
}

func TestTrailIsReadable(t *testing.T) {
	trail, _ := authz.NewView(world(), policy(t), nil).Trail(dave, authz.ProjectID(10), now)
	got, err := json.Marshal(trail)
	if want := `{"source":"project/10","path":"haw/lab/world","level":"Owner","kind":"inherited","row":"group/1","rowLevel":"Owner","text":"Owner in haw/lab/world, inherited from haw"}`; err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

// TestTrailsLeadToTheLevel is the law of trails: the level is that of the membership, capped by the invitations, and when the
// trail ends the level does not stay by it.
func TestTrailsLeadToTheLevel(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 123))
		s := authztest.Snapshot(r)
		end := func() authz.Date {
			return []authz.Date{{}, {Year: 2026, Month: 11, Day: 21}, {Year: 2026, Month: 11, Day: 23}, {Year: 2026, Month: 11, Day: 24}}[r.IntN(4)]
		}
		for id, g := range s.Groups {
			for i := range g.Members {
				g.Members[i].Expires = end()
			}
			for i := range g.Links {
				g.Links[i].Expires = end()
			}
			s.Groups[id] = g
		}
		for _, p := range s.Projects {
			for i := range p.Links {
				p.Links[i].Expires = end()
			}
		}
		if circular(s) {
			continue
		}
		v := authz.NewView(s, policy(t), nil)
		for _, src := range policy(t).Sources(s) {
			for a := range authz.NewResolver(s, now).Members(src.ID).All() {
				trail, ok := v.Trail(a.User, src.ID, now)
				level := trail.RowLevel
				if trail.LinkLevel != 0 {
					level = min(level, trail.LinkLevel)
				}
				if !ok || trail.Level != a.Level || level != a.Level || trail.Why != a.Why || trail.Until.Over(now) {
					t.Fatalf("seed %d: user %d in %s: %+v, want %+v", seed, a.User, src.ID, trail, a)
				}
				kinds[trail.Kind()]++
				if trail.Until.IsZero() {
					continue
				}
				kinds["ends"]++
				later, _ := authz.NewResolver(s, trail.Until.Start()).Members(src.ID).Access(a.User)
				again, still := v.Trail(a.User, src.ID, trail.Until.Start())
				if still && later.Level == a.Level && again.Text == trail.Text {
					t.Fatalf("seed %d: user %d in %s: still %s", seed, a.User, src.ID, again.Text)
				}
			}
		}
	}
	for _, kind := range []string{"direct", "inherited", "invited", "own", "ends"} {
		if kinds[kind] < 50 {
			t.Errorf("only %d trails of the kind %s", kinds[kind], kind)
		}
	}
}

// TestRightsAreWhatGrantsSay: through any changes and gaps, the rights of a person and the holders of a namespace are those of the
// grants, each with the reason why it is not there.
func TestRightsAreWhatGrantsSay(t *testing.T) {
	absent := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 124))
		s := authztest.Snapshot(r)
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Extra = []authz.ExtraRole{
				{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Group: 3}, {Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Levels: []authz.Level{authz.Guest}},
				{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Levels: []authz.Level{authz.Owner}},
			}
		})
		names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
		v := authz.NewView(s, p, names).WithGaps(randomGaps(r, p, s)).WithoutRoles(map[string]bool{"more": r.IntN(3) == 0})
		for range 8 {
			if circular(v.Snapshot) {
				break
			}
			by := map[int64]map[string][]string{}
			grants, _ := p.Grants(v.Snapshot, p.Sources(v.Snapshot), now)
			for _, g := range grants {
				for _, u := range g.Users {
					if ns, ok := v.Namespace[g.Source]; ok {
						if by[u] == nil {
							by[u] = map[string][]string{}
						}
						by[u][ns] = append(by[u][ns], g.ClusterRole)
					}
				}
			}
			holders := map[int64]map[string][]string{}
			for _, ns := range v.Namespace {
				for _, h := range v.Who(ns, now) {
					if holders[h.User.ID] == nil {
						holders[h.User.ID] = map[string][]string{}
					}
					holders[h.User.ID][ns] = h.ClusterRoles
					if h.Trail.Text == "" || h.Trail.Level == 0 {
						t.Fatalf("seed %d: no trail of %d in %s", seed, h.User.ID, ns)
					}
				}
			}
			for user := int64(1); user <= 10; user++ {
				rights := v.Rights(user, now)
				got := map[string][]string{}
				for _, x := range rights {
					got[x.Namespace] = x.ClusterRoles
					if (x.Absent == "") != (len(x.Lacks) < len(x.ClusterRoles)) {
						t.Fatalf("seed %d: %+v", seed, x)
					}
					if x.Absent != "" {
						absent++
					}
					for _, role := range x.ClusterRoles {
						e := v.Explain(user, authz.Question{Namespace: x.Namespace, Verb: "get", Resource: "pods"}, now)
						i := slices.IndexFunc(e.Roles, func(g authz.GivenRole) bool { return g.ClusterRole == role })
						if i < 0 || (e.Roles[i].Absent != "") != slices.Contains(x.Lacks, role) {
							t.Fatalf("seed %d: user %d: %+v, explained as %+v", seed, user, x, e.Roles)
						}
					}
				}
				if !slices.IsSortedFunc(rights, func(a, b authz.Right) int { return strings.Compare(a.Namespace, b.Namespace) }) {
					t.Errorf("not sorted: %v", rights)
				}
				want := by[user]
				if want == nil {
					want = map[string][]string{}
				}
				same := func(a, b []string) bool { return slices.Equal(a, b) }
				if !maps.EqualFunc(got, want, same) || !maps.EqualFunc(holders[user], want, same) {
					t.Fatalf("seed %d: user %d\nrights %v\nholders %v\nwant %v", seed, user, got, holders[user], want)
				}
			}
			next := authztest.Clone(v.Snapshot)
			authztest.Change(r, next)
			v = v.With(next, p.Affected(v.Snapshot, next))
		}
	}
	if absent < 100 {
		t.Errorf("only %d rights are not in the cluster", absent)
	}
}

// TestExplanationsForPeople: what is said to somebody is what the webhook says, unless they may.
func TestExplanationsForPeople(t *testing.T) {
	p := policy(t)
	s := world()
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	v := authz.NewView(s, p, names).WithRules(rules()).WithGaps(map[authz.SourceID]authz.Gap{})
	for _, c := range []struct {
		user int64
		q    authz.Question
		want authz.Verdict
		code authz.Code
		says string
	}{
		{bob, authz.Question{Verb: "get", Resource: "pods"}, authz.Yes, authz.CodeAllowed, `you may get pods here by ClusterRole "view" (you are Developer in haw/lab/world).`},
		{bob, authz.Question{Verb: "delete", Resource: "pods"}, authz.No, authz.CodeLevel, `you are Developer in haw/lab/world (ClusterRole "view"); delete pods needs Maintainer or Owner (ask alice, dave).`},
		{bob, authz.Question{Verb: "bind", Resource: "pods"}, authz.No, authz.CodeNoLevel, `you are Developer in haw/lab/world (ClusterRole "view"); no GitLab role there allows bind pods. Ask the cluster's administrators.`},
		{mallory, authz.Question{Verb: "get", Resource: "pods"}, authz.No, authz.CodeNoMember, `namespace "haw-lab-world" is not one you have a GitLab role in, if it exists. "kubectl get namespaces" is refused too, and lists yours.`},
		{99, authz.Question{Verb: "get", Resource: "pods"}, authz.No, authz.CodeNoMember, `namespace "haw-lab-world" is not one you have a GitLab role in, if it exists. "kubectl get namespaces" is refused too, and lists yours.`},
	} {
		c.q.Namespace = "haw-lab-world"
		e := v.Explain(c.user, c.q, now)
		got := e.ForPerson()
		if got.Allowed != c.want || got.Code != c.code || got.Sentence != c.says || (got.Trail == nil) != (c.code == authz.CodeNoMember) {
			t.Errorf("%+v: %+v", c.q, got)
		}
		if c.want == authz.No && v.User(c.user, c.q, now) != got.Sentence {
			t.Errorf("the webhook says %s", v.User(c.user, c.q, now))
		}
	}
}

func BenchmarkRights(b *testing.B) {
	s, names := large(10_000)
	p, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.ProjectSource}})
	if err != nil {
		b.Fatal(err)
	}
	v := authz.NewView(s, p, names).WithGaps(map[authz.SourceID]authz.Gap{})
	for _, user := range []int64{1, 2, 500} {
		b.Run(fmt.Sprintf("%d", len(v.Rights(user, time.Now()))), func(b *testing.B) {
			b.ReportAllocs()
			at := time.Now()
			for b.Loop() {
				v.Rights(user, at)
			}
		})
	}
}
