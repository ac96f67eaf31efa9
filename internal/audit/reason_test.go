package audit

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestReasonsNameNobody: whatever the reason of a change is, it has no id and no path of what belongs to a person, however long that
// is; the paths of all else, and what else it says, are as they were, also where a user's name is a part of another word.
func TestReasonsNameNobody(t *testing.T) {
	long := "e/" + strings.Repeat("a-long-name-", 20)
	snap := &authz.Snapshot{
		Users:  map[int64]authz.User{5: {ID: 5, Username: "e", State: authz.StateActive}, 6: {ID: 6, Username: "zoe", State: authz.StateActive}},
		Groups: map[int64]authz.Group{1: {ID: 1, Path: "haw"}},
		Projects: map[int64]authz.Project{
			2: {ID: 2, Path: long, Owner: 5, Members: []authz.Member{{User: 5, Level: authz.Owner}, {User: 6, Level: authz.Developer}}},
			3: {ID: 3, Path: "haw/e", Group: 1, Members: []authz.Member{{User: 6, Level: authz.Developer}}},
		},
	}
	without := *snap
	without.Projects = map[int64]authz.Project{3: snap.Projects[3]}
	moved := authz.Snapshot{Projects: map[int64]authz.Project{3: {ID: 3, Path: "zoe/e", Owner: 6}}}
	own, project, groups, unknown, gone := authz.UserID(5), authz.ProjectID(2), authz.ProjectID(3), authz.ProjectID(4), authz.UserID(7)
	for _, c := range []struct {
		name        string
		now, before *authz.Snapshot
		source      authz.SourceID
		why         string
		want        string
	}{
		{"a user", snap, nil, own, "user/5 e", "their own namespace"},
		{"a template", snap, nil, own, "user/5 e: no template of it any more", "their own namespace: no template of it any more"},
		{"gone", snap, snap, gone, "user/7 (alice) is gone from GitLab or left out, since 2026-11-01", "their own namespace is gone from GitLab or left out, since 2026-11-01"},
		{"brackets", snap, snap, gone, "user/7 (ali) ce) is gone from GitLab or left out", "their own namespace is gone from GitLab or left out"},
		{"another namespace", snap, snap, own, "the namespace of user/5 is e", "the namespace of their own namespace is another one"},
		{"a personal project", snap, nil, project, "project/2 " + long, "project/2"},
		{"one that is gone", &without, snap, project, "project/2 (e/old-path) is gone from GitLab or left out", "project/2 is gone from GitLab or left out"},
		{"an unknown one", snap, nil, unknown, "project/4 (zoe/x) is gone from GitLab or left out", "project/4 is gone from GitLab or left out"},
		{"a group's project", snap, nil, groups, "project/3 haw/e", "project/3 haw/e"},
		{"one that is gone", &authz.Snapshot{}, snap, groups, "project/3 (haw/e) is gone from GitLab or left out", "project/3 (haw/e) is gone from GitLab or left out"},
		{"one that was moved, and is left out", snap, &moved, groups, "project/3 (zoe/e) is gone from GitLab or left out", "project/3 is gone from GitLab or left out"},
		{"a group that is gone", &authz.Snapshot{}, nil, authz.GroupID(1), "group/1 (haw) is gone from GitLab or left out", "group/1 (haw) is gone from GitLab or left out"},
	} {
		r := reasons{now: c.now, before: c.before}
		if got := r.plain(&place{source: c.source}, rbacsync.Change{Source: c.source, Why: c.why}); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	r := reasons{now: snap, before: snap, at: at}
	for _, c := range []struct {
		source authz.SourceID
		user   int64
		want   string
	}{
		{own, 5, "Owner in their own namespace, because it is their own"},
		{project, 6, "Developer in project/2, direct member"},
		{groups, 6, "Developer in haw/e, direct member"},
	} {
		if got := r.gained(&place{source: c.source}, holder{user: c.user}, rbacsync.Change{}); got != c.want {
			t.Errorf("%s: %q, want %q", c.source, got, c.want)
		}
	}
	if got, want := (reasons{now: &without, before: snap, at: at}).lost(&place{source: project}, holder{user: 6}, rbacsync.Change{}), "was Developer in project/2, direct member; project/2 is gone from GitLab"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := (legacyChange{Object: "Namespace a", Why: "user/5 e, approved by an administrator"}).changes()[0].why, "their own namespace, approved by an administrator"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestPlacelessNamesNothing: for random organisations and what became of their members, what is left of a reason names no group and no
// project, and of each membership that began or ended something is left.
func TestPlacelessNamesNothing(t *testing.T) {
	names := regexp.MustCompile(`grp-|prj-|(group|project|user)/`)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	memberships, others := 0, 0
	check := func(text string, member bool) {
		t.Helper()
		left := Placeless(text)
		if names.MatchString(left) || member && left == "" {
			t.Fatalf("of %q is left %q", text, left)
		}
		if member {
			memberships++
		} else {
			others++
		}
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 35))
		before := authztest.Snapshot(r)
		for id, g := range before.Groups {
			g.Path = fmt.Sprintf("grp-%d", id)
			before.Groups[id] = g
		}
		for id, p := range before.Projects {
			p.Path = fmt.Sprintf("prj-%d", id)
			for i := range p.Members {
				p.Members[i].Level = []authz.Level{5, 10, 15, 20, 25, 30, 35, 40, 50}[r.IntN(9)]
				p.Members[i].Expires = []authz.Date{{}, {Year: 2026, Month: 10, Day: 20}, {Year: 2026, Month: 12, Day: 24}}[r.IntN(3)]
			}
			before.Projects[id] = p
		}
		now := authztest.Clone(before)
		for range 10 {
			authztest.Change(r, now)
		}
		x := reasons{now: now, before: before, at: at}
		all := reasons{now: now, before: before, at: at, many: map[moment]*wayWords{}}
		for id, p := range before.Projects {
			source := authz.ProjectID(id)
			for user := int64(1); user <= 10; user++ {
				c := rbacsync.Change{Source: source, Why: source.String() + " " + p.Path}
				had, was := x.trail(before, user, source, time.Time{})
				has, is := x.trail(now, user, source, at)
				if got, ok := all.trail(before, user, source, time.Time{}); ok != was || ok && got != had {
					t.Errorf("asked about many, user %d has %v in %s, want %v", user, got, source, had)
				}
				if got, ok := all.trail(now, user, source, at); ok != is || ok && got != has {
					t.Errorf("asked about many, user %d has %v in %s, want %v", user, got, source, has)
				}
				check(x.gained(&place{source: source}, holder{user: user}, c), is)
				check(x.lost(&place{source: source}, holder{user: user}, c), was || is)
			}
		}
	}
	for _, text := range []string{foundThere, foundGone} {
		check(text, true)
	}
	if memberships < 500 || others < 500 {
		t.Errorf("%d memberships, %d others: the test looks at too little", memberships, others)
	}
}
