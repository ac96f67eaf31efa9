package store_test

import (
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestHeldOfEarlierVersionsIsRead: what an earlier version wrote when two things were held and one of them was approved. Nothing is
// written again for it: an earlier version that comes back finds its own.
func TestHeldOfEarlierVersionsIsRead(t *testing.T) {
	t.Parallel()
	items := []rbacsync.Item{
		{Scope: authz.GroupID(7), Cause: authz.UserID(3), Source: authz.ProjectID(42), Path: "haw/world", User: 3, Name: "bob", Role: "edit", Why: "too many"},
		{Scope: authz.GroupID(8), Cause: authz.GroupID(8), Source: authz.GroupID(8), Path: "haw/new", Why: "too many"},
	}
	wrote := func(name, content string, data map[string]string) *corev1.ConfigMap {
		packed, err := base64.StdEncoding.DecodeString(content)
		if err != nil {
			t.Fatal(err)
		}
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, BinaryData: map[string][]byte{"items.json.gz": packed}, Data: data}
	}
	kube := fake.NewClientset(
		wrote("gl-k8s-integrator-plan", "H4sIAAAAAAAA/6yPz0qGQBTF9z1FnPWFJINkdmGbCCKSaBEtRh0cS+fK6CAi8+4xZCkp3+rbDXP+3PN7n5Gxs4WCmPFYmxICneVPVQwgPNxD3Fx7wgs3CgKqrMP3a68sRExIpeu3SReEn1jsCVnB3VauLLtu0W89IdXSVKEXhLv+Kzh3YxZ75H/PhtezHDQEtByvRrZNCcKTbENTzjkIb3qCwMB82UozwdNB8XZMsiL+4UV7vP+RU3zJmfiMGle6A7SPi+8AAAD//wCn46LDAQAA",
			map[string]string{"plan": rbacsync.HeldText(items)}),
		wrote("gl-k8s-integrator-approvals", "H4sIAAAAAAAA/4pWKkoty89OVSgoys9KTS7RNzFSSE3JLFEwVorlAgQAAP//ra4HxR0AAAA=", nil))
	h := store.Held{Client: kube, Namespace: "ns"}
	if got, err := h.Load(t.Context()); err != nil || cmp.Diff(items, got) != "" {
		t.Errorf("held: %v %s", err, cmp.Diff(items, got))
	}
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(map[string]bool{items[0].Key(): true}, got) != "" {
		t.Errorf("approved: %v %v", got, err)
	}
	kube.ClearActions()
	if err := h.Save(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if err := h.Forget(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, a := range kube.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s %s, although the content is the same", a.GetVerb(), a.GetResource().Resource)
		}
	}
	if _, err := h.Approve(t.Context(), rbacsync.HashOf(items)); err != nil {
		t.Fatal(err)
	}
	if err := h.Forget(t.Context(), []string{items[0].Key()}); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(map[string]bool{items[1].Key(): true}, got) != "" {
		t.Errorf("approved at last: %v %v", got, err)
	}
}
