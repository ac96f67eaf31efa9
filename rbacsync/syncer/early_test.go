package syncer_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestEntryOfAUserStaysUntilWritten: an entry of the inbox stays while the cluster has not taken all that it led to.
func TestEntryOfAUserStaysUntilWritten(t *testing.T) {
	t.Parallel()
	for _, id := range []authz.SourceID{authz.UserID(3), authz.GroupID(7), authz.ProjectID(42)} {
		t.Run(id.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kube := fake.NewClientset()
				kube.PrependReactor("*", "rolebindings", func(a kubetesting.Action) (bool, runtime.Object, error) {
					v := a.GetVerb()
					return a.GetNamespace() != "haw" && (v == "create" || v == "update" || v == "delete" || v == "patch"), nil, errors.New("exceeded quota")
				})
				g := &gitlab{snap: rbacsynctest.HawWorld()}
				inbox := &box{}
				s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Inbox: inbox})
				defer run(t, s)()
				time.Sleep(time.Minute)
				changed := authztest.Clone(g.snap)
				switch id.Kind {
				case authz.UserSource:
					u := changed.Users[3]
					u.State = "blocked"
					changed.Users[3] = u
				case authz.GroupSource:
					grp := changed.Groups[7]
					grp.Members = append(slices.Clone(grp.Members), authz.Member{User: 3, Level: authz.Maintainer})
					changed.Groups[7] = grp
				case authz.ProjectSource:
					changed = without(changed, 42, 3)
				}
				g.set(func(g *gitlab) { g.snap = changed })
				inbox.put([]intake.Ticket{{Key: "k", Value: "1", Changed: []authz.SourceID{id}, Cause: "hook"}})
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if inbox.left() != 1 {
					t.Errorf("the entry of %s was taken out, though the cluster did not take what it changes", id)
				}
			})
		})
	}
}
