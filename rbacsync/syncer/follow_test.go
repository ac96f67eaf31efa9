package syncer_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestALeaderThatCanNotReadExplainsFromWhatIsStored: GitLab is away when the leader starts, and its first round fails
// before what is stored was loaded.
func TestALeaderThatCanNotReadExplainsFromWhatIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		g := &gitlab{err: errors.New("502")}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset(), Memory: m})
		defer run(t, s)()
		synctest.Wait()
		if st := s.State(); st == nil || st.Err == nil || st.View.Snapshot != nil {
			t.Fatalf("before anything is known: %+v", st)
		}
		m.stored = &syncer.Stored{Snapshot: rbacsynctest.HawWorld(), Names: map[authz.SourceID]string{authz.ProjectID(42): "haw-world"}}
		go s.Follow(t.Context())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if st := s.State(); st.View.Namespace[authz.ProjectID(42)] != "haw-world" || st.Err == nil {
			t.Errorf("namespaces %v, error %v", st.View.Namespace, st.Err)
		}
		time.Sleep(5 * time.Minute) // the failure goes on, and so does the explaining
		if st := s.State(); st.View.Namespace[authz.ProjectID(42)] != "haw-world" || st.Err == nil {
			t.Errorf("later: namespaces %v, error %v", st.View.Namespace, st.Err)
		}
	})
}

// TestJobsInTheStateAreThoseWithRights: State.Jobs names the projects whose jobs the CI bindings in the cluster name, after a
// round over everything and over a part, over a restart with another delivery, and in a replica that only follows.
func TestJobsInTheStateAreThoseWithRights(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := authztest.Clone(rbacsynctest.HawWorld())
		p := snap.Projects[42]
		p.ID, p.Path = 43, "haw/other"
		snap.Projects[43] = p
		g, kube, m := &gitlab{snap: snap}, fake.NewClientset(), &memory{}
		start := func(mode rbacsync.Delivery) *syncer.Syncer {
			return newSyncer(t, syncer.Options{
				Reader: g, Kube: kube, Watch: kube, Memory: m, Interval: time.Hour, Now: time.Now,
				Settings: rbacsync.Settings{CI: rbacsync.CISettings{Mode: mode}},
			})
		}
		want := func(step string, s *syncer.Syncer, jobs map[int64]string) {
			t.Helper()
			if got := s.State().Jobs; !maps.Equal(got, jobs) {
				t.Errorf("%s: jobs %v, want %v", step, got, jobs)
			}
			for id, ns := range map[int64]string{42: "haw-world", 43: "haw-other"} {
				subjects := []string{kubename.CIServiceAccount}
				if jobs[id] != "" {
					subjects = append(subjects, kubename.CIJob(id))
				}
				if g.snap.Projects[id].Archived {
					subjects = nil
				}
				if _, there := g.snap.Projects[id]; there {
					wantSubjects(t, kube, ns, kubename.CIRoleBinding, subjects...)
				}
			}
		}
		change := func(s *syncer.Syncer, edit func(*authz.Snapshot)) {
			changed := authztest.Clone(g.snap)
			edit(changed)
			g.set(func(g *gitlab) { g.snap = changed })
			s.Trigger([]authz.SourceID{authz.ProjectID(43)}, "hook")
			time.Sleep(time.Second)
		}
		first := start(rbacsync.DeliverIDToken)
		stop := run(t, first)
		time.Sleep(time.Second)
		both := map[int64]string{42: "haw-world", 43: "haw-other"}
		want("everything", first, both)
		stop()

		second := start(rbacsync.DeliverVariables)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { second.Follow(ctx) })
		time.Sleep(time.Second)
		want("moved, and nothing done yet", second, both)
		stop = run(t, second)
		time.Sleep(time.Second)
		want("moved: jobs may still run", second, both)
		change(second, func(s *authz.Snapshot) {
			p := s.Projects[43]
			p.Archived = true
			s.Projects[43] = p
		})
		want("archived", second, map[int64]string{42: "haw-world"})
		stop()
		cancel()
		wg.Wait()
	})
}

// TestWhatWasStoredBeforeTakesNoPlace: after a restore of the cluster from a backup, what is stored is older than what a replica
// knows. It goes on with that until somebody stores what is newer.
func TestWhatWasStoredBeforeTakesNoPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s := newSyncer(t, syncer.Options{Reader: &gitlab{}, Kube: fake.NewClientset(), Memory: m})
		go s.Follow(t.Context())
		named := func(age time.Duration, name string) {
			t.Helper()
			snap := authztest.Clone(rbacsynctest.HawWorld())
			snap.Taken = time.Now().Add(-age)
			if err := m.Save(t.Context(), syncer.Stored{Snapshot: snap, Names: map[authz.SourceID]string{authz.ProjectID(42): name}}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		for _, step := range []struct {
			age        time.Duration
			name, want string
		}{
			{0, "first", "first"},
			{time.Hour, "backup", "first"},
			{0, "later", "later"},
			{time.Hour, "clock behind", "later"},
			{time.Hour, "and goes on", "and goes on"}, // time goes by, so that was taken later
		} {
			named(step.age, step.name)
			if got := s.State().View.Namespace[authz.ProjectID(42)]; got != step.want {
				t.Errorf("stored %q of %v ago: known is %q, want %q", step.name, step.age, got, step.want)
			}
		}
	})
}
