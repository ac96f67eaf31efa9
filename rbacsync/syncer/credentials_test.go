package syncer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestWhatAScopeHasIsReplaced: after any sequence of lists about some namespaces, what is known of CI credentials is what the last
// list about each namespace said, in the order of their names.
func TestWhatAScopeHasIsReplaced(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 12))
		var c credentials
		want := map[string]ci.Namespace{}
		for step := range 20 {
			scope, list := rbacsync.Scope{}, []ci.Namespace{}
			for range r.IntN(5) {
				scope[fmt.Sprintf("ns-%d", r.IntN(12))] = true
			}
			for ns := range scope {
				if delete(want, ns); r.IntN(3) > 0 {
					n := ci.Namespace{Name: ns, Source: authz.ProjectID(int64(step))}
					list, want[ns] = append(list, n), n
				}
			}
			c.replace(list, scope)
			var got []string
			for _, n := range c.known {
				if got = append(got, n.Name); !reflect.DeepEqual(n, want[n.Name]) {
					t.Fatalf("seed %d, step %d: %s is %v, want %v", seed, step, n.Name, n, want[n.Name])
				}
			}
			if names := slices.Sorted(maps.Keys(want)); !slices.Equal(got, names) {
				t.Fatalf("seed %d, step %d: known are %v, want %v", seed, step, got, names)
			}
		}
	}
}

// TestUrgent: nothing waits where a token may have to die.
func TestUrgent(t *testing.T) {
	t.Parallel()
	is := func(n ci.Namespace) []ci.Namespace {
		n.Name = "b"
		return []ci.Namespace{{Name: "a", Gone: true}, n, {Name: "c"}}
	}
	for name, c := range map[string]struct {
		before, now []ci.Namespace
		want        bool
	}{
		"the same":                 {is(ci.Namespace{}), is(ci.Namespace{}), false},
		"more readers":             {is(ci.Namespace{}), is(ci.Namespace{Readers: []int64{1}}), false},
		"one that is new":          {is(ci.Namespace{})[:1], is(ci.Namespace{}), false},
		"one that destroy left":    {is(ci.Namespace{}), is(ci.Namespace{Lost: []int64{1}}), true},
		"gone from GitLab":         {is(ci.Namespace{}), is(ci.Namespace{Gone: true}), true},
		"gone before":              {is(ci.Namespace{Gone: true}), is(ci.Namespace{Gone: true}), false},
		"new, and gone":            {is(ci.Namespace{})[:1], is(ci.Namespace{Gone: true}), true},
		"judged again":             {is(ci.Namespace{Undecided: true}), is(ci.Namespace{}), true},
		"can't be judged any more": {is(ci.Namespace{}), is(ci.Namespace{Undecided: true}), false},
	} {
		if got := urgent(c.now, c.before); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
