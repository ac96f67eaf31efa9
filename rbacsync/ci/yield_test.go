package ci_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// TestRoomIsMadeForAWhile: while something more urgent goes on and on, a look at a namespace waits for YieldNew, all looks of a list
// wait for a minute, and the tokens of a list that have to die for YieldDying, however many they are.
func TestRoomIsMadeForAWhile(t *testing.T) {
	t.Parallel()
	list := func(n int, gone bool) (out []ci.Namespace) {
		for i := range int64(n) {
			x := world
			x.Name, x.Source, x.Gone, x.Projects = fmt.Sprint("ns-", i), authz.ProjectID(1000+i), gone, nil
			out = append(out, x)
		}
		return out
	}
	for name, c := range map[string]struct {
		list []ci.Namespace
		want time.Duration
	}{
		"one":         {list(1, false), ci.YieldNew},
		"some":        {list(3, false), 3 * ci.YieldNew},
		"many":        {list(50, false), time.Minute},
		"one dying":   {list(1, true), ci.YieldDying},
		"many dying":  {list(50, true), ci.YieldDying},
		"none at all": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, begun, looked := newBench(t), time.Now(), 0
				b.ProvisionBeside(t.Context(), c.list, ci.Beside{Yield: func(_ context.Context, patience time.Duration) {
					looked++
					time.Sleep(patience)
				}})
				if took := time.Since(begun); took != c.want {
					t.Errorf("it took %s, want %s (%d looks have waited)", took, c.want, looked)
				}
			})
		})
	}
}
