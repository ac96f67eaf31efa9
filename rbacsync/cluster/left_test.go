package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestLookingForWhatWasLeft: what can't be read is said, and a namespace where nothing is left is not read for ever.
func TestLookingForWhatWasLeft(t *testing.T) {
	t.Parallel()
	lostAt := time.Date(2026, 11, 28, 8, 40, 0, 0, time.UTC)
	rb := rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "haw", CreationTimestamp: metav1.NewTime(lostAt)},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "haw", Name: "bot"}},
	}
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "haw"}, Spec: corev1.PodSpec{ServiceAccountName: "bot"}}
	lost := func(at time.Time) rbacsync.LostNamespace {
		return rbacsync.LostNamespace{
			Name: "haw", Source: authz.GroupID(7), Loss: rbacsync.Loss{At: at, Users: []int64{2}}, Who: "gitlab:2 (alice)", Weak: map[string]bool{"view": true},
		}
	}
	kube := fake.NewClientset(&rb, &pod)
	forbidden, reads := true, 0
	kube.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		reads++
		return forbidden, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", nil)
	})
	now := lostAt.Add(time.Minute)
	k := NewLeftFinder(kube, func() time.Time { return now })
	namespaces := map[string]rbacsync.LostNamespace{"haw": lost(lostAt)}
	found := k.Look(t.Context(), namespaces, true)
	if len(found) != 2 || !strings.Contains(found[0].Text, "b (edit for bot);") || strings.Contains(found[0].Text, "pods") ||
		!strings.Contains(found[1].Text, "in 1 namespaces") || !strings.Contains(found[1].Text, "listing pods in haw") || !strings.Contains(found[1].Text, "deploy/manifests") {
		t.Errorf("without the right to list pods: %v", found)
	}
	forbidden = false
	if found = k.Look(t.Context(), namespaces, true); len(found) != 1 || !strings.Contains(found[0].Text, "p (as bot)") {
		t.Errorf("with it: %v", found)
	}
	forbidden = true
	kube.PrependReactor("list", "rolebindings", func(clienttesting.Action) (bool, runtime.Object, error) {
		return forbidden, nil, apierrors.NewInternalError(errors.New("down"))
	})
	if found = k.Look(t.Context(), namespaces, true); len(found) != 2 || !strings.Contains(found[0].Text, "p (as bot)") || !strings.Contains(found[1].Text, "listing role bindings in haw") {
		t.Errorf("while nothing can be read, the last answer: %v", found)
	}
	forbidden = false
	if err := kube.RbacV1().RoleBindings("haw").Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if found = k.Look(t.Context(), namespaces, true); len(found) != 0 {
		t.Errorf("after it was deleted: %v", found)
	}
	before := reads
	if k.Look(t.Context(), namespaces, false); reads != before {
		t.Errorf("after a loss elsewhere it is looked at again, with %d requests", reads-before)
	}
	count := func(want bool, what string) {
		t.Helper()
		before := reads
		if k.Look(t.Context(), namespaces, true); (reads > before) != want {
			t.Errorf("%s: read %v, want %v", what, reads > before, want)
		}
	}
	count(true, "something can still be made by what was left")
	now = lostAt.Add(rbacsync.LeftAfter + time.Minute)
	count(true, "the last time")
	count(false, "nothing can be left any more")
	namespaces["haw"] = lost(now)
	count(true, "a new loss")
	if found = k.Look(t.Context(), nil, true); len(found) != 0 || len(k.namespaces) != 0 {
		t.Errorf("after it was acknowledged: %v, %v", found, k.namespaces)
	}
}
