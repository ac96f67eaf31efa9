package syncer_test

import (
	"context"
	"errors"
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
		wantRounds(t, seen, before, "targeted sync, hook", "full sync")
		if rounds := seen.taken()[before:]; len(rounds) == 2 {
			if pause := rounds[1].Started.Sub(rounds[0].Started.Add(rounds[0].Duration)); pause < 500*time.Millisecond {
				t.Errorf("everything was looked at %v after the hook, which may have been the first of many", pause)
			}
		}
		if n := inbox.left(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// TestWhenEverythingIsLookedAt: whoever asks is told of a pass over everything while there is one, and of no other.
func TestWhenEverythingIsLookedAt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		_, _, _, s, stop := lookingSlowly(t, g)
		defer stop()
		want := func(when string, want bool) {
			synctest.Wait()
			if got := s.LooksAtEverything(); got != want {
				t.Errorf("%s: everything is looked at: %t", when, got)
			}
		}
		want("nothing is to be done", false)
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(slowLook / 3)
		want("a hook", false)
		time.Sleep(slowLook)
		s.Trigger(nil, "sync")
		time.Sleep(slowLook / 3)
		want("everything was read", true)
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(slowLook)
		want("it has made way for a hook", false)
		time.Sleep(3 * slowLook)
		want("it is done again", true)
		time.Sleep(slowLook)
		want("it has ended", false)
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

// wantRounds compares kinds and causes of the rounds after the first ones.
func wantRounds(t *testing.T, seen *rounds, before int, want ...string) {
	t.Helper()
	var got []string
	for _, r := range seen.taken()[before:] {
		got = append(got, string(r.Kind)+" "+r.Cause)
	}
	if !slices.Equal(got, want) {
		t.Errorf("rounds %q, want %q", got, want)
	}
}

// TestWhenEverythingIsNotLeftOff: where the pass of a hook would look at everything, too, or where there is nothing to make way for,
// everything is looked at once.
func TestWhenEverythingIsNotLeftOff(t *testing.T) {
	t.Parallel()
	anew := func(g *gitlab) {
		g.snap = authztest.Clone(g.snap)
		g.snap.Projects[43] = authz.Project{ID: 43, Group: 7, Path: "haw/new"}
	}
	nothing := func(*gitlab) {}
	for name, c := range map[string]struct {
		read, hook func(*gitlab) // what the reading of everything, and the hook, has brought
		project    int64
		want       []string
	}{
		"the reading has brought a project": {anew, nothing, 42, []string{"full sync", "targeted hook"}},
		"the hook has":                      {nothing, anew, 43, []string{"full sync, hook"}},
		"the hook can't be read":            {nothing, func(g *gitlab) { g.err = errors.New("down") }, 42, []string{"full sync"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := &gitlab{snap: rbacsynctest.HawWorld()}
				_, _, seen, s, stop := lookingSlowly(t, g)
				defer stop()
				before := len(seen.taken())
				g.set(c.read)
				s.Trigger(nil, "sync")
				time.Sleep(slowLook / 3)
				g.set(c.hook)
				s.Trigger([]authz.SourceID{authz.ProjectID(c.project)}, "hook")
				time.Sleep(2 * slowLook / 3)
				synctest.Wait()
				g.set(func(g *gitlab) { g.err = nil })
				if first := len(seen.taken()) - before; (first == 0) != (c.project == 43) {
					t.Errorf("%d rounds after the first look", first)
				}
				time.Sleep(2 * slowLook)
				synctest.Wait()
				got := slices.DeleteFunc(seen.taken()[before:], func(r syncer.Round) bool { return r.Err != nil })
				wantRounds(t, &rounds{all: got}, 0, c.want...)
			})
		})
	}
}
