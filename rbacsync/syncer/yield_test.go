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

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
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

// vanish has GitLab know all but the group no more.
func vanish(g *gitlab) {
	n := *g.snap
	n.Projects = map[int64]authz.Project{}
	g.snap = &n
}

// many is HawWorld with projects: more than are dealt with at the same time.
func many() *authz.Snapshot {
	snap := *rbacsynctest.HawWorld()
	snap.Projects = maps.Clone(snap.Projects)
	for id := int64(1000); id < 1040; id++ {
		p := snap.Projects[42]
		p.ID, p.Path = id, fmt.Sprint("haw/many-", id)
		snap.Projects[id] = p
	}
	return &snap
}

// noted is when something was first written, by namespace.
type noted struct {
	mu sync.Mutex
	at map[string]time.Time
}

// of notes writes of one kind of object, if it has that name; "" is any. It waits until nothing is going on: a clientset is not to be
// changed while somebody uses it.
func (n *noted) of(kube *fake.Clientset, resource, name string, verbs ...string) *noted {
	synctest.Wait()
	n.at = map[string]time.Time{}
	for _, verb := range verbs {
		kube.PrependReactor(verb, resource, func(a ktesting.Action) (bool, runtime.Object, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if d, ok := a.(ktesting.DeleteAction); (name == "" || ok && d.GetName() == name) && n.at[a.GetNamespace()].IsZero() {
				n.at[a.GetNamespace()] = time.Now()
			}
			return false, nil, nil
		})
	}
	return n
}

// check compares when it was written, after begun, in how many namespaces.
func (n *noted) check(t *testing.T, what string, begun time.Time, namespaces int, after, atLatest time.Duration) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.at) != namespaces {
		t.Errorf("%s in %d namespaces, want %d", what, len(n.at), namespaces)
	}
	for ns, at := range n.at {
		if d := at.Sub(begun); d < after || d > atLatest {
			t.Errorf("%s in %s after %s, want %s to %s", what, ns, d, after, atLatest)
		}
	}
}

// TestRightsOfPeopleGoBeforeTokens: an Owner leaves in a burst of hooks. Their RoleBindings change at once, and the tokens that they
// could read die when the burst is over, but at the latest after a second, however long it goes on and however many they are.
func TestRightsOfPeopleGoBeforeTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens         func(*gitlab)
		namespaces      int
		hooks           int // one each 20 ms
		after, atLatest time.Duration
	}{
		"one hook":        {leave, 42, 1, 0, 150 * time.Millisecond},
		"a short burst":   {leave, 42, 20, 380 * time.Millisecond, 600 * time.Millisecond},
		"one for a while": {leave, 42, 300, 900 * time.Millisecond, 1200 * time.Millisecond},
		"projects go":     {vanish, 41, 300, 900 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g, kube := &gitlab{snap: many()}, fake.NewClientset()
				p := credentials(t, kube)
				p.Concurrency, p.Variables = 4, slow{}
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: time.Hour})
				defer run(t, s)()
				time.Sleep(time.Minute) // all have a token
				died := new(noted).of(kube, "secrets", kubename.CISecret, "delete")
				updated := new(noted).of(kube, "rolebindings", "", "update", "patch", "delete")
				g.set(c.happens)
				begun := time.Now()
				for range c.hooks {
					s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(c.atLatest)
				synctest.Wait()
				updated.check(t, "a right went", begun, c.namespaces, 0, 10*time.Millisecond)
				died.check(t, "a token died", begun, c.namespaces, c.after, c.atLatest)
			})
		})
	}
}

// minding is a cluster in which nobody reads a Secret whose context has ended; the fake one minds no context.
type minding struct{ kubernetes.Interface }

func (e minding) CoreV1() corev1.CoreV1Interface { return mindingCore{e.Interface.CoreV1()} }

type mindingCore struct{ corev1.CoreV1Interface }

func (e mindingCore) Secrets(ns string) corev1.SecretInterface {
	return mindingSecrets{e.CoreV1Interface.Secrets(ns)}
}

type mindingSecrets struct{ corev1.SecretInterface }

func (e mindingSecrets) Get(ctx context.Context, name string, o metav1.GetOptions) (*v1.Secret, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return e.SecretInterface.Get(ctx, name, o)
}

// TestTokensDieAtTheEnd: the process ends in a burst, before the tokens have died that somebody could read who has just left. They
// die all the same: the next one would find out by looking at each Secret.
func TestTokensDieAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, kube := &gitlab{snap: many()}, fake.NewClientset()
		p := credentials(t, kube)
		p.Concurrency, p.Kube = 4, minding{kube}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, CI: ci.New(p), Interval: time.Hour})
		stop := run(t, s)
		time.Sleep(time.Minute)
		died := new(noted).of(kube, "secrets", kubename.CISecret, "delete")
		g.set(leave)
		begun := time.Now()
		for range 10 {
			s.Trigger([]authz.SourceID{authz.GroupID(7)}, "hook")
			time.Sleep(20 * time.Millisecond)
		}
		stop()
		died.check(t, "a token died", begun, 42, 0, time.Second)
	})
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
