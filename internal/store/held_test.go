package store_test

import (
	"encoding/base64"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

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
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(map[string]string{items[0].Key(): ""}, got) != "" {
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
	if _, err := h.Approve(t.Context(), rbacsync.HashOf(items), ""); err != nil {
		t.Fatal(err)
	}
	if err := h.Forget(t.Context(), []string{items[0].Key()}); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(map[string]string{items[1].Key(): ""}, got) != "" {
		t.Errorf("approved at last: %v %v", got, err)
	}
}

// TestWhoApproved: of two people who approve the same the first one counts, also when both do so at once; the approver goes with
// the approval, and a version that knows no approvers leaves the approval as it is.
func TestWhoApproved(t *testing.T) {
	t.Parallel()
	items := []rbacsync.Item{
		{Scope: authz.GroupID(7), Cause: authz.UserID(3), Source: authz.ProjectID(42), User: 3, Role: "edit", Why: "too many"},
		{Scope: authz.GroupID(8), Cause: authz.GroupID(8), Source: authz.GroupID(8), Why: "too many"},
	}
	parts := rbacsync.Sections(items)
	held := func() (*fake.Clientset, store.Held) {
		kube := fake.NewClientset()
		h := store.Held{Client: kube, Namespace: "ns"}
		if err := h.Save(t.Context(), items); err != nil {
			t.Fatal(err)
		}
		return kube, h
	}
	approve := func(h store.Held, hash, by string, want error) {
		t.Helper()
		if got, err := h.Approve(t.Context(), hash, by); !errors.Is(err, want) || errors.Is(err, rbacsync.ErrNoSuchHash) != (len(got) == 0) {
			t.Fatalf("%s: %v, %v, want %v", by, got, err, want)
		}
	}
	kube, h := held()
	approve(h, "0123456789abcdef", "gitlab:1", rbacsync.ErrNoSuchHash)
	approve(h, parts[0].Hash, "gitlab:1", nil)
	approve(h, parts[0].Hash, "gitlab:2", store.ErrApproved)
	// Somebody else is faster between our look and our write: this is what they leave.
	other, faster := held()
	approve(faster, parts[0].Hash, "gitlab:1", nil)
	approve(faster, parts[1].Hash, "gitlab:2", nil)
	theirs, err := other.CoreV1().ConfigMaps("ns").Get(t.Context(), store.NameApprovals, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kube.PrependReactor("update", "configmaps", func(k8stesting.Action) (bool, runtime.Object, error) {
		var err error
		once.Do(func() {
			if err = kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), theirs, "ns"); err == nil {
				err = apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, store.NameApprovals, nil)
			}
		})
		return err != nil, nil, err
	})
	approve(h, parts[1].Hash, "gitlab:1", store.ErrApproved)
	want := map[string]string{items[0].Key(): "gitlab:1", items[1].Key(): "gitlab:2"}
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	cm, err := kube.CoreV1().ConfigMaps("ns").Get(t.Context(), store.NameApprovals, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(cm.BinaryData, "by.json.gz") // as an earlier version writes it
	if _, err := kube.CoreV1().ConfigMaps("ns").Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Approvals(t.Context()); err != nil || cmp.Diff(map[string]string{items[0].Key(): "", items[1].Key(): ""}, got) != "" {
		t.Errorf("without approvers: %v %v", got, err)
	}
}
