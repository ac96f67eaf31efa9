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

// TestRoomIsMadeForAWhile: while something more urgent goes on and on, a look at a namespace waits for YieldNew, and all looks for a
// minute, also those of calls that were stopped. Where a token has to die, nothing waits, and nothing stops it.
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
		list    []ci.Namespace
		stopped bool // each call, after its first look
		want    time.Duration
	}{
		"one":              {list(1, false), false, ci.YieldNew},
		"some":             {list(3, false), false, 3 * ci.YieldNew},
		"many":             {list(50, false), false, time.Minute},
		"many, stopped":    {list(50, false), true, time.Minute},
		"dying":            {list(50, true), false, 0},
		"dying, stopped":   {list(50, true), true, 0},
		"dying before new": {append(list(50, true), list(1, false)...), false, ci.YieldNew},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, begun, calls := newBench(t), time.Now(), 0
				for stopped := true; stopped; calls++ {
					looks := 0
					stopped = b.ProvisionBeside(t.Context(), c.list, ci.Beside{
						Stop:  func() bool { looks++; return c.stopped && looks > 1 },
						Yield: func(_ context.Context, patience time.Duration) { time.Sleep(patience) },
						Since: begun,
					}).Stopped
				}
				if took := time.Since(begun); took != c.want {
					t.Errorf("it took %s in %d calls, want %s", took, calls, c.want)
				}
				if again := calls > 1; again != (c.stopped && c.want > 0) {
					t.Errorf("it was done in %d calls", calls)
				}
			})
		})
	}
}
