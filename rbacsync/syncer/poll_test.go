package syncer_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// states is a Poller that notes who was asked for.
type states struct {
	mu    sync.Mutex
	now   map[int64]authz.UserState
	asked [][]int64
}

func (s *states) States(_ context.Context, ids []int64) (map[int64]authz.UserState, []int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, slices.Clone(ids))
	return maps.Clone(s.now), nil, nil
}

// TestABlockedUserIsFoundWithoutAHook: GitLab sends none for that.
func TestABlockedUserIsFoundWithoutAHook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		snap := rbacsynctest.HawWorld()
		snap.Taken = time.Now()
		for id := int64(100); id < 350; id++ {
			snap.Users[id] = authz.User{ID: id, State: authz.StateActive, Human: true}
		}
		kube, g := fake.NewClientset(), &gitlab{snap: snap}
		p := &states{now: map[int64]authz.UserState{}}
		for id := range snap.Users {
			p.now[id] = authz.StateActive
		}
		s := newSyncer(t, syncer.Options{
			Reader: g, Kube: kube, Interval: time.Hour, Users: p, PollEvery: 10 * time.Second,
			Recent: func() map[int64]time.Time { return map[int64]time.Time{3: time.Now(), 4711: time.Now()} },
		})
		defer run(t, s)()
		synctest.Wait()
		g.taken()
		time.Sleep(35 * time.Second)
		synctest.Wait()
		if len(g.taken()) != 0 {
			t.Error("read although nothing changed")
		}
		p.mu.Lock()
		everybody := map[int64]bool{}
		for i, ids := range p.asked {
			if i%2 == 0 && !slices.Equal(ids, []int64{3}) {
				t.Errorf("request %d asked for %v, want who was seen lately", i, ids)
			}
			if len(ids) > 100 {
				t.Errorf("%d people in one request", len(ids))
			}
			for _, id := range ids {
				everybody[id] = true
			}
		}
		if len(p.asked) != 6 || len(everybody) != len(snap.Users) {
			t.Errorf("%d requests in three ticks asked for %d of %d people", len(p.asked), len(everybody), len(snap.Users))
		}
		p.now[3] = "blocked"
		p.mu.Unlock()
		if st, ok := s.Staleness(); !ok || st.Everything < 30*time.Second || st.Present > 15*time.Second {
			t.Errorf("staleness %+v", st)
		}

		n := *snap
		n.Users = maps.Clone(snap.Users)
		u := n.Users[3]
		u.State = "blocked"
		n.Users[3] = u
		g.set(func(g *gitlab) { g.snap = &n })
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if d := cmp.Diff([]string{"refresh user/3"}, g.taken()); d != "" {
			t.Errorf("reads (-want +got):\n%s", d)
		}
		wantSubjects(t, kube, "haw-world", "gitlab-view")
	})
}
