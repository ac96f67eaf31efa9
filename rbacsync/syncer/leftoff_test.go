package syncer_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// slowLook is how long it takes until a pass has seen the cluster.
const slowLook = 300 * time.Millisecond

// lookingSlowly runs a Syncer whose passes see the cluster after slowLook.
func lookingSlowly(t *testing.T, g *gitlab) (kube *fake.Clientset, inbox *box, seen *rounds, s *syncer.Syncer, stop func()) {
	t.Helper()
	kube, inbox, seen = fake.NewClientset(), &box{}, &rounds{}
	roles := rbacsynctest.Policy(t).ClusterRoles()
	s = newSyncer(t, syncer.Options{
		Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Inbox: inbox, OnRound: seen.add,
		Observe: func(ctx context.Context) (*rbacsync.Observed, error) {
			time.Sleep(slowLook)
			return cluster.List(ctx, kube, roles)
		},
	})
	stop = run(t, s)
	time.Sleep(time.Minute)
	return kube, inbox, seen, s, stop
}

// TestAHookDoesNotWaitForALookAtEverything: a pass over everything that has changed nothing yet makes way for a hook, and is done
// again after it. What only it knows, and what of the Inbox asked for it, is not lost.
func TestAHookDoesNotWaitForALookAtEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		kube, inbox, seen, _, stop := lookingSlowly(t, g)
		defer stop()
		wantSubjects(t, kube, "haw-world", "gitlab-view", "gitlab:3")
		before := len(seen.taken())
		inbox.put([]intake.Ticket{{Key: "all", Value: "1", Cause: "sync"}})
		time.Sleep(slowLook / 3) // now everything is looked at
		g.set(func(g *gitlab) { g.snap = without(g.snap, 42, 3) })
		inbox.put([]intake.Ticket{{Key: "42", Value: "1", Changed: []authz.SourceID{authz.ProjectID(42)}, Cause: "hook"}})
		time.Sleep(2 * slowLook) // the rest of that look, and the hook's own
		synctest.Wait()
		wantSubjects(t, kube, "haw-world", "gitlab-view")
		if n := inbox.left(); n != 1 {
			t.Errorf("%d entries are left while everything is still to be looked at, want its own alone", n)
		}
		time.Sleep(4 * slowLook) // half a second without a pass, and the look
		synctest.Wait()
		var got []string
		for _, r := range seen.taken()[before:] {
			got = append(got, string(r.Kind)+" "+r.Cause)
		}
		if want := []string{"targeted sync, hook", "full sync"}; !slices.Equal(got, want) {
			t.Errorf("rounds %q, want %q", got, want)
		}
		if n := inbox.left(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// TestHooksKeepNoLookAtEverythingWaiting: with hooks that never stop a pass over everything makes way for them for some seconds,
// and then goes on to its end.
func TestHooksKeepNoLookAtEverythingWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		_, _, seen, s, stop := lookingSlowly(t, g)
		defer stop()
		before, begun := len(seen.taken()), time.Now()
		s.Trigger(nil, "sync")
		for time.Since(begun) < 20*time.Second {
			time.Sleep(slowLook / 3)
			s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
			for n, r := range seen.taken()[before:] {
				if r.Kind != syncer.KindFull {
					continue
				}
				if after := time.Since(begun); after < 4*time.Second || after > 7*time.Second || n < 5 {
					t.Errorf("everything was looked at after %v and %d other rounds", after, n)
				}
				return
			}
		}
		t.Error("everything was not looked at for 20 s")
	})
}

// TestALookAtEverythingThatIsNeededIsNotLeftOff: where what a reading of everything has brought needs a look at everything, the pass
// of a hook would be one, too.
func TestALookAtEverythingThatIsNeededIsNotLeftOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		_, _, seen, s, stop := lookingSlowly(t, g)
		defer stop()
		before := len(seen.taken())
		g.set(func(g *gitlab) {
			g.snap = authztest.Clone(g.snap)
			g.snap.Projects[43] = authz.Project{ID: 43, Group: 7, Path: "haw/new"}
		})
		s.Trigger(nil, "sync")
		time.Sleep(slowLook / 3)
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(10 * slowLook)
		synctest.Wait()
		var got []string
		for _, r := range seen.taken()[before:] {
			got = append(got, string(r.Kind)+" "+r.Cause)
		}
		if want := []string{"full sync", "targeted hook"}; !slices.Equal(got, want) {
			t.Errorf("rounds %q, want %q", got, want)
		}
	})
}
