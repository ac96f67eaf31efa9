package syncer_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestTwoGitLabsInOneCluster is the table of docs/clusters.md: each leaves the other's namespaces alone, one with the same path gets
// another name, and the names of people are the same, which is why nobody should do this.
func TestTwoGitLabsInOneCluster(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	var syncers []*syncer.Syncer
	for _, issuer := range []string{rbacsynctest.Issuer, "https://other.example.com"} {
		snap := rbacsynctest.CopySnap(rbacsynctest.HawWorld())
		snap.Issuer = issuer
		syncers = append(syncers, newSyncer(t, syncer.Options{Reader: &gitlab{snap: snap}, Kube: kube}))
	}
	once(t, syncers[0])
	first := rightsOf(t, kube)
	r, err := syncers[1].Once(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if f := findingOf(r, "other_issuer"); !strings.Contains(f, rbacsynctest.Issuer) {
		t.Errorf("the finding is %q", f)
	}
	both := rightsOf(t, kube)
	for line := range strings.Lines(first) {
		if !strings.Contains(both, line) {
			t.Errorf("the second GitLab changed %s", line)
		}
	}
	names := map[string]int{}
	list, err := kube.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range list.Items {
		names[ns.Annotations[kubename.AnnotationPath]]++
	}
	if names["haw/world"] != 2 || names["haw"] != 2 {
		t.Errorf("namespaces by path: %v", names)
	}
	for i, s := range syncers {
		if again := once(t, s); len(again.Plan) > 0 {
			t.Errorf("GitLab %d puts back what the other one made: %v", i, again.Plan)
		}
	}
	if strings.Count(rightsOf(t, kube), kubename.User(3)) != 2*strings.Count(first, kubename.User(3)) {
		t.Error("the people of the two are told apart: then docs/clusters.md is wrong")
	}
}
