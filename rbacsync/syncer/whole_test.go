package syncer_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestClusterUpdatesLeaveWhatIsOfOthers: whatever others have put onto a binding of ours stays when a right is taken out of it,
// and the binding is the same object. That holds also for one that has nothing of others, which is written as a whole.
func TestClusterUpdatesLeaveWhatIsOfOthers(t *testing.T) {
	c := realCluster(t)
	for i, tt := range []struct {
		name string
		add  func(m *metav1.ObjectMeta, owner metav1.OwnerReference)
	}{
		{"nothing", func(*metav1.ObjectMeta, metav1.OwnerReference) {}},
		{"a label", func(m *metav1.ObjectMeta, _ metav1.OwnerReference) { m.Labels["team"] = "blue" }},
		{"an annotation", func(m *metav1.ObjectMeta, _ metav1.OwnerReference) { m.Annotations["note"] = "by hand" }},
		{"a finalizer", func(m *metav1.ObjectMeta, _ metav1.OwnerReference) { m.Finalizers = []string{"example.com/look-first"} }},
		{"an owner", func(m *metav1.ObjectMeta, o metav1.OwnerReference) { m.OwnerReferences = []metav1.OwnerReference{o} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := int64(5000 + 10*i)
			name := "whole-" + string(rune('a'+i))
			g := &gitlab{snap: org(id, name)}
			s := newSyncer(t, syncer.Options{Reader: g, Kube: c.own})
			once(t, s)
			ctx, bindings := t.Context(), c.admin.RbacV1().RoleBindings(name+"-world")
			before, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
			if err != nil || len(before.Subjects) != 1 {
				t.Fatalf("%v, %v", before, err)
			}
			owner, err := c.admin.CoreV1().ConfigMaps(name+"-world").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			tt.add(&before.ObjectMeta, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID})
			if before, err = bindings.Update(ctx, before, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_, _ = bindings.Patch(t.Context(), "gitlab-view", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			})
			g.snap = without(g.snap, id+1000, 3)
			if r := once(t, s); len(r.Plan) != 1 {
				t.Errorf("plan:\n%s", rbacsync.Text(r.Plan))
			}
			after, err := bindings.Get(ctx, "gitlab-view", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(after.Subjects) != 0 || after.UID != before.UID {
				t.Errorf("after it: %v of %s, want nobody in %s", after.Subjects, after.UID, before.UID)
			}
			kept := func(rb *rbacv1.RoleBinding) []any {
				a := map[string]string{}
				for k, v := range rb.Annotations {
					if k == "note" {
						a[k] = v
					}
				}
				return []any{rb.Labels, a, rb.Finalizers, rb.OwnerReferences, rb.RoleRef, rb.CreationTimestamp, len(rb.ManagedFields) > 0}
			}
			if d := cmp.Diff(kept(before), kept(after)); d != "" {
				t.Errorf("what is of others (-before +after):\n%s", d)
			}
		})
	}
}
