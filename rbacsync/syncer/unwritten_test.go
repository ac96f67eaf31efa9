package syncer_test

import (
	"errors"
	"strings"
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

// TestWhatCannotBeWrittenIsReportedAfterAHook: a round about something else does not make the last one look as if all of it had
// been written.
func TestWhatCannotBeWrittenIsReportedAfterAHook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		kube.PrependReactor("create", "rolebindings", func(a kubetesting.Action) (bool, runtime.Object, error) {
			return a.GetNamespace() == "haw", nil, errors.New("exceeded quota")
		})
		g := &gitlab{snap: rbacsynctest.HawWorld()}
		inbox, seen := &box{}, &rounds{}
		s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Watch: kube, Interval: time.Hour, Now: time.Now, Inbox: inbox, OnRound: seen.add})
		defer run(t, s)()
		time.Sleep(10 * time.Minute)
		g.set(func(g *gitlab) { g.snap = without(rbacsynctest.HawWorld(), 42, 3) })
		inbox.put([]intake.Ticket{{Key: "project-42", Value: "1", Changed: []authz.SourceID{authz.ProjectID(42)}, Cause: "hook"}})
		time.Sleep(time.Second)
		var r syncer.Round // a retry of what failed may come before and after it
		for _, one := range seen.taken() {
			if one.Cause == "hook" {
				r = one
			}
		}
		if r.Cause != "hook" || r.Namespaces != 1 || len(r.Report.Failed) != 0 {
			t.Fatalf("the hook's round is %q over %d namespaces, %d failed", r.Cause, r.Namespaces, len(r.Report.Failed))
		}
		if r.Unwritten == 0 || !strings.Contains(findingOf(r, "unwritten"), "exceeded quota") {
			t.Errorf("after the hook: %d unwritten, finding %q", r.Unwritten, findingOf(r, "unwritten"))
		}
	})
}
