package kubeerror

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestForbiddenSaysWhoIsMeant: the integrator needs its roles, a person another kubeconfig.
func TestForbiddenSaysWhoIsMeant(t *testing.T) {
	for user, want := range map[string]string{
		"system:serviceaccount:gl-k8s-integrator:gl-k8s-integrator": "give the integrator's ServiceAccount the roles",
		"gitlab:4":         "an administrator's kubeconfig",
		"system:anonymous": "an administrator's kubeconfig",
	} {
		// as kube-apiserver writes it
		cause := fmt.Errorf(`User %q cannot get resource "configmaps" in API group "" in the namespace "gl-k8s-integrator"`, user)
		err := Explain(apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "gl-k8s-integrator-status", cause))
		if !strings.Contains(err.Error(), want) || !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v; want %q", user, err, want)
		}
	}
	denied := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "x", errors.New("the cage"))
	if err := Explain(denied); strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("a refusal that names nobody: %v", err)
	}
}
