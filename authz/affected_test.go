package authz_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
)

// TestAffectedNamesAllThatDiffers: whatever changes in a random GitLab, every source whose rights, path or being
// judged differ is among Affected; and Affected does not simply name everything. By it UntouchableAfter says what
// Untouchable does, and NextExpiryAfter misses no end of a right.
func TestAffectedNamesAllThatDiffers(t *testing.T) {
	t.Parallel()
	named, all, untouchable, earlier := 0, 0, 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 7))
		before := authztest.Snapshot(r)
		endSome(r, before, 10)
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			if r.IntN(3) == 0 {
				pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(r.Int64N(8) + 1), Below: true, ClusterRole: "deployer", Group: r.Int64N(8) + 1}}
			}
			if r.IntN(3) == 0 {
				pc.Exclude.Paths = []string{"g1*"}
			}
			pc.Bots = r.IntN(2) == 0
		})
		after := authztest.Clone(before)
		for range 1 + r.IntN(2) {
			authztest.Change(r, after)
		}
		endSome(r, after, 40)
		got := p.Affected(before, after)
		was, is := looks(p, before), looks(p, after)
		for id := range maps.Keys(merged(was, is)) {
			if was[id] != is[id] && !got[id] {
				t.Fatalf("seed %d: %s differs and is not named:\n  %s\n  %s", seed, id, was[id], is[id])
			}
		}
		whole, part := p.Untouchable(after), p.UntouchableAfter(p.Untouchable(before), after, got)
		same := func(a, b string) bool { // of a circle of groups any may be named
			return a == b || strings.Contains(a, "its own ancestor") && strings.Contains(b, "its own ancestor")
		}
		if !maps.EqualFunc(whole, part, same) {
			t.Fatalf("seed %d: what can't be judged is %v, but by what changed alone it would be %v", seed, whole, part)
		}
		ended, ends := authz.NextExpiry(before, now), authz.NextExpiry(after, now)
		if early := authz.NextExpiryAfter(ended, after, got, now); !ends.IsZero() && (early.IsZero() || early.After(ends)) {
			t.Fatalf("seed %d: a right ends at %v, and by what changed alone the next one ends at %v", seed, ends, early)
		}
		if !ends.IsZero() && !ends.Equal(ended) {
			earlier++
		}
		untouchable += len(whole)
		named += len(got)
		all += len(is)
	}
	if untouchable < 1000 {
		t.Errorf("only %d sources could not be judged: that shows little", untouchable)
	}
	if earlier < 30 {
		t.Errorf("only %d changes moved the next end of a right: that shows little", earlier)
	}
	if named > all/2 {
		t.Errorf("%d of %d sources are named: that is no help", named, all)
	}
}

// endSome gives one in that many memberships an end.
func endSome(r *rand.Rand, s *authz.Snapshot, oneIn int) {
	end := func(rows []authz.Member) {
		for i := range rows {
			if r.IntN(oneIn) == 0 {
				rows[i].Expires = authz.Date{Year: 2026, Month: 12, Day: 1 + r.IntN(28)}
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Groups)) {
		end(s.Groups[id].Members)
	}
	for _, id := range slices.Sorted(maps.Keys(s.Projects)) {
		end(s.Projects[id].Members)
	}
}

// looks describes everything about each source that ends up in the cluster.
func looks(p authz.Policy, s *authz.Snapshot) map[authz.SourceID]string {
	out := map[authz.SourceID]string{}
	sources := p.Sources(s)
	for _, src := range sources {
		out[src.ID] = fmt.Sprint(src)
	}
	grants, _ := p.Grants(s, sources, now)
	for _, g := range grants {
		out[g.Source] += fmt.Sprint(" ", g.ClusterRole)
		for _, u := range g.Users {
			out[g.Source] += fmt.Sprint(" ", u, s.Users[u].Username)
		}
	}
	for id, why := range p.Untouchable(s) {
		out[id] += " unread: " + why
	}
	return out
}

func merged[K comparable, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
