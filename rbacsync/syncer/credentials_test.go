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
