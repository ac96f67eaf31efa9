package rbacsync_test

import (
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// TestACircleOfGroupsEnds: no walk up the groups goes on for ever, whatever GitLab answered, now or before.
func TestACircleOfGroupsEnds(t *testing.T) {
	t.Parallel()
	round := authztest.Clone(rbacsynctest.HawWorld())
	round.Groups[7] = authz.Group{ID: 7, Parent: 8, Path: "haw"}
	round.Groups[8] = authz.Group{ID: 8, Parent: 7, Path: "haw/other"}
	gone := authztest.Clone(round)
	delete(gone.Groups, 7)
	delete(gone.Groups, 8)
	delete(gone.Projects, 42)
	done := make(chan struct{})
	go func() {
		defer close(done)
		round.Top(authz.ProjectID(42))
		d := rbacsync.NewDeliveries(&rbacsync.Input{Snapshot: round, Settings: rbacsync.Settings{CI: rbacsync.CISettings{
			Exceptions: []rbacsync.CIException{{Source: authz.GroupID(1), Mode: rbacsync.DeliverNone}},
		}}})
		d.Delivery(authz.ProjectID(42))
		binding := func(users ...int64) rbacsync.Object {
			return rbacsync.Object{
				Key:     rbacsync.Key{Namespace: "haw-world", Kind: rbacsync.KindRoleBinding, Name: "gitlab-view"},
				Binding: &rbacsync.Binding{Role: "view", Users: users},
			}
		}
		old, now := binding(3), binding()
		change := rbacsync.Change{Action: rbacsync.Update, Key: now.Key, Source: authz.ProjectID(42), Old: &rbacsync.Live{Object: old}, New: &now, Revokes: true}
		limits := rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 1}}
		v := limits.Split([]rbacsync.Change{change}, &rbacsync.Wanted{Objects: []rbacsync.Object{now}}, rbacsync.Evidence{Snapshot: gone, Before: round, Policy: rbacsynctest.Policy(t)}, time.Now())
		if len(v.Passed) != 1 {
			t.Errorf("what is missing counts %d times, want once", len(v.Passed))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on for ever")
	}
}
