package rbacsync_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestALeaderThatCanNotReadExplainsFromWhatIsStored: GitLab is away when the leader starts, and its first round fails
// before what is stored was loaded.
func TestALeaderThatCanNotReadExplainsFromWhatIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		g := &gitlab{err: errors.New("502")}
		s := newSyncer(t, rbacsync.Options{Reader: g, Kube: fake.NewClientset(), Memory: m})
		defer run(t, s)()
		synctest.Wait()
		if st := s.State(); st == nil || st.Err == nil || st.View.Snapshot != nil {
			t.Fatalf("before anything is known: %+v", st)
		}
		m.stored = &rbacsync.Stored{Snapshot: hawWorld(), Names: map[authz.SourceID]string{authz.Project(42): "haw-world"}}
		go s.Follow(t.Context())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if st := s.State(); st.View.Namespace[authz.Project(42)] != "haw-world" || st.Err == nil {
			t.Errorf("namespaces %v, error %v", st.View.Namespace, st.Err)
		}
		time.Sleep(5 * time.Minute) // the failure goes on, and so does the explaining
		if st := s.State(); st.View.Namespace[authz.Project(42)] != "haw-world" || st.Err == nil {
			t.Errorf("later: namespaces %v, error %v", st.View.Namespace, st.Err)
		}
	})
}
