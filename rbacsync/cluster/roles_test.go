package cluster_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRoles asks a real kube-apiserver, as the integrator's ServiceAccount.
func TestRoles(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	cp, err := controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cp.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := deploy.Apply(t.Context(), cp.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	admin := client(t, cp.AdminConfig())
	own := as(t, cp, admin, deploy.Namespace, deploy.ServiceAccount)

	t.Run("as in deploy", func(t *testing.T) {
		roles := cluster.NewRoleReader(own, "view", "edit", kubename.CIClusterRole).Look(t.Context())
		if len(roles) != 3 {
			t.Errorf("%d roles: %v", len(roles), roles)
		}
		for name, r := range roles {
			expect(t, name+" exists", r.Exists, clusterroles.Yes, "")
			expect(t, name+" can be bound", r.Bindable, clusterroles.Yes, "")
			if len(r.Rules) == 0 {
				t.Errorf("%s has no rules", name)
			}
		}
	})
	t.Run("mistyped", func(t *testing.T) {
		r := cluster.NewRoleReader(own, "viewx").Look(t.Context())["viewx"]
		expect(t, "exists", r.Exists, clusterroles.Unknown, "no right to get it") // RBAC answers before anybody looks
		expect(t, "can be bound", r.Bindable, clusterroles.No, "no right to bind it")
	})
	t.Run("not in the integrator's role", func(t *testing.T) {
		r := cluster.NewRoleReader(own, "admin").Look(t.Context())["admin"]
		expect(t, "exists", r.Exists, clusterroles.Unknown, "no right to get it")
		expect(t, "can be bound", r.Bindable, clusterroles.No, "no right to bind it")
	})
	t.Run("the role of before", func(t *testing.T) {
		grant(t, admin, "before", rbacv1.PolicyRule{
			APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"view"}, Verbs: []string{"bind"},
		})
		r := cluster.NewRoleReader(as(t, cp, admin, "default", "before"), "view").Look(t.Context())["view"]
		expect(t, "exists", r.Exists, clusterroles.Unknown, "no right to get it")
		expect(t, "can be bound", r.Bindable, clusterroles.Yes, "")
	})
	t.Run("listed in the role, made and deleted", func(t *testing.T) {
		grant(t, admin, "lister", rbacv1.PolicyRule{
			APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"later"}, Verbs: []string{"bind", "get"},
		})
		reader := cluster.NewRoleReader(as(t, cp, admin, "default", "lister"), "later")
		expect(t, "before it was asked", reader.Roles()["later"].Exists, clusterroles.Unknown, "not asked")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { reader.Run(ctx, 20*time.Millisecond); close(ended) }()
		await := func(want clusterroles.Verdict) clusterroles.Role {
			t.Helper()
			for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
				if r := reader.Roles()["later"]; r.Exists.Verdict == want {
					return r
				}
			}
			t.Fatalf("never %v: %v", want, reader.Roles()["later"])
			return clusterroles.Role{}
		}
		expect(t, "exists", await(clusterroles.No).Exists, clusterroles.No, "no ClusterRole of this name")
		expect(t, "can be bound", reader.Roles()["later"].Bindable, clusterroles.Yes, "")
		role := &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "later"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}},
		}
		if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if r := await(clusterroles.Yes); len(r.Rules) != 1 || r.Rules[0].Resources[0] != "pods" {
			t.Errorf("its rules are %v", r.Rules)
		}
		if err := admin.RbacV1().ClusterRoles().Delete(t.Context(), "later", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if r := await(clusterroles.No); r.Rules != nil {
			t.Errorf("it is gone and has the rules %v", r.Rules)
		}
		stop()
		<-ended
	})
	t.Run("API server away", func(t *testing.T) {
		away := client(t, &rest.Config{Host: "https://127.0.0.1:1"})
		r := cluster.NewRoleReader(away, "view").Look(t.Context())["view"]
		expect(t, "exists", r.Exists, clusterroles.Unknown, "connection refused")
		expect(t, "can be bound", r.Bindable, clusterroles.Unknown, "connection refused")
	})
}

// TestRulesStayWhileNobodyAnswers: what a role allowed a minute ago is a better answer than none.
func TestRulesStayWhileNobodyAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	cp, err := controlplane.Start(t.Context(), controlplane.Options{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	reader := cluster.NewRoleReader(client(t, cp.AdminConfig()), "view")
	before := reader.Look(t.Context())["view"]
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	after := reader.Look(t.Context())["view"]
	expect(t, "exists", after.Exists, clusterroles.Unknown, "getting ClusterRole")
	if len(before.Rules) == 0 || len(after.Rules) != len(before.Rules) {
		t.Errorf("%d rules before, %d after", len(before.Rules), len(after.Rules))
	}
}

func expect(t *testing.T, what string, got clusterroles.Answer, want clusterroles.Verdict, reason string) {
	t.Helper()
	if got.Verdict != want || !strings.Contains(got.Reason, reason) || (reason == "") != (got.Reason == "") {
		t.Errorf("%s: verdict %d, reason %q; want %d, %q", what, got.Verdict, got.Reason, want, reason)
	}
}

func client(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.CloseIdleConnections)
	c, err := kubernetes.NewForConfigAndClient(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// as returns a client of a ServiceAccount.
func as(t *testing.T, cp *controlplane.Cluster, admin kubernetes.Interface, ns, name string) kubernetes.Interface {
	t.Helper()
	seconds := int64(3600)
	tr, err := admin.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), name,
		&authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client(t, &rest.Config{Host: cp.URL(), QPS: -1, BearerToken: tr.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAData: cp.CA()}})
}

// grant makes a ServiceAccount in default with one rule in the whole cluster, and waits until it counts.
func grant(t *testing.T, admin kubernetes.Interface, name string, rule rbacv1.PolicyRule) {
	t.Helper()
	_, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil {
		_, err = admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: "default"}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(fmt.Errorf("granting %s its rule: %w", name, err))
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:default:" + name,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: rule.Resources[0], Name: rule.ResourceNames[0],
		},
	}}
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if r, err := admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{}); err == nil && r.Status.Allowed {
			return
		}
	}
	t.Fatalf("the rule of %s never counted", name)
}
