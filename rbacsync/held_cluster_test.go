package rbacsync_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// TestClusterDeletion: noted, deleted with the real ServiceAccount, in its cage.
func TestClusterDeletion(t *testing.T) {
	c := realCluster(t)
	full := org(310, "deletion")
	g := &verified{gitlab: &gitlab{snap: full}, exists: map[authz.SourceID]bool{authz.Project(1310): false}}
	now := &clock{time.Now()}
	s := newSyncer(t, rbacsync.Options{Reader: g, Kube: c.own, Now: now.now, Settings: rbacsync.Settings{DeleteAfter: time.Hour}})
	once(t, s)
	spaces := c.admin.CoreV1().Namespaces()
	g.snap = copySnap(full)
	g.snap.Projects = map[int64]authz.GitLabProject{}
	once(t, s)
	n, err := spaces.Get(t.Context(), "deletion-world", metav1.GetOptions{})
	if err != nil || n.Annotations[kubename.AnnotationGoneSince] == "" {
		t.Fatalf("after the first round: %v %v", err, n.Annotations)
	}
	c.may(t, false, "gitlab:3", "deletion-world", "get", "", "pods")

	g.snap = full // undeleted
	once(t, s)
	c.may(t, true, "gitlab:3", "deletion-world", "get", "", "pods")
	if n, err = spaces.Get(t.Context(), "deletion-world", metav1.GetOptions{}); err != nil || n.Annotations[kubename.AnnotationGoneSince] != "" {
		t.Errorf("after it came back: %v %v", err, n.Annotations)
	}

	g.snap = copySnap(full)
	g.snap.Projects = map[int64]authz.GitLabProject{}
	once(t, s)
	now.at = now.at.Add(61 * time.Minute)
	if r := once(t, s); !strings.Contains(rbacsync.Text(r.Plan), "delete Namespace deletion-world") {
		t.Errorf("after the grace period:\n%s%s", rbacsync.Text(r.Plan), codes(r))
	}
	n, err = spaces.Get(t.Context(), "deletion-world", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) && (err != nil || n.DeletionTimestamp == nil) {
		t.Errorf("the namespace stands: %v", err)
	}
	if _, err := spaces.Get(t.Context(), "deletion", metav1.GetOptions{}); err != nil {
		t.Errorf("the group's namespace: %v", err)
	}
}

// TestClusterAdoption: the cage keeps our own ServiceAccount from marking a namespace; once an administrator has
// marked it, it is adopted, and what is in it stays.
func TestClusterAdoption(t *testing.T) {
	c := realCluster(t)
	g := &gitlab{snap: org(320, "adoption")}
	s := newSyncer(t, rbacsync.Options{Reader: g, Kube: c.own, Settings: rbacsync.Settings{
		Adopt: []rbacsync.Adoption{{Namespace: "legacy-shop", Source: authz.Project(1320), Path: "adoption/world"}},
	}})
	spaces := c.admin.CoreV1().Namespaces()
	n, err := spaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "legacy-shop", Labels: map[string]string{"team": "shop"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.admin.CoreV1().ConfigMaps("legacy-shop").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "prices"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := once(t, s); !strings.Contains(codes(r), "adopt_unmarked") || r.Names[authz.Project(1320)] != "" {
		t.Errorf("without the mark: findings %s, names %v", codes(r), r.Names)
	}
	c.may(t, false, "gitlab:3", "legacy-shop", "get", "", "pods")
	own := n.DeepCopy()
	own.Labels[kubename.LabelManagedBy] = kubename.ManagedBy
	if _, err := c.own.CoreV1().Namespaces().Update(t.Context(), own, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("our own ServiceAccount marks a namespace: %v", err)
	}
	if _, err := spaces.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := once(t, s); r.Names[authz.Project(1320)] != "legacy-shop" {
		t.Errorf("with the mark: findings %s, names %v", codes(r), r.Names)
	}
	c.may(t, true, "gitlab:3", "legacy-shop", "get", "", "pods")
	if _, err := c.admin.CoreV1().ConfigMaps("legacy-shop").Get(t.Context(), "prices", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if n, err = spaces.Get(t.Context(), "legacy-shop", metav1.GetOptions{}); err != nil || n.Labels["team"] != "shop" || n.Labels[kubename.LabelSource] != "project-1320" {
		t.Errorf("labels %v, %v", n.Labels, err)
	}
	if r := once(t, s); len(r.Plan) != 0 {
		t.Errorf("the next round still plans:\n%s", rbacsync.Text(r.Plan))
	}
}

// TestClusterApproval: what is held is kept and approved in ConfigMaps that our role and cage allow.
func TestClusterApproval(t *testing.T) {
	c := realCluster(t)
	store := &rbacsync.HeldStore{Kube: c.own, Namespace: deploy.Namespace}
	full := org(330, "approval")
	g := &gitlab{snap: full}
	s := newSyncer(t, rbacsync.Options{Reader: g, Kube: c.own, Limits: &strict, Held: store})
	once(t, s)
	g.snap = without(full, 1330, 3)
	r := once(t, s)
	if len(r.Held) != 1 {
		t.Fatalf("held:\n%s%v", rbacsync.HeldText(r.Held), r.Findings)
	}
	c.may(t, true, "gitlab:3", "approval-world", "get", "", "pods")
	if r = once(t, s); len(r.Plan) != 0 || len(r.Held) != 1 {
		t.Errorf("the next round plans:\n%s", rbacsync.Text(r.Plan))
	}
	if _, err := (rbacsync.HeldStore{Kube: c.admin, Namespace: deploy.Namespace}).Approve(t.Context(), rbacsync.HashOf(r.Held)); err != nil {
		t.Fatal(err)
	}
	if r = once(t, s); len(r.Held) != 0 || strings.Contains(codes(r), "approvals") {
		t.Errorf("approved, but held:\n%s%s", rbacsync.HeldText(r.Held), codes(r))
	}
	c.may(t, false, "gitlab:3", "approval-world", "get", "", "pods")
	once(t, s) // forgets the approval
	if left, err := store.Approvals(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("approvals left: %v, %v", left, err)
	}
}
