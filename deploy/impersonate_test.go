package deploy_test

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TestTenantsImpersonateNobody sends what TestSecurityInvariantTenantFence only asks about: requests in the name of
// others, with credentials of a tenant's own. An administrator sends the same ones, and an account with the verbs of
// constrained impersonation (Kubernetes 1.36 and later) shows that these count here.
func TestTenantsImpersonateNobody(t *testing.T) {
	ns := managed(t, "fence-impersonate")
	ctx := t.Context()
	list := func(cfg *rest.Config, who rest.ImpersonationConfig, in string) error {
		as := rest.CopyConfig(cfg)
		as.Impersonate = who
		_, err := clientFor(t, as).CoreV1().ConfigMaps(in).List(ctx, metav1.ListOptions{})
		return err
	}
	barred := func(err error) bool {
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "cannot impersonate")
	}
	serviceAccount := func(in, name string) rest.ImpersonationConfig {
		return rest.ImpersonationConfig{UserName: "system:serviceaccount:" + in + ":" + name}
	}
	ci, maintainer := withToken(t, ns, kubename.CIServiceAccount), accountWith(t, ns, "edit")
	eventually(t, "their rights", func() bool {
		return list(ci, rest.ImpersonationConfig{}, ns) == nil && list(maintainer, rest.ImpersonationConfig{}, ns) == nil
	})
	whole := rest.ImpersonationConfig{UserName: "root", Groups: []string{"system:masters"}}
	for name, who := range map[string]rest.ImpersonationConfig{
		"an administrator":                 whole,
		"itself, as an administrator":      {UserName: "system:serviceaccount:" + ns + ":" + kubename.CIServiceAccount, Groups: []string{"system:masters"}},
		"another person":                   {UserName: kubename.User(strong), Groups: []string{kubename.GroupUsers}},
		"another person with a uid":        {UserName: kubename.User(strong), UID: "9"},
		"another person with extra fields": {UserName: kubename.User(strong), Extra: map[string][]string{"scopes": {"all"}}},
		"a CI job of another project":      {UserName: kubename.CIJob(43), Groups: []string{kubename.GroupCI}},
		"a node":                           {UserName: "system:node:n1", Groups: []string{"system:nodes"}},
		"a node, constrained":              {UserName: "system:node:n1"},
		"a controller":                     serviceAccount("kube-system", "namespace-controller"),
		"the integrator":                   serviceAccount("gl-k8s-integrator", "gl-k8s-integrator"),
		"an account of another namespace":  serviceAccount("default", "default"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := list(cluster.AdminConfig(), who, ns); barred(err) {
				t.Errorf("an administrator: %v; so this proves nothing", err)
			}
			for tenant, cfg := range map[string]*rest.Config{"CI": ci, "maintainer": maintainer} {
				if err := list(cfg, who, ns); !barred(err) {
					t.Errorf("%s: %v, want a 403 that names impersonation", tenant, err)
				}
			}
		})
	}

	// Accounts of the namespace: the built-in edit lets its holder be them, and no more than they are.
	for _, name := range []string{"default", kubename.CIServiceAccount} {
		who := serviceAccount(ns, name)
		if err := list(ci, who, ns); !barred(err) {
			t.Errorf("CI as %s: %v", name, err)
		}
		if err := list(maintainer, who, ns); barred(err) {
			t.Errorf("maintainer as %s: %v", name, err)
		}
		if err := list(maintainer, who, "kube-system"); !apierrors.IsForbidden(err) {
			t.Errorf("maintainer as %s in kube-system: %v", name, err)
		}
		who.Groups = []string{"system:masters"}
		if err := list(maintainer, who, ns); !barred(err) {
			t.Errorf("maintainer as %s and an administrator: %v", name, err)
		}
	}

	// The verbs of constrained impersonation work here, and tenants can't give them to themselves.
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate:serviceaccount"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"impersonate-on:serviceaccount:list"}},
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "constrained"}, Rules: rules}
	for tenant, cfg := range map[string]*rest.Config{"CI": ci, "maintainer": maintainer} {
		if _, err := clientFor(t, cfg).RbacV1().Roles(ns).Create(ctx, role, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%s gives itself the right to impersonate: %v", tenant, err)
		}
	}
	if _, err := as(t, "").RbacV1().Roles(ns).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	viewer := accountWith(t, ns, "view")
	who := serviceAccount(ns, kubename.CIServiceAccount)
	if err := list(viewer, who, ns); !barred(err) {
		t.Errorf("without the verbs: %v", err)
	}
	given := binding(metav1.ObjectMeta{Name: "constrained"}, "constrained", account("default", "view-of-"+ns))
	given.RoleRef.Kind = "Role"
	if err := bindIn(ctx, as(t, ""), ns, given); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the verbs of constrained impersonation to count", func() bool { return list(viewer, who, ns) == nil })
}
