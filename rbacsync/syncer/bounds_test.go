package syncer_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// pawns are the people of the project 43 of shuffled, who are more than its limit lets go.
func pawns(n int64, g *verified) (ids []int64) {
	for id := int64(101); id <= 100+n; id++ {
		ids = append(ids, id)
		g.levels[rbacsync.Membership{Source: authz.ProjectID(43), User: id}] = 0
	}
	return ids
}

// TestSteadyHooksKeepNoAnswerWaiting: with hooks that never stop, so that something new is there whenever a pass ends, what GitLab has
// confirmed of what is held is carried out within seconds.
func TestSteadyHooksKeepNoAnswerWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, full := fake.NewClientset(), shuffled(15)
		g := &verified{gitlab: &gitlab{snap: full}, levels: map[rbacsync.Membership]authz.Level{}}
		ids, roles := pawns(15, g), rbacsynctest.Policy(t).ClusterRoles()
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 5}},
			Observe: func(ctx context.Context) (*rbacsync.Observed, error) {
				time.Sleep(slowLook)
				return cluster.List(ctx, kube, roles)
			},
		})
		defer run(t, s)()
		time.Sleep(time.Minute)
		if len(subjects(t, kube, "haw-evil", "gitlab-view")) != len(ids) {
			t.Fatal("they have no rights: this test shows nothing")
		}
		g.set(func(g *gitlab) { g.snap = lose(full, ids...) })
		s.Trigger([]authz.SourceID{authz.ProjectID(43)}, "hook")
		for begun := time.Now(); time.Since(begun) < 20*time.Second; time.Sleep(slowLook / 5) {
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		}
		wantSubjects(t, kube, "haw-evil", "gitlab-view")
	})
}

// TestWhatGitLabCouldNotAnswerIsAskedSoon: GitLab has no answer for a minute. Then what it confirms is carried out, long before
// everything is read again.
func TestWhatGitLabCouldNotAnswerIsAskedSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, full := fake.NewClientset(), shuffled(15)
		g := &verified{gitlab: &gitlab{snap: full}, levels: map[rbacsync.Membership]authz.Level{}}
		ids := pawns(15, g)
		answers := g.levels
		g.levels = nil
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: 24 * time.Hour, Now: time.Now, Limits: &rbacsync.Limits{PerGroup: rbacsync.Limit{Causes: 5}}})
		defer run(t, s)()
		time.Sleep(time.Minute)
		g.set(func(g *gitlab) { g.snap = lose(full, ids...) })
		s.Trigger([]authz.SourceID{authz.ProjectID(43)}, "hook")
		time.Sleep(time.Minute)
		if len(subjects(t, kube, "haw-evil", "gitlab-view")) != len(ids) {
			t.Fatal("nothing is held: this test shows nothing")
		}
		g.set(func(*gitlab) { g.levels = answers })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-evil", "gitlab-view")
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.asked) > 6*len(ids) {
			t.Errorf("%d questions in five minutes about %d people", len(g.asked), len(ids))
		}
	})
}

// dated is a gitlab whose readings of everything say when they began.
type dated struct{ *gitlab }

func (d dated) Snapshot(ctx context.Context) (*authz.Snapshot, error) {
	at := time.Now()
	snap, err := d.gitlab.Snapshot(ctx)
	if err == nil {
		snap = rbacsynctest.CopySnap(snap)
		snap.Taken = at
	}
	return snap, err
}

func (d dated) Refresh(ctx context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	snap, err := d.gitlab.Refresh(ctx, base, changed)
	if err == nil {
		snap = rbacsynctest.CopySnap(snap)
		snap.Taken = base.Taken
	}
	return snap, err
}

// TestStalenessCountsWhatCouldNotBeTaken: somebody still has a right that GitLab took ten minutes ago, because the cluster does not take
// the change. Whatever else is carried out meanwhile, that is how stale it is; and no more once it is written.
func TestStalenessCountsWhatCouldNotBeTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube, g := fake.NewClientset(), &gitlab{snap: rbacsynctest.HawWorld()}
		var refused atomic.Bool
		refused.Store(true)
		for _, verb := range []string{"patch", "update", "delete"} {
			kube.PrependReactor(verb, "rolebindings", func(a kubetesting.Action) (bool, runtime.Object, error) {
				return refused.Load() && a.GetNamespace() == "haw-world", nil, errors.New("a webhook is away")
			})
		}
		s := newSyncer(t, syncer.Options{Reader: dated{g}, Kube: kube, Watch: kube, Interval: time.Minute, Now: time.Now})
		defer run(t, s)()
		time.Sleep(5 * time.Minute)
		everything := func() time.Duration {
			st, known := s.Staleness()
			if !known {
				t.Fatal("nothing is known")
			}
			return st.Everything.Round(time.Second)
		}
		if was := everything(); was > 2*time.Minute {
			t.Errorf("before: %v", was)
		}
		g.set(func(g *gitlab) { g.snap = without(g.snap, 42, 3) })
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		for range 10 {
			time.Sleep(time.Minute)
			s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
		}
		if is := everything(); is < 10*time.Minute || is > 11*time.Minute {
			t.Errorf("a right was to be taken ten minutes ago: %v", is)
		}
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		synctest.Wait()
		refused.Store(false)
		time.Sleep(2 * time.Minute)
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if is := everything(); is > 2*time.Minute {
			t.Errorf("afterwards: %v", is)
		}
	})
}

// TestAnExpiryWaitsForNoLargePlan: a membership ends while hundreds of changes are written. Its right goes then, and not when they are.
func TestAnExpiryWaitsForNoLargePlan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		snap := rbacsynctest.CopySnap(rbacsynctest.HawWorld())
		kube, g := fake.NewClientset(), &gitlab{snap: snap}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: 48 * time.Hour, Now: time.Now, Apply: cluster.ApplyOptions{QPS: 2, Concurrency: 1}})
		defer run(t, s)()
		time.Sleep(time.Until(midnight.Add(-10 * time.Second)))
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		more := rbacsynctest.CopySnap(snap) // which says for the first time that it ends
		p := more.Projects[42]
		p.Members[0].Expires = authz.Date{Year: midnight.Year(), Month: midnight.Month(), Day: midnight.Day()}
		more.Projects[42] = p
		for id := int64(1000); id < 1060; id++ {
			more.Projects[id] = authz.Project{ID: id, Group: 7, Path: fmt.Sprint("haw/more-", id)}
		}
		g.set(func(g *gitlab) { g.snap = more })
		s.Trigger(nil, "sync")
		time.Sleep(time.Until(midnight.Add(2 * time.Second)))
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if st := s.State(); len(st.View.Gaps()) == 0 {
			t.Error("all was written by then: this test shows nothing")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		wantSubjects(t, kube, "haw-more-1059", "gitlab-edit", "gitlab:2")
	})
}
