package syncer_test

import (
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
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestOneEntryOfAKeyIsOpen: hooks about a namespace that can't be written replace each other, as they do in the Inbox, instead
// of piling up until it can.
func TestOneEntryOfAKeyIsOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		kube := fake.NewClientset()
		kube.PrependReactor("create", "rolebindings", func(kubetesting.Action) (bool, runtime.Object, error) {
			return broken.Load(), nil, errors.New("exceeded quota")
		})
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		inbox, seen := &box{}, &rounds{}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: 1000 * time.Hour, Now: time.Now, Inbox: inbox, OnRound: seen.add})
		defer run(t, s)()
		time.Sleep(time.Minute)
		for i := range 50 {
			inbox.put([]intake.Ticket{{Key: "project-42", Value: fmt.Sprint(i), Changed: []authz.SourceID{authz.ProjectID(42)}, Cause: "hook"}})
			time.Sleep(5 * time.Second)
		}
		broken.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		done := 0
		for _, r := range seen.taken() {
			done += len(r.Done)
		}
		if done != 1 || inbox.left() != 0 {
			t.Errorf("%d entries of one key were dealt with, %d are left; want the last one and none", done, inbox.left())
		}
	})
}
