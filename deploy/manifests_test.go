package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// decoded returns the manifests by "Kind/name", decoded strictly into their Go types: a misspelt field is an error.
func decoded(t *testing.T) map[string]any {
	t.Helper()
	objects, err := deploy.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, o := range objects {
		into, ok := map[string]any{
			"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{},
			"Role": &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{},
			"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
			"ValidatingAdmissionPolicy":        &admissionv1.ValidatingAdmissionPolicy{},
			"ValidatingAdmissionPolicyBinding": &admissionv1.ValidatingAdmissionPolicyBinding{},
		}[o.GetKind()]
		if !ok {
			t.Fatalf("unexpected kind %s", o.GetKind())
		}
		doc, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(doc, into); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		out[o.GetKind()+"/"+o.GetName()] = into
		if o.GetLabels()[kubename.LabelManagedBy] == kubename.ManagedBy {
			t.Errorf("%s %s carries the owner mark, which is for objects that come from GitLab", o.GetKind(), o.GetName())
		}
	}
	return out
}

func TestManifestsHoldTheNamesOfTheCode(t *testing.T) {
	objects := decoded(t)
	want := []string{
		"ClusterRole/" + deploy.ServiceAccount, "ClusterRole/" + kubename.CIClusterRole, "ClusterRoleBinding/" + deploy.ServiceAccount,
		"Namespace/" + deploy.Namespace, "Role/" + deploy.ServiceAccount, "RoleBinding/" + deploy.ServiceAccount,
		"ServiceAccount/" + deploy.ServiceAccount,
	}
	for _, p := range deploy.Policies() {
		want = append(want, "ValidatingAdmissionPolicy/"+p, "ValidatingAdmissionPolicyBinding/"+p)
	}
	slices.Sort(want)
	var got []string
	for name := range objects {
		got = append(got, name)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("objects (-want +got):\n%s", diff)
	}

	for _, p := range deploy.Policies() {
		b := objects["ValidatingAdmissionPolicyBinding/"+p].(*admissionv1.ValidatingAdmissionPolicyBinding)
		if b.Spec.PolicyName != p || !slices.Contains(b.Spec.ValidationActions, admissionv1.Deny) {
			t.Errorf("binding %s: policy %q, actions %v, want Deny of its own policy", p, b.Spec.PolicyName, b.Spec.ValidationActions)
		}
		policy := objects["ValidatingAdmissionPolicy/"+p].(*admissionv1.ValidatingAdmissionPolicy)
		if f := policy.Spec.FailurePolicy; f == nil || *f != admissionv1.Fail {
			t.Errorf("%s: failurePolicy %v, want Fail", p, f)
		}
	}
	// The matchConditions of the fence leave out who is no tenant.
	for _, v := range objects["ValidatingAdmissionPolicy/"+deploy.TenantFence].(*admissionv1.ValidatingAdmissionPolicy).Spec.Validations {
		if !strings.HasPrefix(v.Expression, "!variables.tenant || ") {
			t.Errorf("%s holds others than tenants: %s", deploy.TenantFence, v.Expression)
		}
	}
	cel := func(policy string) string {
		var b strings.Builder
		p := objects["ValidatingAdmissionPolicy/"+policy].(*admissionv1.ValidatingAdmissionPolicy)
		for _, c := range p.Spec.MatchConditions {
			b.WriteString(c.Expression + "\n")
		}
		for _, v := range p.Spec.Variables {
			b.WriteString(v.Expression + "\n")
		}
		for _, v := range p.Spec.Validations {
			b.WriteString(v.Expression + "\n")
			if v.Message == "" {
				t.Errorf("%s: no message for %s", policy, v.Expression)
			}
		}
		return b.String()
	}
	for policy, names := range map[string][]string{
		deploy.TenantFence: {kubename.LabelManagedBy, kubename.ManagedBy, kubename.UserPrefix, kubename.CIServiceAccount, kubename.CISecret, kubename.CIAnchor},
		deploy.OwnCage: {
			kubename.LabelManagedBy, kubename.ManagedBy, kubename.LabelSource, kubename.CIServiceAccount, kubename.CISecret, kubename.CIAnchor, deploy.Namespace,
			"system:serviceaccount:" + deploy.Namespace + ":" + deploy.ServiceAccount,
		},
	} {
		for _, name := range names {
			if !strings.Contains(cel(policy), "'"+name+"'") {
				t.Errorf("%s says nothing of %q: was it renamed in kubename?", policy, name)
			}
		}
	}
	m := regexp.MustCompile(`matches\('(\^gitlab:[^']+)'\)`).FindStringSubmatch(cel(deploy.OwnCage))
	if m == nil {
		t.Fatal("the cage has no pattern for user names")
	}
	users := regexp.MustCompile(m[1])
	for name, want := range map[string]bool{
		kubename.User(42): true, kubename.CIJob(7): true,
		"gitlab:0": false, "gitlab:x": false, "gitlab:ci:": false, "system:admin": false, "x-gitlab:1": false, "gitlab:1\n": false,
	} {
		if got := users.MatchString(name); got != want {
			t.Errorf("the cage's pattern on %q = %v, want %v", name, got, want)
		}
	}
	all := regexp.MustCompile(`matches\('(\^gitlab:[^']+)'\)`).FindAllStringSubmatch(cel(deploy.OwnCage), -1)
	if len(all) != 2 {
		t.Fatalf("the cage has %d patterns of names, want one of users and one of groups", len(all))
	}
	groups := regexp.MustCompile(all[1][1])
	for _, slug := range []string{"production", "icc-k8s-abc123", "a", "a23456789012345678901234", "a234567890123456789012345", "", "Prod", "prod-", "-prod", "prod:x", "prod\n", "1"} {
		name, ok := kubename.JobEnvironment(42, slug)
		if groups.MatchString(name) != ok {
			t.Errorf("the cage's pattern on %q = %v, kubename says %v", name, !ok, ok)
		}
	}
	for _, name := range []string{"gitlab:project:42", "gitlab:project_env:0:prod", "gitlab:project_env:042:prod", "x-gitlab:project_env:42:prod", "gitlab:ci_job"} {
		if groups.MatchString(name) {
			t.Errorf("the cage lets the group %q be bound", name)
		}
	}
	if seconds := fmt.Sprintf("<= %d", int(config.MaxTokenLifetime.Seconds())); !strings.Contains(cel(deploy.OwnCage), seconds) {
		t.Errorf("the cage does not say %q, as the configuration does", seconds)
	}
	for _, name := range []string{kubename.RoleBinding("edit", 0), kubename.RoleBinding("view", 3), kubename.CIRoleBinding} {
		if !strings.HasPrefix(name, "gitlab-") {
			t.Errorf("RoleBinding %q: fence and cage keep only names that start with gitlab-", name)
		}
	}
}

// TestSecurityInvariantIntegratorRole is docs/invariants.md, invariant 2: the role is no stronger than this.
func TestSecurityInvariantIntegratorRole(t *testing.T) {
	objects := decoded(t)
	role := objects["ClusterRole/"+deploy.ServiceAccount].(*rbacv1.ClusterRole)
	var bind, tokens, secrets []string
	for _, r := range role.Rules {
		for _, list := range [][]string{r.APIGroups, r.Resources, r.Verbs} {
			if slices.Contains(list, "*") {
				t.Errorf("a rule with *: %v", r)
			}
		}
		for _, verb := range []string{"escalate", "impersonate", "deletecollection"} {
			if slices.Contains(r.Verbs, verb) {
				t.Errorf("a rule with %s: %v", verb, r)
			}
		}
		if slices.Contains(r.Resources, "namespaces") && slices.Contains(r.Verbs, "delete") {
			t.Errorf("a rule to delete namespaces, which belongs into %s: %v", deploy.DeletionFile, r)
		}
		if slices.Contains(r.Resources, "pods") && !slices.Equal(r.Verbs, []string{"list"}) {
			t.Errorf("verbs %v on pods, want list alone", r.Verbs)
		}
		switch {
		case slices.Contains(r.Verbs, "bind"):
			bind = append(bind, r.ResourceNames...)
		case slices.Contains(r.Resources, "serviceaccounts/token"):
			tokens = append(tokens, r.ResourceNames...)
		case slices.Contains(r.Resources, "secrets"):
			if len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"}) {
				t.Errorf("verbs %v on every Secret, want create alone", r.Verbs)
			}
			secrets = append(secrets, r.ResourceNames...)
		}
	}
	if diff := cmp.Diff([]string{"edit", "view", kubename.CIClusterRole}, bind); diff != "" {
		t.Errorf("roles it may hand out (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{kubename.CIServiceAccount}, tokens); diff != "" {
		t.Errorf("ServiceAccounts it may make tokens of (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{kubename.CISecret, kubename.CIAnchor}, secrets); diff != "" {
		t.Errorf("Secrets it may read (-want +got):\n%s", diff)
	}

	// Its own state: every name that internal/store uses, and never a list.
	own := map[string][]string{}
	for _, r := range objects["Role/"+deploy.ServiceAccount].(*rbacv1.Role).Rules {
		if slices.Contains(r.Verbs, "list") || slices.Contains(r.Verbs, "*") || (len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"})) {
			t.Errorf("a rule on its own namespace that names no objects: %v", r)
		}
		own[r.Resources[0]] = append(own[r.Resources[0]], r.ResourceNames...)
	}
	for _, name := range slices.Concat(store.SecretNames(store.NameSnapshot), store.SecretNames(store.NameHistory), audit.SecretNames()) {
		if !slices.Contains(own["secrets"], name) {
			t.Errorf("the Role does not name the Secret %s", name)
		}
	}
	for _, name := range []string{store.NameInbox, store.NameStatus} {
		if !slices.Contains(own["configmaps"], name) {
			t.Errorf("the Role does not name the ConfigMap %s", name)
		}
	}
	if diff := cmp.Diff([]string{store.NameLease}, own["leases"]); diff != "" {
		t.Errorf("Leases (-want +got):\n%s", diff)
	}

	ci := objects["ClusterRole/"+kubename.CIClusterRole].(*rbacv1.ClusterRole)
	want := []rbacv1.PolicyRule{{
		APIGroups: []string{"*"}, Resources: []string{"*"},
		Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"},
	}}
	if diff := cmp.Diff(want, ci.Rules); diff != "" {
		t.Errorf("%s (-want +got):\n%s", kubename.CIClusterRole, diff)
	}
}

// TestManifestsAreInPlainFiles: `kubectl apply -f deploy/manifests` applies in the order of the file names.
func TestManifestsAreInPlainFiles(t *testing.T) {
	files, err := filepath.Glob("manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "{{") {
			t.Errorf("%s is a template, not a plain manifest", f)
		}
		if !strings.HasPrefix(string(b), "# ") {
			t.Errorf("%s doesn't begin with why it is there", f)
		}
	}
}
