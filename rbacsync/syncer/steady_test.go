package syncer_test

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestSteadyHooksDoNotKeepGrantsWaiting: on an API server that is slow, with hooks that never stop, what is given is written all
// the same: each pass makes room for a hook, but not before it has written for a while.
func TestSteadyHooksDoNotKeepGrantsWaiting(t *testing.T) {
	t.Parallel()
	const projects, each = 40, 20 * time.Millisecond
	snap := rbacsynctest.HawWorld()
	snap.Projects = maps.Clone(snap.Projects)
	for id := int64(100); id < 100+projects; id++ {
		snap.Projects[id] = authz.Project{ID: id, Group: 7, Path: fmt.Sprintf("haw/p%d", id), Members: []authz.Member{{User: 3, Level: authz.Maintainer}}}
	}
	kube := fake.NewClientset()
	var slow atomic.Bool
	kube.PrependReactor("*", "*", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if slow.Load() && (a.GetVerb() == "create" || a.GetVerb() == "patch") {
			time.Sleep(each)
		}
		return false, nil, nil
	})
	slow.Store(true)
	s := newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: kube, Watch: kube, Interval: time.Hour})
	stop := run(t, s)
	defer stop()
	writes := 0
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(5 * time.Millisecond) {
		s.Trigger([]authz.SourceID{authz.ProjectID(42)}, "hook")
		st := s.State()
		if st == nil {
			continue
		}
		if writes = len(st.View.Gaps()); writes == 0 && st.Round.Snapshot != nil && len(st.Round.Report.Deferred) == 0 && len(kube.Actions()) > projects {
			t.Logf("all is written after %v", time.Since(begun))
			return
		}
	}
	t.Errorf("after a minute %d namespaces still lack what GitLab gives", writes)
}
