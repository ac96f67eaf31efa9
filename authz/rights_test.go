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
			said := strings.NewReplacer("it is their own", "it is your own", "(they are ", "(you are ").Replace(c.want)
			if authz.ToUser(got.Text) != said {
				t.Errorf("to the person: got  %s\nwant %s", authz.ToUser(got.Text), said)
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
				{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Group: 3},
				{Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Levels: []authz.Level{authz.Guest}},
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
		got := e.ForUser()
		if same := v.Answer(c.user, c.q, now); same.Sentence != got.Sentence || same.Allowed != got.Allowed || same.Code != got.Code || !slices.Equal(same.Trail, got.Trail) || !slices.Equal(same.Ask, got.Ask) {
			t.Errorf("Answer is %+v, want %+v", same, got)
		}
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

// TestNearMisses: what would have given more, and why it does not, and what helps.
func TestNearMisses(t *testing.T) {
	change := func(s *authz.Snapshot, f func(p *authz.Project)) {
		p := s.Projects[10]
		f(&p)
		s.Projects[10] = p
	}
	group := func(s *authz.Snapshot, id int64, f func(g *authz.Group)) {
		g := s.Groups[id]
		f(&g)
		s.Groups[id] = g
	}
	for _, c := range []struct {
		name   string
		user   int64
		ns     string
		verb   string
		world  func(*authz.Snapshot)
		policy func(*authz.PolicyConfig)
		gap    authz.Absence
		near   string // one of the lines
		remedy string
		who    string
	}{
		{
			"mapped to nothing", carol, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				change(s, func(p *authz.Project) {
					p.Members = append(p.Members, authz.Member{User: carol, Level: authz.Reporter})
				})
			}, nil, "",
			"Reporter in haw/lab/world is mapped to nothing (authz.roles maps Developer, Maintainer or Owner)", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{"no member", mallory, "haw-lab-world", "get", nil, nil, "", "no member of haw/lab/world", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave"},
		{"in a group", mallory, "haw-lab", "delete", nil, nil, "", "no member of haw/lab", "make them Maintainer in haw/lab, which an Owner there can", "dave"},
		{"a level too low", bob, "haw-lab-world", "delete", nil, nil, "", "", "make them Maintainer in haw/lab/world, which a Maintainer or Owner there can", "alice dave"},
		{
			"a membership that ended", mallory, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				group(s, 2, func(g *authz.Group) {
					g.Members = append(g.Members, authz.Member{User: mallory, Level: authz.Owner, Expires: authz.Date{Year: 2026, Month: 11, Day: 21}})
				})
			},
			nil, "", "Owner in haw/lab/world, inherited from haw/lab, ended on 2026-11-21", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{
			"an invitation that ended", carol, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				group(s, 2, func(g *authz.Group) {
					g.Links = []authz.Link{{Group: 3, Level: authz.Owner, Expires: authz.Date{Year: 2026, Month: 11, Day: 22}}}
				})
			},
			nil, "", "Maintainer in haw/lab/world, through the group guests, which is invited into haw/lab, ended on 2026-11-22", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{
			"capped by an invitation", carol, "haw-lab-world", "delete",
			func(s *authz.Snapshot) {
				group(s, 2, func(g *authz.Group) { g.Links = []authz.Link{{Group: 3, Level: authz.Developer}} })
			}, nil, "",
			"they are Maintainer in guests, and the invitation gives Developer at most", "invite the group guests into haw/lab with Maintainer instead of Developer, which an Owner there can", "dave",
		},
		{
			"a locked group", carol, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				group(s, 2, func(g *authz.Group) { g.ShareLock = true })
				change(s, func(p *authz.Project) { p.Links = []authz.Link{{Group: 3, Level: authz.Developer}} })
			},
			nil, "", "Developer in haw/lab/world, through the group guests, does not count: haw/lab forbids to invite groups into its projects", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{
			"members of the group above an invited one", carol, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				group(s, 1, func(g *authz.Group) { g.Links = []authz.Link{{Group: 4, Level: authz.Developer}} })
			}, nil, "",
			"Maintainer in guests/inner is not their own membership: of a group that is invited into a group, here into haw, only direct members count", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{
			"minimal access", mallory, "haw-lab-world", "get",
			func(s *authz.Snapshot) {
				group(s, 1, func(g *authz.Group) {
					g.Members = append(g.Members, authz.Member{User: mallory, Level: authz.MinimalAccess})
				})
			}, nil, "",
			"Minimal access in haw counts for nothing", "make them Developer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{"rights below", alice, "haw", "get", nil, nil, "", "more rights in haw-lab-world (Maintainer), below haw: rights go down, not up", "make them Developer in haw, which an Owner there can", "dave"},
		{
			"blocked", bob, "haw-lab-world", "get", func(s *authz.Snapshot) { u := s.Users[bob]; u.State = "blocked"; s.Users[bob] = u }, nil, "",
			"the account is blocked in GitLab: only active ones have rights", "make the account active again (it is blocked), which GitLab's administrators can", "",
		},
		{"bot", bot, "haw-lab-world", "get", func(s *authz.Snapshot) {
			group(s, 2, func(g *authz.Group) { g.Members = append(g.Members, authz.Member{User: bot, Level: authz.Owner}) })
		}, nil, "", "the account is a bot or service account, and authz.bots is not set", "use a person's account, or set authz.bots, which gives rights to all bots and which the cluster's administrators can", ""},
		{
			"person left out", bob, "haw-lab-world", "get", nil, func(c *authz.PolicyConfig) { c.Exclude.People = []string{"bob"} }, "",
			"authz.exclude leaves the account out", "take the account out of authz.exclude, which the cluster's administrators can", "",
		},
		{
			"source left out", bob, "haw-lab-world", "get", nil, func(c *authz.PolicyConfig) { c.Exclude.Paths = []string{"haw/lab/*"} }, "",
			"authz.exclude leaves haw/lab/world out", "change the configuration (authz.exclude leaves haw/lab/world out), which the cluster's administrators can", "",
		},
		{
			"archived", alice, "haw-lab-world", "delete", func(s *authz.Snapshot) { change(s, func(p *authz.Project) { p.Archived = true }) }, nil, "",
			`haw/lab/world, or a group above it, is archived (authz.archived: view), where nobody has more than ClusterRole "view"`,
			"haw/lab/world, or a group above it, is archived (authz.archived: view): unarchive or restore it in GitLab, which an Owner can", "dave",
		},
		{"no level allows it", alice, "haw-lab-world", "bind", nil, nil, "", "", "no level in haw/lab/world allows bind pods: map a ClusterRole that does, by authz.roles or authz.extra, which the cluster's administrators can", ""},
		{"held", alice, "haw-lab-world", "get", nil, nil, authz.AbsentHeld, "", "look at what is held with `gl-k8s-integrator plan --held`, and approve it there; or wait for its turn", ""},
		{
			"not read", bob, "haw-lab-world", "delete", func(s *authz.Snapshot) { s.Missing = map[authz.SourceID]string{authz.GroupID(1): "HTTP 502"} }, nil, "",
			"haw/lab/world could not be read completely from GitLab (HTTP 502): nothing of it is changed until then", "make them Maintainer in haw/lab/world, which a Maintainer or Owner there can", "alice dave",
		},
		{"a path instead of a name", bob, "haw/lab/world", "get", nil, nil, "", "the namespace of haw/lab/world is haw-lab-world", "", ""},
		{
			"what would have the name", bob, "haw-lab-world", "get", nil, func(c *authz.PolicyConfig) { c.Kinds = []authz.SourceKind{authz.GroupSource} }, "none",
			"haw/lab/world would have this namespace, but authz.kinds has no project", "", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			p := newPolicy(t, func(pc *authz.PolicyConfig) {
				if c.policy != nil {
					c.policy(pc)
				}
			})
			names, _ := authz.AssignNames(policy(t).Sources(s), nil, nil, nil)
			gaps := map[authz.SourceID]authz.Gap{}
			switch c.gap {
			case "":
			case "none":
				names, _ = authz.AssignNames(p.Sources(s), nil, nil, nil)
			default:
				gaps[authz.ProjectID(10)] = authz.Gap{All: c.gap}
			}
			if c.world != nil {
				c.world(s)
			}
			v := authz.NewView(s, p, names).WithRules(rules()).WithGaps(gaps)
			e := v.Explain(c.user, authz.Question{Namespace: c.ns, Verb: c.verb, Resource: "pods"}, now)
			if e.Allowed != authz.No || (c.near != "" && !slices.Contains(e.Near, c.near)) {
				t.Errorf("%s: %q\nwant %q", e.Allowed, e.Near, c.near)
			}
			var text, who string
			if len(e.Remedies) > 0 {
				text, who = e.Remedies[0].Text, strings.Join(e.Remedies[0].Who, " ")
			}
			if text != c.remedy || who != c.who || len(e.Remedies) > 1 {
				t.Errorf("remedies %+v\nwant %s (%s)", e.Remedies, c.remedy, c.who)
			}
		})
	}
}

// TestRemediesHelp is the law of remedies: who does all that is named may, by GitLab.
func TestRemediesHelp(t *testing.T) {
	done := map[authz.Do]int{}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 125))
		s := authztest.Snapshot(r)
		for range 6 {
			authztest.Change(r, s)
		}
		if circular(s) {
			continue
		}
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Archived = []authz.Frozen{authz.FrozenNone, authz.FrozenView, authz.FrozenKeep}[r.IntN(3)]
			pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Levels: []authz.Level{authz.Guest}}, {Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Group: 3}}
		})
		names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
		v := authz.NewView(s, p, names).WithRules(rules()).WithGaps(map[authz.SourceID]authz.Gap{})
		for id, ns := range names {
			user := r.Int64N(10) + 1
			q := authz.Question{Namespace: ns, Verb: []string{"get", "delete"}[r.IntN(2)], Resource: "pods"}
			e := v.Explain(user, q, now)
			if (e.Allowed == authz.Yes) != (len(e.Remedies) == 0) {
				t.Fatalf("seed %d: user %d in %s: %s, %+v", seed, user, ns, e.Allowed, e.Remedies)
			}
			after, ok := authztest.Clone(s), true
			for _, m := range e.Remedies {
				done[m.Do]++
				ok = ok && remedied(after, user, m)
			}
			if !ok || e.Allowed == authz.Yes {
				continue
			}
			if got := authz.NewView(after, p, names).WithRules(rules()).WithGaps(map[authz.SourceID]authz.Gap{}).Explain(user, q, now); got.Allowed != authz.Yes {
				t.Fatalf("seed %d: user %d %s in %s (%s): after %+v it is %+v", seed, user, q.Verb, ns, id, e.Remedies, got)
			}
		}
	}
	for _, do := range []authz.Do{authz.DoAccount, authz.DoLevel, authz.DoInvitation, authz.DoUnarchive} {
		if done[do] < 5 {
			t.Errorf("%d remedies %q", done[do], do)
		}
	}
}

// remedied does in GitLab what a remedy says; false if it is not about GitLab.
func remedied(s *authz.Snapshot, user int64, m authz.Remedy) bool {
	g, p := s.Groups[m.In.ID], s.Projects[m.In.ID]
	row := authz.Member{User: user, Level: m.Level}
	switch {
	case m.Do == authz.DoAccount:
		u, known := s.Users[user]
		u.State = authz.StateActive
		s.Users[user] = u
		return known && u.Human
	case m.Do == authz.DoUnarchive && m.In.Kind == authz.GroupSource:
		g.Archived, g.MarkedForDeletion = false, false
	case m.Do == authz.DoUnarchive:
		p.Archived, p.MarkedForDeletion = false, false
	case m.Do == authz.DoLevel && m.In.Kind == authz.GroupSource:
		g.Members = append(slices.Clone(g.Members), row)
	case m.Do == authz.DoLevel:
		p.Members = append(slices.Clone(p.Members), row)
	case m.Do == authz.DoInvitation && m.In.Kind == authz.GroupSource:
		g.Links = append(slices.Clone(g.Links), authz.Link{Group: m.Group, Level: m.Level})
	case m.Do == authz.DoInvitation:
		p.Links = append(slices.Clone(p.Links), authz.Link{Group: m.Group, Level: m.Level})
	default:
		return false
	}
	if m.In.Kind == authz.GroupSource {
		s.Groups[m.In.ID] = g
	} else {
		s.Projects[m.In.ID] = p
	}
	return true
}

// TestAnyRight: without a verb the question is whether there is any right at all.
func TestAnyRight(t *testing.T) {
	s, p := world(), policy(t)
	s.Groups[1].Members[0].Level = authz.Reporter
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	gaps := map[authz.SourceID]authz.Gap{authz.GroupID(2): {All: authz.AbsentPlan}}
	v := authz.NewView(s, p, names).WithGaps(gaps)
	for _, c := range []struct {
		user int64
		ns   string
		want authz.Verdict
		says string
	}{
		{bob, "haw-lab-world", authz.Yes, `you have ClusterRole "view" here (you are Developer in haw/lab/world).`},
		{dave, "haw-lab-world", authz.No, `you are Reporter in haw/lab/world, which gives no right in the cluster; any right needs Developer, Maintainer or Owner (ask alice, bob).`},
		{bob, "haw-lab", authz.No, `GitLab gives you ClusterRole "view" here (you are Developer in haw/lab), but namespace "haw-lab" is not in the cluster yet: the integrator is in mode plan, in which it writes nothing. Ask the cluster's administrators.`},
	} {
		if e := v.Explain(c.user, authz.Question{Namespace: c.ns}, now); e.Allowed != c.want || e.Sentence != c.says || e.Request != "" {
			t.Errorf("%s\ngot  %s\nwant %s", e.Allowed, e.Sentence, c.says)
		}
	}
}

// TestKeptRights: what somebody still has and GitLab does not give is allowed, and why is said.
func TestKeptRights(t *testing.T) {
	s, p := world(), policy(t)
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	v := authz.NewView(s, p, names).WithRules(rules()).WithGaps(map[authz.SourceID]authz.Gap{
		authz.ProjectID(10): {Keeps: []authz.Lack{{ClusterRole: "edit", Why: authz.AbsentHeld, Users: []int64{bob, mallory}}}},
	})
	q := authz.Question{Namespace: "haw-lab-world", Verb: "delete", Resource: "pods"}
	for user, says := range map[int64]string{
		bob:     `you may delete pods here by ClusterRole "edit" (you are Developer in haw/lab/world), which GitLab does not give you.`,
		mallory: `you may delete pods here by ClusterRole "edit", which GitLab does not give you.`,
	} {
		e := v.Explain(user, q, now)
		if e.Allowed != authz.Yes || e.Code != authz.CodeKept || e.Sentence != says || len(e.Kept) != 1 || !strings.HasPrefix(e.Kept[0].Why, "taking it away is held back") || len(e.Remedies) > 0 {
			t.Errorf("%+v", e)
		}
	}
	if e := v.Explain(carol, q, now); e.Allowed != authz.No || e.Kept != nil {
		t.Errorf("%+v", e)
	}
}

// TestRulesThatWereNotRead: nobody has refused it yet, so that is not said either.
func TestRulesThatWereNotRead(t *testing.T) {
	s, p := world(), policy(t)
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	v := authz.NewView(s, p, names).WithGaps(map[authz.SourceID]authz.Gap{}).WithRules(map[string][]authz.Rule{"edit": rules()["edit"]})
	q := authz.Question{Namespace: "haw-lab-world", Verb: "get", Resource: "pods"}
	e := v.Explain(bob, q, now)
	if e.Allowed != authz.Unknown || e.Code != authz.CodeRulesUnread || e.Sentence != "whether you may get pods here (you are Developer in haw/lab/world) is not known: what a ClusterRole allows was not read. Try again in a minute." {
		t.Errorf("%+v", e)
	}
}
