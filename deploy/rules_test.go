package deploy_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TestRulesOfAreThoseInTheCluster: kube-apiserver stores the rules of our ClusterRole as they are shipped, so a difference is
// somebody's change.
func TestRulesOfAreThoseInTheCluster(t *testing.T) {
	want, err := deploy.RulesOf(kubename.CIClusterRole)
	if err != nil || len(want) == 0 {
		t.Fatal(want, err)
	}
	if _, err := deploy.RulesOf("nobody"); err == nil {
		t.Error("a ClusterRole that is not shipped has rules")
	}
	got, err := as(t, "").RbacV1().ClusterRoles().Get(t.Context(), kubename.CIClusterRole, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(got.Rules, want) {
		t.Errorf("rules %v, want %v", got.Rules, want)
	}
}
