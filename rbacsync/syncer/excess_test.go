package syncer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestBindingsOfOthersThatGiveMore: they are a finding each, and never touched.
func TestBindingsOfOthersThatGiveMore(t *testing.T) {
	t.Parallel()
	user := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
	}
	group := func(name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
	}
	account := func(ns, name string) rbacv1.Subject {
		return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: ns, Name: name}
	}
	for _, c := range []struct {
		name, kind, role string
		subject          rbacv1.Subject
		want             string // "" is no finding
	}{
		{"a Developer as edit", "ClusterRole", "edit", user("gitlab:3"), "gives gitlab:3 (bob) edit"},
		{"a Developer as view, which they are", "ClusterRole", "view", user("gitlab:3"), ""},
		{"an Owner as view, which is less", "ClusterRole", "view", user("gitlab:2"), ""},
		{"an Owner as admin", "ClusterRole", "admin", user("gitlab:2"), "gives gitlab:2 (alice) admin"},
		{"an Owner with a Role", "Role", "secrets", user("gitlab:2"), "gives gitlab:2 (alice) Role/secrets"},
		{"somebody unknown", "ClusterRole", "view", user("gitlab:99"), "gives gitlab:99 view"},
		{"somebody who is not of GitLab", "ClusterRole", "cluster-admin", user("system:admin"), ""},
		{"all of GitLab", "ClusterRole", "view", group(kubename.GroupUsers), "gives the group gitlab:users view"},
		{"everybody", "ClusterRole", "view", group("system:authenticated"), "gives the group system:authenticated view"},
		{"an operator's account", "ClusterRole", "edit", account("operators", "operator"), ""},
		{"a tenant's own account", "ClusterRole", "edit", account("haw-world", "default"), ""},
		{"the CI of another project", "ClusterRole", "view", account("haw", kubename.CIServiceAccount), "gives the CI of namespace haw view"},
		{"its own CI, with what it has", "ClusterRole", "edit", account("haw-world", kubename.CIServiceAccount), ""},
		{"its own CI as admin", "ClusterRole", "admin", account("haw-world", kubename.CIServiceAccount), "gives the CI of namespace haw-world admin"},
		{"jobs of another project", "ClusterRole", "edit", user("gitlab:ci:41"), "gives gitlab:ci:41 edit"},
		{"its own jobs", "ClusterRole", "edit", user("gitlab:ci:42"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kube := fake.NewClientset()
			g := &gitlab{snap: rbacsynctest.HawWorld()}
			s := newSyncer(t, syncer.Options{Reader: g, Kube: kube})
			if r := once(t, s); codes(r) != "" {
				t.Fatalf("findings %v", r.Findings)
			}
			for _, ns := range []string{"haw-world", "elsewhere"} { // what is not ours is not our business
				rb := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: ns}, Subjects: []rbacv1.Subject{c.subject}, RoleRef: rbacv1.RoleRef{Kind: c.kind, Name: c.role}}
				if _, err := kube.RbacV1().RoleBindings(ns).Create(t.Context(), rb, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			r := once(t, s)
			if len(r.Plan) != 0 {
				t.Errorf("plan:\n%s", rbacsync.Text(r.Plan))
			}
			if c.want == "" && codes(r) != "" || c.want != "" && (codes(r) != "foreign_binding" || !strings.Contains(r.Findings[0].Text, "haw-world/theirs, which is not ours, "+c.want)) {
				t.Errorf("findings %v, want %q", r.Findings, c.want)
			}
			if c.want == "" {
				return
			}
			// It stands until the next full reading, and where GitLab was not read it is not judged.
			g.snap = rbacsynctest.HawWorld()
			g.snap.Missing = map[authz.SourceID]string{authz.ProjectID(42): "502"}
			if r := once(t, s); strings.Contains(codes(r), "foreign_binding") {
				t.Errorf("judged without knowing what GitLab gives: %v", r.Findings)
			}
		})
	}
}

// TestAFenceThatIsTakenAway: it is looked at with each full reading, and a finding until it is back; rights are kept in
// order all the same.
func TestAFenceThatIsTakenAway(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	var gone error
	g := &gitlab{snap: rbacsynctest.HawWorld()}
	s := newSyncer(t, syncer.Options{Reader: g, Kube: kube, Fence: func(context.Context) error { return gone }})
	if r := once(t, s); codes(r) != "" {
		t.Fatalf("findings %v", r.Findings)
	}
	gone = errors.New("no policy")
	g.set(func(g *gitlab) { g.snap = without(g.snap, 42, 3) })
	if r := once(t, s); codes(r) != "fence" || r.Findings[0].Text != "no policy" {
		t.Errorf("findings %v", r.Findings)
	}
	wantSubjects(t, kube, "haw-world", "gitlab-view")
	gone = nil
	if r := once(t, s); codes(r) != "" {
		t.Errorf("findings %v", r.Findings)
	}
}
