package rbacsync_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// scene is a cluster that agrees with a GitLab, and what GitLab says now.
type scene struct {
	policy      authz.Policy
	before, now *authz.Snapshot
	have        *rbacsync.Observed
	evidence    func(*rbacsync.Evidence)
}

func newScene(p authz.Policy, before, now *authz.Snapshot) scene {
	empty := &rbacsync.Observed{}
	changes, _ := rbacsync.Plan(empty, rbacsynctest.WantedFor(p, before, empty))
	return scene{policy: p, before: before, now: now, have: rbacsynctest.Apply(empty, changes)}
}

func (s scene) split(l rbacsync.Limits) (rbacsync.Verdict, []rbacsync.Change) {
	want := rbacsynctest.WantedFor(s.policy, s.now, s.have)
	changes, _ := rbacsync.Plan(s.have, want)
	e := rbacsync.Evidence{Snapshot: s.now, Before: s.before, Policy: s.policy}
	if s.evidence != nil {
		s.evidence(&e)
	}
	v := l.Split(changes, want, e, rbacsynctest.Noon)
	allowed, _ := rbacsync.Plan(s.have, v.Want)
	return v, allowed
}

// TestWhatIsInferred is docs/invariants.md, decision 9: only an absence in a list can be held; what GitLab says goes on at once.
func TestWhatIsInferred(t *testing.T) {
	t.Parallel()
	day := func(d int) authz.Date { return authz.Date{Year: 2026, Month: 11, Day: d} }
	// HawWorld, with bob and carol also coming from elsewhere.
	base := func() *authz.Snapshot {
		s := rbacsynctest.CopySnap(rbacsynctest.HawWorld())
		s.Users[4] = authz.User{ID: 4, Username: "carol", State: authz.StateActive, Human: true}
		s.Groups[8] = authz.Group{ID: 8, Path: "guests", Members: []authz.Member{{User: 4, Level: authz.Developer}}}
		p := s.Projects[42]
		p.Links = []authz.Link{{Group: 8, Level: authz.Developer}}
		p.Members = append(p.Members, authz.Member{User: 2, Level: authz.Developer})
		s.Projects[42] = p
		return s
	}
	project := func(s *authz.Snapshot, f func(*authz.Project)) { p := s.Projects[42]; f(&p); s.Projects[42] = p }
	group := func(s *authz.Snapshot, id int64, f func(*authz.Group)) {
		g := s.Groups[id]
		f(&g)
		s.Groups[id] = g
	}
	bobLeft := func(s *authz.Snapshot) {
		project(s, func(p *authz.Project) { p.Members = p.Members[1:] })
	}
	bob := rbacsync.Membership{Source: authz.ProjectID(42), User: 3}
	const heldBob = "revoke project/42 view 3 by user/3"
	for _, c := range []struct {
		name     string
		before   func(*authz.Snapshot)
		now      func(*authz.Snapshot)
		evidence func(*rbacsync.Evidence)
		policy   func(*authz.PolicyConfig)
		held     string
	}{
		{name: "nothing changed", now: func(*authz.Snapshot) {}},
		{name: "a row is missing", now: bobLeft, held: heldBob},
		{name: "blocked", now: func(s *authz.Snapshot) { u := s.Users[3]; u.State = "blocked"; s.Users[3] = u }},
		{name: "blocked and their row missing", now: func(s *authz.Snapshot) { bobLeft(s); u := s.Users[3]; u.State = "banned"; s.Users[3] = u }},
		{name: "a lower level in the row", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Members[0].Level = authz.Guest }) }},
		{
			name: "expired, still listed", before: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Members[0].Expires = day(22) }) },
			now: func(*authz.Snapshot) {},
		},
		{name: "expired, and GitLab took the row away", before: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Members[0].Expires = day(22) }) }, now: bobLeft},
		{name: "would expire tomorrow, missing today", before: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Members[0].Expires = day(23) }) }, now: bobLeft, held: heldBob},
		{name: "GitLab says 404 of the membership", now: bobLeft, evidence: func(e *rbacsync.Evidence) { e.Levels = map[rbacsync.Membership]authz.Level{bob: 0} }},
		{name: "GitLab says a lower level", now: bobLeft, evidence: func(e *rbacsync.Evidence) { e.Levels = map[rbacsync.Membership]authz.Level{bob: authz.Guest} }},
		{name: "GitLab says they have it still", now: bobLeft, evidence: func(e *rbacsync.Evidence) { e.Levels = map[rbacsync.Membership]authz.Level{bob: authz.Developer} }, held: heldBob},
		{name: "nothing known before: a row is missing", now: bobLeft, evidence: func(e *rbacsync.Evidence) { e.Before = nil }, held: heldBob},
		{name: "nothing known before: 404, but groups are invited, and GitLab's lists lack who comes through two of them", now: bobLeft, evidence: func(e *rbacsync.Evidence) { e.Before, e.Levels = nil, map[rbacsync.Membership]authz.Level{bob: 0} }, held: heldBob},
		{
			name: "nothing known before: 404, and nobody is invited", now: func(s *authz.Snapshot) { group(s, 7, func(g *authz.Group) { g.Members = nil }) },
			evidence: func(e *rbacsync.Evidence) {
				e.Before, e.Levels = nil, map[rbacsync.Membership]authz.Level{{Source: authz.GroupID(7), User: 2}: 0}
			},
			held: "revoke project/42 edit 2 by user/2",
		},
		{
			name: "an invitation is missing, GitLab says 404 of one who came by it", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Links = nil }) },
			evidence: func(e *rbacsync.Evidence) {
				e.Levels = map[rbacsync.Membership]authz.Level{{Source: authz.ProjectID(42), User: 4}: 0}
			},
		},
		{
			name: "an invitation is missing, and GitLab's lists never showed who came second-hand",
			before: func(s *authz.Snapshot) {
				group(s, 8, func(g *authz.Group) { g.Members, g.Links = nil, []authz.Link{{Group: 9, Level: authz.Developer}} })
				s.Groups[9] = authz.Group{ID: 9, Path: "second", Members: []authz.Member{{User: 4, Level: authz.Developer}}}
			},
			now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Links = nil }) },
			evidence: func(e *rbacsync.Evidence) {
				e.Levels = map[rbacsync.Membership]authz.Level{{Source: authz.ProjectID(42), User: 4}: 0, {}: 0}
			},
			held: "revoke project/42 view 4 by project/42",
		},
		{
			name: "the higher of two rows is missing", now: func(s *authz.Snapshot) { group(s, 7, func(g *authz.Group) { g.Members = nil }) },
			held: "revoke group/7 edit 2 by user/2\nrevoke project/42 edit 2 by user/2",
		},
		{name: "an account is missing", now: func(s *authz.Snapshot) { delete(s.Users, 3) }, held: heldBob},
		{name: "an account is destroyed", now: func(s *authz.Snapshot) { delete(s.Users, 3) }, evidence: func(e *rbacsync.Evidence) { e.Gone = map[authz.SourceID]bool{authz.UserID(3): true} }},
		{
			name: "a project is missing", now: func(s *authz.Snapshot) { delete(s.Projects, 42) },
			held: "revoke project/42 edit 2 by project/42\nrevoke project/42 gitlab-group-master 0 by project/42\nrevoke project/42 view 3 by project/42\nrevoke project/42 view 4 by project/42",
		},
		{name: "a project is destroyed", now: func(s *authz.Snapshot) { delete(s.Projects, 42) }, evidence: func(e *rbacsync.Evidence) { e.Gone = map[authz.SourceID]bool{authz.ProjectID(42): true} }},
		{
			name: "GitLab still answers for the project", now: func(s *authz.Snapshot) { delete(s.Projects, 42); u := s.Users[3]; u.State = "blocked"; s.Users[3] = u },
			evidence: func(e *rbacsync.Evidence) { e.Gone = map[authz.SourceID]bool{authz.ProjectID(42): false} },
			held:     "revoke project/42 edit 2 by project/42\nrevoke project/42 gitlab-group-master 0 by project/42\nrevoke project/42 view 4 by project/42",
		},
		{
			name: "a group is missing with its project: one cause", now: func(s *authz.Snapshot) { delete(s.Projects, 42); delete(s.Groups, 7) },
			held: "revoke group/7 edit 2 by group/7\nrevoke group/7 gitlab-group-master 0 by group/7\nrevoke project/42 edit 2 by group/7\n" +
				"revoke project/42 gitlab-group-master 0 by group/7\nrevoke project/42 view 3 by group/7\nrevoke project/42 view 4 by group/7",
		},
		{
			name: "a group is destroyed, which takes its project along", now: func(s *authz.Snapshot) { delete(s.Projects, 42); delete(s.Groups, 7) },
			evidence: func(e *rbacsync.Evidence) { e.Gone = map[authz.SourceID]bool{authz.GroupID(7): true} },
		},
		{name: "an invitation of a group is missing", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Links = nil }) }, held: "revoke project/42 view 4 by project/42"},
		{name: "an invitation with a lower level", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Links[0].Level = authz.Guest }) }},
		{name: "an invitation that expired", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Links[0].Expires = day(22) }) }},
		{
			name: "a row of the invited group is missing", now: func(s *authz.Snapshot) { group(s, 8, func(g *authz.Group) { g.Members = nil }) },
			held: "revoke project/42 view 4 by user/4\nrevoke group/8 view 4 by user/4",
		},
		{name: "sharing was locked", now: func(s *authz.Snapshot) { group(s, 7, func(g *authz.Group) { g.ShareLock = true }) }},
		{name: "the project was transferred", now: func(s *authz.Snapshot) {
			project(s, func(p *authz.Project) { p.Group, p.Path = 8, "guests/world" })
		}},
		{name: "the project was archived", now: func(s *authz.Snapshot) { project(s, func(p *authz.Project) { p.Archived = true }) }},
		{name: "the configuration leaves it out", now: func(*authz.Snapshot) {}, policy: func(c *authz.PolicyConfig) { c.Exclude.Sources = []authz.SourceID{authz.ProjectID(42)} }},
		{name: "the configuration leaves a person out", now: func(*authz.Snapshot) {}, policy: func(c *authz.PolicyConfig) { c.Exclude.People = []string{"bob"} }},
		{name: "the configuration maps less", now: func(*authz.Snapshot) {}, policy: func(c *authz.PolicyConfig) { c.Roles = c.Roles[:1] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := base()
			if c.before != nil {
				c.before(before)
			}
			now := rbacsynctest.CopySnap(before)
			c.now(now)
			config := authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}}
			p, err := authz.NewPolicy(config)
			if err != nil {
				t.Fatal(err)
			}
			s := newScene(p, before, now)
			if c.name == "expired, still listed" || strings.HasPrefix(c.name, "expired, and") { // the cluster is of yesterday
				fresh := rbacsynctest.CopySnap(before)
				project(fresh, func(p *authz.Project) { p.Members[0].Expires = authz.Date{} })
				s.have = newScene(p, fresh, fresh).have
			}
			if c.policy != nil {
				c.policy(&config)
				if s.policy, err = authz.NewPolicy(config); err != nil {
					t.Fatal(err)
				}
			}
			s.evidence = c.evidence
			v, allowed := s.split(rbacsynctest.Strict)
			if d := cmp.Diff(c.held, rbacsynctest.Keys(v.Held)); d != "" {
				t.Errorf("held (-want +got):\n%s", d)
			}
			after := rbacsynctest.Apply(s.have, allowed)
			if d := cmp.Diff(rightsIn(after), union(rightsIn2(rbacsynctest.WantedFor(s.policy, s.now, s.have)), v.Held, s.have)); d != "" {
				t.Errorf("rights after it, and what is wanted or held:\n%s", d)
			}
		})
	}
}

// rightsIn lists "namespace role user" of a cluster.
func rightsIn(o *rbacsync.Observed) []string {
	var out []string
	for _, l := range o.Live {
		if l.Binding != nil {
			for _, u := range l.Binding.Users {
				out = append(out, fmt.Sprint(l.Key.Namespace, " ", l.Binding.Role, " ", u))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func rightsIn2(w *rbacsync.Wanted) []string {
	o := &rbacsync.Observed{}
	for i := range w.Objects {
		o.Live = append(o.Live, &rbacsync.Live{Object: w.Objects[i]})
	}
	return rightsIn(o)
}

func union(rights []string, held []rbacsync.Item, have *rbacsync.Observed) []string {
	rights = slices.Clone(rights)
	names, _ := have.Names(rbacsynctest.Issuer)
	for _, i := range held {
		if i.User != 0 && i.Role != "" {
			rights = append(rights, fmt.Sprint(names[i.Source], " ", i.Role, " ", i.User))
		}
	}
	slices.Sort(rights)
	return slices.Compact(rights)
}

func scopes(items []rbacsync.Item) string {
	seen := map[string]int{}
	var order []string
	for _, i := range items {
		k := i.Scope.String()
		if seen[k] == 0 {
			order = append(order, k)
		}
		seen[k]++
	}
	return strings.Join(order, " ")
}

// TestLimits: what is over a limit is held, as a whole; all else goes on.
func TestLimits(t *testing.T) {
	t.Parallel()
	p := rbacsynctest.Policy(t)
	perGroup := func(n int) rbacsync.Limits { return rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: n}} }
	overall := func(n int) rbacsync.Limits { return rbacsync.Limits{Overall: rbacsync.Limit{Causes: n}} }
	// Users 1 to 8 are of group 1, 9 to 16 of group 2 …
	dropped := func(users ...int64) func(*authz.Snapshot) {
		return func(s *authz.Snapshot) {
			for _, u := range users {
				rbacsynctest.Drop(s, u)
			}
		}
	}
	for _, c := range []struct {
		name     string
		limits   rbacsync.Limits
		change   func(*authz.Snapshot)
		evidence func(*rbacsync.Evidence)
		held     string // scopes
	}{
		{"no limits", rbacsync.Limits{}, dropped(1, 2, 3, 4, 9, 10), nil, ""},
		{"within", perGroup(3), dropped(1, 2, 3), nil, ""},
		{"over, in one group only", perGroup(3), dropped(1, 2, 3, 4, 9), nil, "group/1"},
		{"one user is one cause, wherever they are missing", perGroup(1), dropped(1), nil, ""},
		{"a group that is missing with all below is one", perGroup(1), func(s *authz.Snapshot) { delete(s.Groups, 1001); delete(s.Projects, 1001) }, nil, ""},
		{"two projects that are missing are two", perGroup(1), func(s *authz.Snapshot) { delete(s.Projects, 1); delete(s.Projects, 1001) }, nil, "group/1"},
		{"blocked people count nowhere", perGroup(1), func(s *authz.Snapshot) {
			for id := range int64(7) {
				u := s.Users[id+1]
				u.State = "blocked"
				s.Users[id+1] = u
			}
			rbacsynctest.Drop(s, 8)
		}, nil, ""},
		{"overall: the oldest groups go on", overall(4), dropped(1, 2, 9, 10, 17, 18), nil, "group/3"},
		{"overall: a person missing in two groups is one", overall(1), func(s *authz.Snapshot) { rbacsynctest.Drop(s, 1) }, nil, ""},
		{
			"a group over its own limit takes nothing of the overall one",
			rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}, Overall: rbacsync.Limit{Causes: 2}},
			dropped(1, 2, 3, 4, 9, 17), nil, "group/1",
		},
		{"the fraction counts when it is more", rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1, Fraction: 0.5}}, dropped(1, 2, 3), nil, ""},
		{"but not when it is less", rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1, Fraction: 0.1}}, dropped(1, 2, 3), nil, "group/1"},
		{"drips count: what passed within the window", perGroup(3), dropped(1, 2), func(e *rbacsync.Evidence) {
			for u := range int64(2) {
				e.Past = append(e.Past, rbacsync.Past{At: rbacsynctest.Noon.Add(-30 * time.Minute), Scope: authz.GroupID(1), Cause: authz.UserID(50 + u)})
			}
		}, "group/1"},
		{"not for ever", perGroup(3), dropped(1, 2), func(e *rbacsync.Evidence) {
			for u := range int64(2) {
				e.Past = append(e.Past, rbacsync.Past{At: rbacsynctest.Noon.Add(-time.Hour), Scope: authz.GroupID(1), Cause: authz.UserID(50 + u)})
			}
		}, ""},
		{"the same cause again is still one", perGroup(1), dropped(1), func(e *rbacsync.Evidence) {
			e.Past = []rbacsync.Past{{At: rbacsynctest.Noon.Add(-time.Minute), Scope: authz.GroupID(1), Cause: authz.UserID(1)}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := rbacsynctest.Organisation(4, 8)
			now := rbacsynctest.CopySnap(before)
			c.change(now)
			s := newScene(p, before, now)
			s.evidence = c.evidence
			v, _ := s.split(c.limits)
			if got := scopes(v.Held); got != c.held {
				t.Errorf("held in %q, want %q\n%s", got, c.held, rbacsync.HeldText(v.Held))
			}
		})
	}
}

// TestNobodyDelaysABlock: whatever an attacker does with groups, projects and people of their own (and people can be
// added without being asked), a block counts at once: their own, and everybody else's. An honest removal elsewhere
// goes on as well.
func TestNobodyDelaysABlock(t *testing.T) {
	t.Parallel()
	const attacker, victim = 1, 9
	before := rbacsynctest.Organisation(3, 8)
	for id := range int64(400) { // their groups came later, so their ids are higher
		g := 5000 + id
		before.Groups[g] = authz.Group{ID: g, Path: fmt.Sprintf("evil%d", id), Members: []authz.Member{{User: attacker, Level: authz.Owner}, {User: 2 + id%20, Level: authz.Developer}}}
		before.Projects[g] = authz.Project{ID: g, Group: g, Path: fmt.Sprintf("evil%d/p", id)}
	}
	now := rbacsynctest.CopySnap(before)
	for id := range int64(400) {
		g := now.Groups[5000+id]
		g.Members = nil
		now.Groups[5000+id] = g
		if id%2 == 0 {
			delete(now.Projects, 5000+id)
		}
	}
	for _, u := range []int64{attacker, victim} {
		user := now.Users[u]
		user.State = "blocked"
		now.Users[u] = user
	}
	rbacsynctest.Drop(now, 17) // an honest removal in group 3
	s := newScene(rbacsynctest.Policy(t), before, now)
	v, allowed := s.split(rbacsync.DefaultLimits())
	if len(v.Held) == 0 {
		t.Error("the attack is not even noticed: this test shows nothing")
	}
	after := rbacsynctest.Apply(s.have, allowed)
	for _, right := range rightsIn(after) {
		f := strings.Fields(right)
		if f[2] == "1" || f[2] == "9" {
			t.Errorf("a blocked person keeps %s", right)
		}
		if f[2] == "17" && strings.HasPrefix(f[0], "top") {
			t.Errorf("an honest removal waits for the attacker: %s", right)
		}
	}
	for _, i := range v.Held {
		if i.Scope.ID < 5000 {
			t.Errorf("held in a group that is none of the attacker's: %s", i.Key())
		}
	}
}

// TestNobodyDelaysWhatGitLabSays: an attacker owns projects in the victim's own top-level group and everywhere else, and
// shuffles whatever members they can, so that every limit is exceeded. Whatever GitLab says of the victim, or of the
// attacker, still counts at once, under the strictest limits and those of a new installation.
func TestNobodyDelaysWhatGitLabSays(t *testing.T) {
	t.Parallel()
	const place = 4242 // project in the victim's group
	row := func(s *authz.Snapshot, user int64, f func(*authz.Member)) {
		p := s.Projects[place]
		for i := range p.Members {
			if p.Members[i].User == user {
				f(&p.Members[i])
			}
		}
		s.Projects[place] = p
	}
	state := func(st authz.UserState) func(*authz.Snapshot, int64) {
		return func(s *authz.Snapshot, user int64) { u := s.Users[user]; u.State = st; s.Users[user] = u }
	}
	gone := func(s *authz.Snapshot, user int64) {
		p := s.Projects[place]
		p.Members = slices.DeleteFunc(p.Members, func(m authz.Member) bool { return m.User == user })
		s.Projects[place] = p
	}
	none := func(*rbacsync.Evidence, int64) {}
	for _, said := range []struct {
		what     string
		change   func(*authz.Snapshot, int64)
		evidence func(*rbacsync.Evidence, int64)
	}{
		{"blocked", state("blocked"), none},
		{"banned", state("banned"), none},
		{"deactivated", state("deactivated"), none},
		{"blocked by LDAP", state("ldap_blocked"), none},
		{"blocked, and gone from every list", func(s *authz.Snapshot, user int64) { state("blocked")(s, user); rbacsynctest.Drop(s, user) }, none},
		{"the account destroyed", func(s *authz.Snapshot, user int64) { rbacsynctest.Drop(s, user); delete(s.Users, user) }, func(e *rbacsync.Evidence, user int64) {
			e.Gone = map[authz.SourceID]bool{authz.UserID(user): true}
		}},
		{"a lower level", func(s *authz.Snapshot, user int64) {
			row(s, user, func(m *authz.Member) { m.Level = authz.Guest })
		}, none},
		{"expired", func(s *authz.Snapshot, user int64) {
			row(s, user, func(m *authz.Member) { m.Expires = authz.Date{Year: 2026, Month: 11, Day: 22} })
		}, none},
		{"GitLab asked: no member", gone, func(e *rbacsync.Evidence, user int64) {
			e.Levels = map[rbacsync.Membership]authz.Level{{Source: authz.ProjectID(place), User: user}: 0}
		}},
		{"the project destroyed", func(s *authz.Snapshot, _ int64) { delete(s.Projects, place) }, func(e *rbacsync.Evidence, _ int64) {
			e.Gone = map[authz.SourceID]bool{authz.ProjectID(place): true}
		}},
	} {
		for seed := range uint64(10) {
			r := rand.New(rand.NewPCG(seed, 9))
			before := rbacsynctest.Organisation(3, 8)
			attacker, victim := int64(1000), int64(9+r.IntN(16)) // who has nothing else in group 1
			if r.IntN(3) == 0 {
				victim = attacker // it is the attacker's own right that is over
			}
			before.Users[attacker] = authz.User{ID: attacker, Username: "attacker", State: authz.StateActive, Human: true}
			before.Projects[place] = authz.Project{ID: place, Group: 1, Path: "top1/place", Members: []authz.Member{{User: victim, Level: authz.Developer}}}
			var own []int64
			for n := range int64(60) {
				id := 6000 + n
				members := []authz.Member{{User: attacker, Level: authz.Owner}}
				for u := range int64(24) { // people can be added without being asked
					members = append(members, authz.Member{User: u + 1, Level: authz.Maintainer})
				}
				before.Projects[id] = authz.Project{ID: id, Group: []int64{1, 2, 3, 1001}[n%4], Path: fmt.Sprintf("evil/p%d", n), Members: members}
				own = append(own, id)
			}
			now := rbacsynctest.CopySnap(before)
			for _, id := range own {
				p := now.Projects[id]
				p.Members = slices.DeleteFunc(p.Members, func(authz.Member) bool { return r.IntN(2) == 0 })
				now.Projects[id] = p
				if r.IntN(4) == 0 {
					delete(now.Projects, id)
				}
			}
			said.change(now, victim)
			s := newScene(rbacsynctest.Policy(t), before, now)
			s.evidence = func(e *rbacsync.Evidence) { said.evidence(e, victim) }
			for name, limits := range map[string]rbacsync.Limits{"strict": rbacsynctest.Strict, "default": rbacsync.DefaultLimits()} {
				v, allowed := s.split(limits)
				if len(v.Held) == 0 {
					t.Errorf("%s, seed %d, %s: the shuffle is not even noticed: this shows nothing", said.what, seed, name)
				}
				names, _ := s.have.Names(rbacsynctest.Issuer)
				right := fmt.Sprint(names[authz.ProjectID(place)], " view ", victim)
				if !slices.Contains(rightsIn(s.have), right) {
					t.Fatalf("%s, seed %d: there was no right to lose", said.what, seed)
				}
				if slices.Contains(rightsIn(rbacsynctest.Apply(s.have, allowed)), right) {
					t.Errorf("%s, seed %d, %s limits: the right is still there", said.what, seed, name)
				}
			}
		}
	}
}

// TestLimitLaws: for random changes of random organisations.
func TestLimitLaws(t *testing.T) {
	t.Parallel()
	p := rbacsynctest.Policy(t)
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		before := rbacsynctest.Organisation(2+r.IntN(3), 4+r.IntN(6))
		now := rbacsynctest.CopySnap(before)
		blocked := map[int64]bool{}
		for id, u := range before.Users {
			switch r.IntN(10) {
			case 0:
				u.State, blocked[id] = "blocked", true
				now.Users[id] = u
			case 1, 2:
				rbacsynctest.Drop(now, id)
			case 3:
				g := now.Groups[1]
				g.Members = append(slices.DeleteFunc(g.Members, func(m authz.Member) bool { return m.User == id }), authz.Member{User: id, Level: authz.Maintainer})
				now.Groups[1] = g
			}
		}
		for id := range before.Projects {
			if r.IntN(8) == 0 {
				delete(now.Projects, id)
			}
		}
		limits := rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1 + r.IntN(4)}, Overall: rbacsync.Limit{Causes: 2 + r.IntN(8)}}
		if r.IntN(3) == 0 {
			limits.Overall = rbacsync.Limit{}
		}
		s := newScene(p, before, now)
		if r.IntN(4) == 0 {
			s.evidence = func(e *rbacsync.Evidence) { e.Before = nil }
		}
		checkLimitLaws(t, seed, s, limits, blocked)
		if t.Failed() {
			return
		}
	}
}

func checkLimitLaws(t *testing.T, seed uint64, s scene, limits rbacsync.Limits, blocked map[int64]bool) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("seed %d: %s", seed, fmt.Sprintf(format, args...))
	}
	input := clone(s.have)
	v, allowed := s.split(limits)
	if d := cmp.Diff(input.Live, s.have.Live, cmp.AllowUnexported(rbacsync.Live{})); d != "" {
		fail("Split changed its input:\n%s", d)
	}
	if again, _ := s.split(limits); cmp.Diff(rbacsynctest.Keys(v.Held), rbacsynctest.Keys(again.Held)) != "" {
		fail("asked again, it holds something else")
	}
	wanted := rightsIn2(rbacsynctest.WantedFor(s.policy, s.now, s.have))
	after := rbacsynctest.Apply(s.have, allowed)
	if d := cmp.Diff(union(wanted, v.Held, s.have), rightsIn(after)); d != "" {
		fail("after it there is not exactly what is wanted or held (-want +got):\n%s", d)
	}
	had := rightsIn(s.have)
	for _, right := range rightsIn(after) {
		if !slices.Contains(had, right) && !slices.Contains(wanted, right) {
			fail("%s is new and not wanted", right)
		}
	}
	for _, i := range v.Held {
		if blocked[i.User] {
			fail("held, though GitLab says they are blocked: %s", i.Key())
		}
		if !v.Holdable[i.Key()] {
			fail("an approval of %s would be forgotten", i.Key())
		}
	}
	for i, c := range allowed {
		if i > 0 && c.Revokes && !allowed[i-1].Revokes {
			fail("%s comes after something that takes nothing away", c)
		}
	}
	settled := s
	settled.have = after
	settled.evidence = func(e *rbacsync.Evidence) {
		if s.evidence != nil {
			s.evidence(e)
		}
		e.Past = v.Passed
	}
	v2, left := settled.split(limits)
	if len(left) > 0 {
		fail("there is something left after it was applied:\n%s", rbacsync.Text(left))
	}
	if len(v.Held) > 0 && s.evidence == nil { // the causes that passed are gone from the plan, so fewer may be held
		for _, i := range v2.Held {
			if !strings.Contains(rbacsynctest.Keys(v.Held), i.Key()) {
				fail("held only after the rest was applied: %s", i.Key())
			}
		}
	}
	approved := s
	approved.evidence = func(e *rbacsync.Evidence) {
		if s.evidence != nil {
			s.evidence(e)
		}
		e.Approved = map[string]string{}
		for _, i := range v.Held {
			e.Approved[i.Key()] = ""
		}
	}
	v3, all := approved.split(limits)
	if len(v3.Held) > 0 {
		fail("approved, and held nevertheless:\n%s", rbacsynctest.Keys(v3.Held))
	}
	if d := cmp.Diff(wanted, rightsIn(rbacsynctest.Apply(s.have, all))); d != "" {
		fail("approved, but not applied:\n%s", d)
	}
}

// TestOneGroupSaysNothingAboutAnother: without an overall limit, what happens in one top-level group changes nothing
// in the others.
func TestOneGroupSaysNothingAboutAnother(t *testing.T) {
	t.Parallel()
	limits := rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 2}}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 4))
		before := rbacsynctest.Organisation(2, 8)
		quiet, loud := rbacsynctest.CopySnap(before), rbacsynctest.CopySnap(before)
		for u := range int64(8) {
			if r.IntN(2) == 0 {
				rbacsynctest.Drop(quiet, u+1)
				rbacsynctest.Drop(loud, u+1)
			}
			if r.IntN(2) == 0 {
				rbacsynctest.Drop(loud, u+9)
			}
		}
		in1 := func(items []rbacsync.Item) string {
			return rbacsynctest.Keys(slices.DeleteFunc(items, func(i rbacsync.Item) bool { return i.Scope != authz.GroupID(1) }))
		}
		a, _ := newScene(rbacsynctest.Policy(t), before, quiet).split(limits)
		b, _ := newScene(rbacsynctest.Policy(t), before, loud).split(limits)
		if d := cmp.Diff(in1(a.Held), in1(b.Held)); d != "" {
			t.Errorf("seed %d: group 2 changes what is held in group 1:\n%s", seed, d)
		}
	}
}

// TestCreations: new namespaces per person and hour, in the order in which GitLab made the sources.
func TestCreations(t *testing.T) {
	t.Parallel()
	const alice, bob = 1, 2
	project := func(id int64, age time.Duration, owners ...int64) authz.Project {
		p := authz.Project{ID: id, Group: 1, Path: fmt.Sprintf("all/p%d", id), CreatedAt: rbacsynctest.Noon.Add(-age)}
		for _, o := range owners {
			p.Members = append(p.Members, authz.Member{User: o, Level: authz.Owner})
		}
		return p
	}
	many := func(from, n int64, age time.Duration, owners ...int64) []authz.Project {
		var out []authz.Project
		for i := range n {
			out = append(out, project(from+i, age-time.Duration(i)*time.Second, owners...))
		}
		return out
	}
	for _, c := range []struct {
		name     string
		projects []authz.Project
		exist    int // so many of them have a namespace
		change   func(*rbacsync.Limits, *rbacsync.Evidence)
		held     []int64
	}{
		{"within", many(1, 3, 10*time.Minute, alice), 0, nil, nil},
		{"over", many(1, 5, 10*time.Minute, alice), 0, nil, []int64{4, 5}},
		{"those that stand count", many(1, 4, 10*time.Minute, alice), 3, nil, []int64{4}},
		{"an hour later they have their turn", many(1, 5, 61*time.Minute, alice), 3, nil, nil},
		{"a long queue goes on at the pace", many(1, 9, 61*time.Minute, alice), 3, nil, []int64{7, 8, 9}},
		{"a new installation finds what is old", many(1, 100, 6*24*time.Hour, alice), 0, nil, nil},
		{"each user for themselves", append(many(1, 3, 10*time.Minute, alice), many(11, 3, 10*time.Minute, bob)...), 0, nil, nil},
		{"adding another owner does not help", append(many(1, 4, 10*time.Minute, alice), project(5, time.Minute, alice, bob), project(6, time.Minute, alice, 3)), 0, nil, []int64{4, 5, 6}},
		{"adding a victim as owner does not delay them", append(many(1, 6, 20*time.Minute, alice, bob), append(many(11, 2, 30*time.Minute, alice), project(21, time.Minute, bob))...), 0, nil, []int64{2, 3, 4, 5, 6}},
		{"no limit", many(1, 9, time.Minute, alice), 0, func(l *rbacsync.Limits, _ *rbacsync.Evidence) { l.Creations = 0 }, nil},
		{"an exempt person", many(1, 9, time.Minute, alice), 0, func(l *rbacsync.Limits, _ *rbacsync.Evidence) { l.Exempt = []int64{alice} }, nil},
		{"approved", many(1, 5, time.Minute, alice), 0, func(_ *rbacsync.Limits, e *rbacsync.Evidence) { e.Approved = map[string]string{"create project/5": ""} }, []int64{4}},
		{"made and destroyed again took its turn", many(1, 3, time.Minute, alice), 0, func(_ *rbacsync.Limits, e *rbacsync.Evidence) {
			e.Past = []rbacsync.Past{{At: rbacsynctest.Noon.Add(-2 * time.Minute), Scope: authz.UserID(alice), Cause: authz.ProjectID(99), Made: true}}
		}, []int64{3}},
		{"a time that GitLab did not tell is old", func() []authz.Project {
			list := many(1, 9, time.Minute, alice)
			for i := range list {
				list[i].CreatedAt = time.Time{}
			}
			return list
		}(), 0, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			now := &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{1: {ID: 1, Path: "all"}}, Projects: map[int64]authz.Project{}}
			for id := range int64(3) {
				now.Users[id+1] = authz.User{ID: id + 1, Username: fmt.Sprintf("u%d", id+1), State: authz.StateActive, Human: true}
			}
			before := rbacsynctest.CopySnap(now)
			for i, p := range c.projects {
				now.Projects[p.ID] = p
				if i < c.exist {
					before.Projects[p.ID] = p
				}
			}
			s := newScene(rbacsynctest.Policy(t), before, now)
			limits := rbacsync.Limits{Creations: 3}
			s.evidence = func(e *rbacsync.Evidence) {
				if c.change != nil {
					c.change(&limits, e)
				}
			}
			if c.change != nil {
				c.change(&limits, &rbacsync.Evidence{})
			}
			v, allowed := s.split(limits)
			var held []int64
			for _, i := range v.Held {
				held = append(held, i.Source.ID)
			}
			slices.Sort(held)
			if d := cmp.Diff(c.held, held); d != "" {
				t.Errorf("held (-want +got):\n%s", d)
			}
			for _, ch := range allowed {
				if slices.Contains(held, ch.Source.ID) && ch.Source.Kind == authz.ProjectSource {
					t.Errorf("planned nevertheless: %s", ch)
				}
			}
		})
	}
}
