package rbacsync_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// contentOf is what somebody who approves a part has seen: each thing in it.
func contentOf(items []rbacsync.Item) string {
	var out []string
	for _, i := range items {
		out = append(out, fmt.Sprintln(i.Change, i.Source, i.Role, i.User))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// TestTheHashIsOfAllThatIsHeld is a law of random changes in GitLab and of the policy, together: two parts have the same hash only if
// the same things are held in them, whoever holds them. So has all of it together. An approval of what has changed since is none.
func TestTheHashIsOfAllThatIsHeld(t *testing.T) {
	t.Parallel()
	strict := rbacsynctest.Strict
	strict.Policy = rbacsync.Limit{Fraction: 1e-9}
	narrow, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles()[:1], Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	parts, ofPolicy, changed := 0, 0, 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 138))
		before, was := rbacsynctest.Organisation(2, 8), rbacsynctest.Policy(t)
		content, hash := map[string]string{}, map[string]string{}
		var last []rbacsync.Item
		for range 12 {
			now := rbacsynctest.CopySnap(before)
			for u := range int64(16) {
				switch r.IntN(12) {
				case 0:
					rbacsynctest.Drop(now, u+1)
				case 1:
					x := now.Users[u+1]
					x.State = "blocked"
					now.Users[u+1] = x
				}
			}
			s := newScene(was, before, now)
			s.policy = narrow
			s.evidence = func(e *rbacsync.Evidence) { e.Was = &was }
			v, _ := s.split(strict)
			for _, sec := range append(rbacsync.Sections(v.Held), rbacsync.Section{Hash: rbacsync.HashOf(v.Held), Items: v.Held}) {
				c := contentOf(sec.Items)
				if other, ok := content[sec.Hash]; ok && other != c {
					t.Fatalf("seed %d: %s names two contents:\n%s", seed, sec.Hash, cmp.Diff(other, c))
				}
				if other, ok := hash[c]; ok && other != sec.Hash {
					t.Fatalf("seed %d: the same is %s and %s:\n%s", seed, other, sec.Hash, c)
				}
				content[sec.Hash], hash[c] = c, sec.Hash
				parts++
				if sec.Items[0].Change == "" {
					continue
				}
				ofPolicy++
				if n := len(slices.DeleteFunc(slices.Clone(sec.Items), func(i rbacsync.Item) bool { return i.Change == "" })); sec.Items[0].All.Count != n {
					t.Fatalf("seed %d: %d rights are said to be taken, and %d are", seed, sec.Items[0].All.Count, n)
				}
			}
			for _, sec := range rbacsync.Sections(last) {
				same := slices.ContainsFunc(rbacsync.Sections(v.Held), func(o rbacsync.Section) bool { return contentOf(o.Items) == contentOf(sec.Items) })
				if _, err := rbacsync.HeldUnder(v.Held, sec.Hash); (err == nil) != same || err != nil && !errors.Is(err, rbacsync.ErrNoSuchHash) {
					t.Fatalf("seed %d: of %s, of which now the same is held: %t: %v", seed, sec.Place(), same, err)
				}
				if !same && sec.Items[0].Change != "" {
					changed++
				}
			}
			last = v.Held
		}
	}
	if parts < 500 || ofPolicy < 300 || changed < 200 {
		t.Errorf("%d parts, %d of a policy, %d of those changed: this shows nothing", parts, ofPolicy, changed)
	}
}

// TestWhoApprovedIsNamedForWhomItWasHeld is a law of random organisations, of which a random half of what is held is approved by
// several people: each right that goes on by that names its approver, and no other right does, whatever is written with it.
func TestWhoApprovedIsNamedForWhomItWasHeld(t *testing.T) {
	t.Parallel()
	p, mixed := rbacsynctest.Policy(t), 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 139))
		before := rbacsynctest.Organisation(2, 16)
		now := rbacsynctest.CopySnap(before)
		for u := range int64(32) {
			switch x := now.Users[u+1]; r.IntN(4) {
			case 0:
				x.State = "blocked"
				now.Users[u+1] = x
			case 1, 2:
				rbacsynctest.Drop(now, u+1)
			}
		}
		s := newScene(p, before, now)
		v, _ := s.split(rbacsynctest.Strict)
		want, approved := map[rbacsync.Right]string{}, map[string]string{}
		for _, i := range v.Held {
			if n := r.IntN(4); n < 3 { // of one it is not known who
				approved[i.Key()] = []string{"gitlab:90", "gitlab:91", ""}[n]
				want[rbacsync.Right{Source: i.Source, Role: i.Role, User: i.User}] = []string{"gitlab:90", "gitlab:91", "an administrator"}[n]
			}
		}
		s.evidence = func(e *rbacsync.Evidence) { e.Approved = approved }
		v, changes := s.split(rbacsynctest.Strict)
		v.NameApprovers(changes)
		got := map[rbacsync.Right]string{}
		for _, c := range changes {
			if c.ApprovedBy != "" {
				t.Fatalf("seed %d: no namespace was held: %s", seed, c)
			}
			_, lost := c.Subjects()
			for u, by := range c.ApprovedFor {
				got[rbacsync.Right{Source: c.Source, Role: c.Role(), User: u}] = by
			}
			if by := slices.Collect(maps.Values(c.ApprovedFor)); len(by) > 0 {
				text := ", approved by " + by[0]
				if len(lost) != len(by) || slices.ContainsFunc(by, func(other string) bool { return other != by[0] }) {
					text, mixed = text+" for ", mixed+1
				} else {
					text += "]"
				}
				if !strings.Contains(c.String(), text) {
					t.Fatalf("seed %d: want %q in %s", seed, text, c)
				}
			} else if strings.Contains(c.String(), "approved") {
				t.Fatalf("seed %d: nobody approved %s", seed, c)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d: who approved what (-want +got):\n%s", seed, d)
		}
	}
	if mixed < 50 {
		t.Errorf("only %d changes were approved for some of them: this shows nothing", mixed)
	}
}

// TestANewNamespaceNamesItsApprover: the one of several that was approved, and nothing else that is written in it.
func TestANewNamespaceNamesItsApprover(t *testing.T) {
	t.Parallel()
	now := &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{1: {ID: 1, Username: "alice", State: authz.StateActive, Human: true}}, Groups: map[int64]authz.Group{1: {ID: 1, Path: "all"}}, Projects: map[int64]authz.Project{}}
	before := rbacsynctest.CopySnap(now)
	for id := range int64(4) {
		now.Projects[id+1] = authz.Project{ID: id + 1, Group: 1, Path: fmt.Sprintf("all/p%d", id+1), CreatedAt: rbacsynctest.Noon, Members: []authz.Member{{User: 1, Level: authz.Owner}}}
	}
	s := newScene(rbacsynctest.Policy(t), before, now)
	s.evidence = func(e *rbacsync.Evidence) { e.Approved = map[string]string{"create project/3": "gitlab:9"} }
	v, changes := s.split(rbacsync.Limits{Creations: 2})
	v.NameApprovers(changes)
	named := 0
	for _, c := range changes {
		want := ""
		if c.Source == authz.ProjectID(3) && c.Key.Kind == rbacsync.KindNamespace {
			named, want = named+1, "gitlab:9"
		}
		if c.ApprovedBy != want || len(c.ApprovedFor) > 0 || strings.Contains(c.String(), ", approved by gitlab:9]") != (want != "") {
			t.Errorf("%s is approved by %q and for %v, want %q", c, c.ApprovedBy, c.ApprovedFor, want)
		}
	}
	if named != 1 {
		t.Errorf("%d namespaces of project 3:\n%s", named, rbacsync.Text(changes))
	}
}

// TestHeldTextCountsWhatIsNotStored: of a large change of the policy it says how much it takes, not how much of that is stored.
func TestHeldTextCountsWhatIsNotStored(t *testing.T) {
	t.Parallel()
	items := []rbacsync.Item{{Source: authz.ProjectID(1), Role: "view", User: 1, Scope: authz.GroupID(1), Why: "missing"}}
	for id := range int64(60) {
		items = append(items, rbacsync.Item{Source: authz.ProjectID(1), Role: "view", User: id + 1, Change: "c0ffee", All: rbacsync.Extent{Sum: "5eed", Count: 7000}, Why: "much"})
	}
	for _, want := range []string{"    and 6950 more\n", "held: 7001. "} {
		if text := rbacsync.HeldText(items); !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
}

// TestApprovalsThatAreOutdated: while something can't be judged, only what may be wanted again for that reason stays approved, and
// not all that ever was.
func TestApprovalsThatAreOutdated(t *testing.T) {
	t.Parallel()
	snap := rbacsynctest.HawWorld() // group 7 with project 42
	policy, wide := rbacsynctest.Policy(t), rbacsynctest.Policy(t)
	narrow, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles()[:1], Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	change := func(from, to authz.Policy) string {
		_, held := splitOf(t, snap, from, to)
		return held
	}
	there, back := change(policy, narrow), change(narrow, wide)
	approved := map[string]string{}
	for _, key := range []string{"revoke project/42 view 3", "revoke group/7 edit 2", "create project/43", "create group/7", "nonsense", there, back} {
		approved[key] = ""
	}
	e := rbacsync.Evidence{Snapshot: snap, Policy: narrow, Was: &policy, Approved: approved}
	wanted := map[string]bool{"create group/7": true}
	for _, c := range []struct {
		name        string
		untouchable map[authz.SourceID]string
		want        []string
	}{
		{"all can be judged", nil, []string{"create project/43", "nonsense", back, there, "revoke group/7 edit 2", "revoke project/42 view 3"}},
		{"group 7 can't", map[authz.SourceID]string{authz.GroupID(7): "HTTP 500"}, []string{"nonsense", back, "revoke project/42 view 3"}},
		{"something else can't", map[authz.SourceID]string{authz.GroupID(99): "HTTP 500"}, []string{"nonsense", back, "revoke group/7 edit 2", "revoke project/42 view 3"}},
	} {
		slices.Sort(c.want)
		if d := cmp.Diff(c.want, e.Outdated(wanted, c.untouchable)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

// splitOf changes the policy of a cluster that is as GitLab says, and returns what is held and the key of the change.
func splitOf(t *testing.T, snap *authz.Snapshot, from, to authz.Policy) ([]rbacsync.Item, string) {
	t.Helper()
	have := &rbacsync.Observed{}
	plan, _ := rbacsync.Plan(have, rbacsynctest.WantedFor(from, snap, have))
	have = rbacsynctest.Apply(have, plan)
	want := rbacsynctest.WantedFor(to, snap, have)
	plan, _ = rbacsync.Plan(have, want)
	strict := rbacsynctest.Strict
	strict.Policy = rbacsync.Limit{Fraction: 1e-9}
	e := rbacsync.Evidence{Snapshot: snap, Before: snap, Latest: snap, Policy: to, Was: &from}
	held := strict.Split(plan, want, e, rbacsynctest.Noon).Held
	for _, i := range held {
		if i.Change != "" {
			return held, i.Key()
		}
	}
	return held, "policy none"
}
