package rbacsync_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// TestCreationsInAnyOrder: in whatever order hooks tell of new projects, and in however many passes, no more than the limit of
// a person's projects of an hour are made in that hour, and all of them have their turn. Some are destroyed again, some
// change hands, and some get an owner more.
func TestCreationsInAnyOrder(t *testing.T) {
	t.Parallel()
	late := 0 // were made while one that is older was not known yet
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 5))
		limit := 1 + r.IntN(4)
		now := rbacsynctest.Noon
		snap := &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{1: {ID: 1, Path: "all"}}, Projects: map[int64]authz.Project{}}
		for id := range int64(4) {
			snap.Users[id+1] = authz.User{ID: id + 1, Username: fmt.Sprintf("u%d", id+1), State: authz.StateActive, Human: true}
		}
		s := newScene(rbacsynctest.Policy(t), snap, snap)
		var past []rbacsync.Past
		made := map[int64]time.Time{}
		created, by := map[int64]time.Time{}, map[int64]int64{}
		pass := func() {
			s.now = snap
			want := rbacsynctest.WantedFor(s.policy, s.now, s.have)
			changes, _ := rbacsync.Plan(s.have, want)
			v := rbacsync.Limits{Creations: limit}.Split(changes, want, rbacsync.Evidence{Snapshot: s.now, Before: s.before, Policy: s.policy, Past: past}, now)
			allowed, _ := rbacsync.Plan(s.have, v.Want)
			for _, c := range allowed {
				if c.Action != rbacsync.Create || c.Key.Kind != rbacsync.KindNamespace || c.Source.Kind != authz.ProjectSource {
					continue
				}
				made[c.Source.ID] = now
				if slices.ContainsFunc(slices.Collect(maps.Keys(created)), func(id int64) bool {
					_, known := snap.Projects[id]
					return !known && by[id] == by[c.Source.ID] && created[id].Before(created[c.Source.ID])
				}) {
					late++
				}
			}
			s.have = rbacsynctest.Apply(s.have, allowed)
			past = append(past, v.Passed...)
		}
		var unknown []int64
		for id := range 4 + r.Int64N(16) {
			id++
			created[id], by[id] = now.Add(time.Duration(r.IntN(90))*time.Minute), 1+r.Int64N(2)
			unknown = append(unknown, id)
		}
		for step := 0; step < 200 && len(made) < len(created); step++ {
			for _, i := range r.Perm(len(unknown)) {
				if id := unknown[i]; !created[id].After(now) && r.IntN(2) == 0 {
					unknown = slices.Delete(unknown, i, i+1)
					snap = rbacsynctest.CopySnap(snap)
					snap.Projects[id] = authz.Project{ID: id, Group: 1, Path: fmt.Sprintf("all/p%d", id), CreatedAt: created[id], Members: []authz.Member{{User: by[id], Level: authz.Owner}}}
					break
				}
			}
			pass()
			p, known := snap.Projects[1+r.Int64N(20)]
			switch {
			case !known || r.IntN(4) > 0:
			case seed%2 == 0: // an owner more, of most of what one person has
				snap = rbacsynctest.CopySnap(snap)
				for id, p := range snap.Projects {
					if by[id] == 1 && r.IntN(8) > 0 {
						p.Members = []authz.Member{{User: 1, Level: authz.Owner}, {User: 4, Level: authz.Owner}}
						snap.Projects[id] = p
					}
				}
			case !made[p.ID].IsZero():
				snap = rbacsynctest.CopySnap(snap)
				if delete(snap.Projects, p.ID); r.IntN(2) == 0 {
					p.Members = []authz.Member{{User: 3, Level: authz.Owner}}
					snap.Projects[p.ID] = p
				}
			}
			now = now.Add(time.Duration(r.IntN(12)) * time.Minute)
		}
		if len(made) < len(created) {
			t.Errorf("seed %d: %d of %d were made, with a limit of %d", seed, len(made), len(created), limit)
		}
		for from := range created {
			n := 0
			for id := range made {
				if by[id] == by[from] && !created[id].Before(created[from]) && made[id].Sub(created[from]) < time.Hour {
					n++
				}
			}
			if n > limit {
				t.Errorf("seed %d: %d projects of user %d were made in the hour after %s, the limit is %d", seed, n, by[from], created[from], limit)
			}
		}
	}
	if late < 50 {
		t.Errorf("only %d were made before an older one was known: this shows nothing", late)
	}
}

// TestCreationsAfterAnUpgrade: where hooks came in the order in which GitLab made the projects, the turns are those that a version
// before has given, which has stored none: an upgrade changes nothing of what is held, and going back does not.
func TestCreationsAfterAnUpgrade(t *testing.T) {
	t.Parallel()
	compared := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 6))
		now := rbacsynctest.Noon
		snap := &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{1: {ID: 1, Username: "alice", State: authz.StateActive, Human: true}}, Groups: map[int64]authz.Group{1: {ID: 1, Path: "all"}}, Projects: map[int64]authz.Project{}}
		s := newScene(rbacsynctest.Policy(t), snap, snap)
		limits := rbacsync.Limits{Creations: 1 + r.IntN(3)}
		var past []rbacsync.Past
		approved := map[string]string{}
		for id := range int64(12) {
			id++
			snap = rbacsynctest.CopySnap(snap)
			snap.Projects[id] = authz.Project{ID: id, Group: 1, Path: fmt.Sprintf("all/p%d", id), CreatedAt: now, Members: []authz.Member{{User: 1, Level: authz.Owner}}}
			if r.IntN(4) == 0 {
				approved[fmt.Sprintf("create project/%d", id)] = "gitlab:7"
			}
			want := rbacsynctest.WantedFor(s.policy, snap, s.have)
			changes, _ := rbacsync.Plan(s.have, want)
			split := func(past []rbacsync.Past) rbacsync.Verdict {
				return limits.Split(changes, want, rbacsync.Evidence{Snapshot: snap, Before: s.before, Policy: s.policy, Past: past, Approved: approved}, now)
			}
			old := slices.Clone(past)
			for i := range old {
				old[i].Turn = time.Time{}
			}
			v := split(past)
			if d := cmp.Diff(split(old).Held, v.Held); d != "" {
				t.Fatalf("seed %d, project %d: held by what a version before has stored (-), and by what this one has (+):\n%s", seed, id, d)
			}
			compared += len(v.Held)
			allowed, _ := rbacsync.Plan(s.have, v.Want)
			s.have = rbacsynctest.Apply(s.have, allowed)
			past = append(past, v.Passed...)
			now = now.Add(time.Duration(r.IntN(40)) * time.Minute)
		}
	}
	if compared < 200 {
		t.Errorf("only %d held namespaces were compared: this shows nothing", compared)
	}
}
