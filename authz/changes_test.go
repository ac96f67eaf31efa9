package authz_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
)

// TestChangesOfADerivedSnapshot: what is said of a Snapshot that was made of another one spares comparing the rest, and is
// believed of these two alone: not of a copy, and not beside a third.
func TestChangesOfADerivedSnapshot(t *testing.T) {
	t.Parallel()
	projects := func(before, now *authz.Snapshot) []int64 {
		var out []int64
		authz.ChangesBetween(before, now).Projects(func(a, b authz.Project) bool { return a.Path == b.Path }, func(id int64) { out = append(out, id) })
		return slices.Sorted(slices.Values(out))
	}
	base := authztest.Snapshot(rand.New(rand.NewPCG(1, 1)))
	ids := slices.Sorted(maps.Keys(base.Projects))
	next := authztest.Clone(base)
	for _, id := range ids[:2] {
		p := next.Projects[id]
		p.Path += "-moved"
		next.Projects[id] = p
	}
	delete(next.Projects, ids[2])
	next.Projects[-1] = authz.Project{ID: -1}
	all := []int64{-1, ids[0], ids[1], ids[2]}
	if got := projects(base, next); !slices.Equal(got, all) {
		t.Fatalf("%v differ, want %v", got, all)
	}
	next.Derived(base, map[authz.SourceID]bool{authz.ProjectID(ids[0]): true, authz.GroupID(ids[1]): true, authz.ProjectID(ids[2]): true, authz.ProjectID(ids[3]): true})
	if got, want := projects(base, next), []int64{ids[0], ids[2]}; !slices.Equal(got, want) {
		t.Errorf("%v differ of what was replaced, want %v", got, want)
	}
	copied, other := *next, *base
	if got := projects(base, &copied); !slices.Equal(got, all) {
		t.Errorf("of a copy, %v differ, want %v", got, all)
	}
	if got := projects(&other, next); !slices.Equal(got, all) {
		t.Errorf("beside another base, %v differ, want %v", got, all)
	}
}
