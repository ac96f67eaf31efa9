package syncer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestTheClockWaitsWhileMuchIsWritten: while a pass writes much, nothing is read by the clock alone, for one interval at most. What
// somebody asks for is read at once, and a small plan delays nothing.
func TestTheClockWaitsWhileMuchIsWritten(t *testing.T) {
	t.Parallel()
	large := rbacsynctest.Organisation(130, 4)
	for name, c := range map[string]struct {
		snap    *authz.Snapshot
		writing time.Duration
		asked   time.Duration // when somebody asks for all, if they do
		again   time.Duration // when everything was read again, about
	}{
		"a large plan":                 {large, 90 * time.Second, 0, 90 * time.Second},
		"one that takes too long":      {large, time.Hour, 0, 2 * time.Minute},
		"somebody asks for everything": {large, time.Hour, 80 * time.Second, 80 * time.Second},
		"a small plan":                 {rbacsynctest.HawWorld(), time.Hour, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, begun := &gitlab{snap: c.snap}, time.Now()
				s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset(), Interval: time.Minute, Now: time.Now, Apply: cluster.ApplyOptions{May: func() error {
					time.Sleep(time.Until(begun.Add(c.writing))) // as if each write were slow
					return nil
				}}})
				stop := run(t, s)
				if c.asked > 0 {
					time.Sleep(c.asked)
					s.Trigger(nil, "sync")
				}
				const vague = 10 * time.Second // a tenth of the interval, and a moment
				time.Sleep(time.Until(begun.Add(c.again - vague)))
				if calls := g.taken(); len(calls) != 1 {
					t.Errorf("before %s: %v, want one reading", c.again, calls)
				}
				time.Sleep(2 * vague)
				if calls := g.taken(); len(calls) == 0 {
					t.Errorf("nothing was read about %s after the start", c.again)
				}
				stop()
			})
		})
	}
}
