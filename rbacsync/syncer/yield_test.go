package syncer_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// leave has the Owner of the group leave.
func leave(g *gitlab) {
	n := *g.snap
	group := n.Groups[7]
	group.Members = nil
	n.Groups = map[int64]authz.Group{7: group}
	g.snap = &n
}

// TestRightsOfPeopleGoBeforeTokens: an Owner leaves in a burst of hooks. Their RoleBindings change at once, and the token that they
// could read dies when the burst is over, but at the latest after YieldDying, however long it goes on and however many tokens die.
func TestRightsOfPeopleGoBeforeTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hooks           int // one each 20 ms
		after, atLatest time.Duration
	}{
		"one hook":        {1, 0, 150 * time.Millisecond},
		"a short burst":   {20, 380 * time.Millisecond, 600 * time.Millisecond},
		"one for a while": {300, 900 * time.Millisecond, ci.YieldDying + 200*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				snap := *rbacsynctest.HawWorld()
				snap.Projects = maps.Clone(snap.Projects)
				for id := int64(1000); id < 1040; id++ { // more than are dealt with at the same time
					p := snap.Projects[42]
					p.ID, p.Path = id, fmt.Sprint("haw/many-", id)
					snap.Projects[id] = p
				}
				g, kube := &gitlab{snap: &snap}, fake.NewClientset()
				p := credentials(t, kube)
				p.Concurrency = 4
				p.Variables = slow{}
				var mu sync.Mutex
				died, updated := map[string]time.Time{}, map[string]time.Time{}
				note := func(into map[string]time.Time) func(ktesting.Action) (bool, runtime.Object, error) {
					return func(a ktesting.Action) (bool, runtime.Object, error) {
						mu.Lock()
						defer mu.Unlock()
						if d, ok := a.(ktesting.DeleteAction); !ok || a.GetResource().Resource != "secrets" || d.GetName() == kubename.CISecret {
							into[a.GetNamespace()] = time.Now()
						}
						return false, nil, nil
					}
				}
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: time.Hour})
				defer run(t, s)()
				time.Sleep(time.Minute) // all have a token
				kube.PrependReactor("delete", "secrets", note(died))
				for _, verb := range []string{"update", "patch", "delete"} {
					kube.PrependReactor(verb, "rolebindings", note(updated))
				}
				g.set(leave)
				begun := time.Now()
				for range c.hooks {
					s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(c.atLatest)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(updated) != 42 || len(died) != 42 {
					t.Errorf("%d rights went and %d tokens died, want 42", len(updated), len(died))
				}
				for ns := range updated {
					if d := updated[ns].Sub(begun); d > 10*time.Millisecond {
						t.Errorf("%s: the right went after %s", ns, d)
					}
					if d := died[ns].Sub(begun); died[ns].IsZero() || d < c.after || d > c.atLatest {
						t.Errorf("%s: the token died after %s, want %s to %s", ns, d, c.after, c.atLatest)
					}
				}
			})
		})
	}
}

// packing is a Memory that lets others go first while it stores.
type packing struct{ memory }

func (m *packing) Save(ctx context.Context, s syncer.Stored, yield func()) error {
	if yield != nil {
		yield()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return m.memory.Save(ctx, s, nil)
}

// TestTheLastSnapshotIsStoredInABurst: the process is stopped while a pass writes and the next hook has been read. What the pass has
// done is stored all the same, and nothing waits for a pass that does not come.
func TestTheLastSnapshotIsStoredInABurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, kept, slowly := &gitlab{snap: rbacsynctest.HawWorld()}, &packing{}, new(atomic.Bool)
		s := newSyncer(t, syncer.Options{Reader: g, Kube: fake.NewClientset(), Memory: kept, Interval: time.Hour, Apply: cluster.ApplyOptions{May: func() error {
			if slowly.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}}})
		stop := run(t, s)
		time.Sleep(time.Minute)
		slowly.Store(true)
		g.set(leave)
		s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
		time.Sleep(50 * time.Millisecond) // the pass writes
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		time.Sleep(10 * time.Millisecond) // and this was read
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the stop took %s", took)
		}
		kept.mu.Lock()
		defer kept.mu.Unlock()
		if kept.stored == nil || len(kept.stored.Snapshot.Groups[7].Members) > 0 {
			t.Error("what the last pass has done was not stored")
		}
	})
}
