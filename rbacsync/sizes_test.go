package rbacsync_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// TestSizes: whether what is wanted is one list or one for each namespace, in each top-level group and in all of them the namespaces
// and the people with rights there are counted once.
func TestSizes(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 146))
		snap := rbacsynctest.Organisation(1+r.IntN(6), 1+r.IntN(40))
		w := rbacsynctest.WantedFor(rbacsynctest.Policy(t), snap, &rbacsync.Observed{})
		want := map[authz.SourceID]int{}
		people := map[authz.SourceID]map[int64]bool{}
		source := map[string]authz.SourceID{}
		for _, o := range w.Objects {
			if o.Namespace != nil {
				source[o.Key.Namespace] = o.Namespace.Source
			}
			for _, scope := range []authz.SourceID{{}, snap.Top(source[o.Key.Namespace])} {
				if o.Namespace != nil {
					want[scope]++
				}
				if people[scope] == nil {
					people[scope] = map[int64]bool{}
				}
				if o.Binding != nil {
					for _, u := range o.Binding.Users {
						people[scope][u] = true
					}
				}
			}
		}
		for scope, users := range people {
			want[scope] += len(users)
		}
		if len(want) < 2 || want[authz.SourceID{}] < 3 {
			t.Fatalf("seed %d: %v: this shows little", seed, want)
		}
		one := slices.Values([][]rbacsync.Object{w.Objects})
		if d := cmp.Diff(want, rbacsync.Sizes(one, snap.Top)); d != "" {
			t.Errorf("seed %d: in one list (-want +got):\n%s", seed, d)
		}
		if d := cmp.Diff(want, rbacsync.Sizes(maps.Values(rbacsync.ByNamespace(w).Objects), snap.Top)); d != "" {
			t.Errorf("seed %d: by namespace (-want +got):\n%s", seed, d)
		}
	}
}
