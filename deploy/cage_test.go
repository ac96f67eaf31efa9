package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

const (
	onlyManaged    = "writes only in namespaces that carry the label"
	noTakeover     = "never takes over an existing namespace, nor gives one up"
	noNameOfOthers = "that means something to others"
	noPrivileged   = "only the level baseline or restricted"
	noOldVersion   = "to no old version"
	onlyOwnMeta    = "only its own and Pod Security's labels and annotations"
	notForever     = "lives no longer than 90 days"
	noDeletion     = `cannot delete resource "namespaces"`
	noSystemName   = "makes no namespace with a name of the system"
	sourceStays    = "of a namespace never changes"
	onlyMarked     = "changes only objects that carry its mark"
	onlyNames      = "writes only objects of the names it uses"
	onlyOpaque     = "writes only Opaque Secrets"
	onlyBound      = "has to be bound to the Secret"
	onlyGitLab     = "binds ClusterRoles to users of GitLab and to the gitlab-serviceaccount of the same namespace alone, and"
)

// TestSecurityInvariantOwnCage climbs with a stolen token of the integrator's ServiceAccount.
func TestSecurityInvariantOwnCage(t *testing.T) {
	ns := managed(t, "cage")
	admin, c := as(t, ""), integrator(t)
	me := account(deploy.Namespace, deploy.ServiceAccount)
	for _, o := range []*corev1.ServiceAccount{
		{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount, Namespace: "kube-system"}},
		{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount, Namespace: "default"}},
	} {
		if _, err := admin.CoreV1().ServiceAccounts(o.Namespace).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = admin.CoreV1().ServiceAccounts(o.Namespace).Delete(context.WithoutCancel(t.Context()), o.Name, metav1.DeleteOptions{})
		})
	}
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "plain"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	makeSecret := func(namespace string, s *corev1.Secret) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets(namespace).Create(ctx, s, metav1.CreateOptions{})
			return err
		}
	}
	makeBinding := func(namespace string, b *rbacv1.RoleBinding) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error { return bindIn(ctx, c, namespace, b) }
	}
	ciSubject := func(s rbacv1.Subject) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, ns string) error {
			patch, err := json.Marshal(map[string]any{"subjects": []rbacv1.Subject{s}})
			if err != nil {
				return err
			}
			_, err = c.RbacV1().RoleBindings(ns).Patch(ctx, kubename.CIRoleBinding, types.MergePatchType, patch, metav1.PatchOptions{})
			return err
		}
	}
	makeNamespace := func(meta metav1.ObjectMeta) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}
	}
	patchNamespace := func(namespace, key string, value any) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, labelPatch(key, value), metav1.PatchOptions{})
			return err
		}
	}
	patchMeta := func(namespace, meta string) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, []byte(`{"metadata":`+meta+`}`), metav1.PatchOptions{})
			return err
		}
	}
	labelled := managed(t, "cage-labelled")
	if _, err := admin.CoreV1().Namespaces().Patch(t.Context(), labelled, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"team":"blue"},"annotations":{"contact":"blue@example.com"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	recorded := managed(t, "cage-recorded")
	if _, err := admin.CoreV1().Namespaces().Patch(t.Context(), recorded, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"gl-k8s-integrator.io/source":"group-7"},"annotations":{"gl-k8s-integrator.io/source":"group-7"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	patchBinding := func(name string, body []byte) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.RbacV1().RoleBindings(ns).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
			return err
		}
	}
	withMark := func(s *corev1.Secret) *corev1.Secret { s.Labels = mark; return s }

	for _, a := range []attack{
		{"bind itself in kube-system", makeBinding("kube-system", binding(marked("gitlab-edit"), "edit", me)), onlyManaged},
		{"bind a GitLab user in default", makeBinding("default", binding(marked("gitlab-edit"), "edit", subject(kubename.User(7)))), onlyManaged},
		{"bind itself in its own namespace", makeBinding(deploy.Namespace, binding(marked("gitlab-edit"), "edit", me)), onlyManaged},
		{"bind itself in a managed namespace", makeBinding(ns, binding(marked("gitlab-x"), "edit", me)), onlyGitLab},
		{"bind a group", makeBinding(ns, binding(marked("gitlab-x"), "view", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:authenticated"})), onlyGitLab},
		{"bind jobs of an environment to edit", makeBinding(ns, binding(marked("gitlab-x"), "edit", group("gitlab:project_env:42:prod"))), onlyGitLab},
		{"bind jobs of an environment elsewhere", makeBinding(ns, binding(marked("gitlab-x"), kubename.CIClusterRole, group("gitlab:project_env:42:prod"))), onlyGitLab},
		{"bind all jobs of a project", ciSubject(group("gitlab:project:42")), onlyGitLab},
		{"bind all jobs", ciSubject(group("gitlab:ci_job")), onlyGitLab},
		{"bind jobs of any environment of a group", ciSubject(group("gitlab:group_env:7:prod")), onlyGitLab},
		{"bind a slug that is none", ciSubject(group("gitlab:project_env:42:Prod")), onlyGitLab},
		{"bind a project that is none", ciSubject(group("gitlab:project_env:0:prod")), onlyGitLab},
		{"bind a group that only begins like one", ciSubject(group("gitlab:project_env:42:prod:x")), onlyGitLab},
		{"bind a user who is not of GitLab", makeBinding(ns, binding(marked("gitlab-x"), "view", subject("system:kube-scheduler"))), onlyGitLab},
		{"bind the CI ServiceAccount of elsewhere", makeBinding(ns, binding(marked("gitlab-x"), "view", account("default", kubename.CIServiceAccount))), onlyGitLab},
		{"bind without a mark", makeBinding(ns, binding(metav1.ObjectMeta{Name: "gitlab-x"}, "view", subject(kubename.User(7)))), onlyMarked},
		{"bind under another name", makeBinding(ns, binding(marked("helpers"), "view", subject(kubename.User(7)))), onlyNames},
		{"hand out cluster-admin", makeBinding(ns, binding(marked("gitlab-x"), "cluster-admin", subject(kubename.User(7)))), rbacEscalates},
		{"hand out admin", makeBinding(ns, binding(marked("gitlab-x"), "admin", subject(kubename.User(7)))), rbacEscalates},
		{"change a binding of others", patchBinding("by-admin", merge(map[string]any{"subjects": []rbacv1.Subject{subject(kubename.User(1))}})), onlyMarked + "|" + rbacEscalates},
		{"take over a binding of others", patchBinding("by-admin", labelPatch(kubename.LabelManagedBy, kubename.ManagedBy)), onlyMarked},
		{"take the mark off a binding", patchBinding("gitlab-view", labelPatch(kubename.LabelManagedBy, nil)), onlyMarked},
		{"delete a binding of others", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.RbacV1().RoleBindings(ns).Delete(ctx, "by-admin", metav1.DeleteOptions{})
		}, onlyMarked},
		{"make a ClusterRoleBinding", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: marked("gitlab-x"), Subjects: []rbacv1.Subject{me},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			}, metav1.CreateOptions{})
			return err
		}, `cannot create resource "clusterrolebindings"`},

		{"mark kube-system as its own", patchNamespace("kube-system", kubename.LabelManagedBy, kubename.ManagedBy), noTakeover},
		{"mark a namespace of others as its own", patchNamespace("plain", kubename.LabelManagedBy, kubename.ManagedBy), noTakeover},
		{"relabel a namespace of others", patchNamespace("plain", "pod-security.kubernetes.io/enforce", "privileged"), noTakeover + "|" + noPrivileged},
		{"give up a namespace", patchNamespace(ns, kubename.LabelManagedBy, nil), noTakeover},
		{"give a namespace to another group", patchNamespace(ns, kubename.LabelSource, "group-8"), sourceStays},
		{"take a namespace from its group", patchNamespace(ns, kubename.LabelSource, nil), sourceStays},
		{"give a namespace to another group by the annotation", patchMeta(recorded, `{"annotations":{"gl-k8s-integrator.io/source":"group-8"}}`), sourceStays},
		{"give a namespace to another group by label and annotation", patchMeta(recorded, `{"labels":{"gl-k8s-integrator.io/source":"group-8"},"annotations":{"gl-k8s-integrator.io/source":"group-8"}}`), sourceStays},
		{"note another group on a namespace without the annotation", patchMeta(ns, `{"annotations":{"gl-k8s-integrator.io/source":"group-8"}}`), sourceStays},
		{"put back the mark on a namespace that has no annotation", patchMeta("plain", `{"labels":{"app.kubernetes.io/managed-by":"gl-k8s-integrator","gl-k8s-integrator.io/source":"group-8"},"annotations":{"gl-k8s-integrator.io/source":"group-8","gl-k8s-integrator.io/issuer":"https://gitlab.example.com"}}`), noTakeover},
		{"make a privileged namespace", makeNamespace(metav1.ObjectMeta{Name: "evil", Labels: withLabel(podSecurityEnforce, "privileged")}), noPrivileged},
		{"make a namespace without a Pod Security level", makeNamespace(marked("evil")), noPrivileged},
		{"make a namespace with an old version of the level", makeNamespace(metav1.ObjectMeta{Name: "evil", Labels: withLabel(podSecurityEnforce, "baseline", podSecurityEnforce+"-version", "v1.0")}), noOldVersion},
		{"make a namespace privileged", patchNamespace(ns, podSecurityEnforce, "privileged"), noPrivileged},
		{"take a namespace's level off", patchNamespace(ns, podSecurityEnforce, nil), noPrivileged},
		{"pin a level to an old version", patchNamespace(ns, podSecurityEnforce+"-version", "v1.0"), noOldVersion},
		{"make a namespace that others obey", makeNamespace(metav1.ObjectMeta{Name: "evil", Labels: withLabel(podSecurityEnforce, "baseline", "istio-injection", "enabled")}), onlyOwnMeta},
		{"make a namespace that other controllers obey", patchNamespace(ns, "istio-injection", "enabled"), onlyOwnMeta},
		{"take a label of others off", patchNamespace(labelled, "team", nil), onlyOwnMeta},
		{"change a label of others", patchNamespace(labelled, "team", "red"), onlyOwnMeta},
		{"choose the nodes of a namespace", patchMeta(ns, `{"annotations":{"scheduler.alpha.kubernetes.io/node-selector":"node-role.kubernetes.io/control-plane="}}`), onlyOwnMeta},
		{"take an annotation of others off", patchMeta(labelled, `{"annotations":{"contact":null}}`), onlyOwnMeta},
		{"have a namespace deleted by the garbage collector", patchMeta(ns, `{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"gone","uid":"0"}]}`), onlyOwnMeta},
		{"give the CI ServiceAccount a role of the cloud", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ServiceAccounts(ns).Patch(ctx, kubename.CIServiceAccount, types.MergePatchType,
				[]byte(`{"metadata":{"annotations":{"eks.amazonaws.com/role-arn":"x"}}}`), metav1.PatchOptions{})
			return err
		}, onlyOwnMeta},
		{"keep a namespace from going", patchMeta(ns, `{"finalizers":["example.com/never"]}`), onlyOwnMeta},
		{"delete a namespace of ours", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
		}, noDeletion},
		{"make the namespace com", makeNamespace(secured("com")), noNameOfOthers},
		{"make the namespace de", makeNamespace(secured("de")), noNameOfOthers},
		{"make the namespace svc", makeNamespace(secured("svc")), noNameOfOthers},
		{"make the namespace zuerich", makeNamespace(secured("zuerich")), noNameOfOthers},
		{"make a namespace of another script", makeNamespace(secured("xn--p1ai")), noNameOfOthers},
		{"make the namespace cert-manager", makeNamespace(secured("cert-manager")), noNameOfOthers},
		{"make a namespace of a product", makeNamespace(secured("openshift-monitoring")), noNameOfOthers},
		{"mint a token for ever", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			s, err := c.CoreV1().Secrets(ns).Get(ctx, kubename.CISecret, metav1.GetOptions{})
			if err != nil {
				return err
			}
			seconds := int64(100 * 365 * 24 * 3600)
			_, err = c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, kubename.CIServiceAccount, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				ExpirationSeconds: &seconds,
				BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: s.Name, UID: s.UID},
			}}, metav1.CreateOptions{})
			return err
		}, notForever},
		{"make a namespace without a mark", makeNamespace(metav1.ObjectMeta{Name: "bare", Labels: map[string]string{podSecurityEnforce: "baseline"}}), noTakeover},
		{"make a system namespace", makeNamespace(secured("kube-more")), noSystemName},
		{"make a namespace of a generated name", makeNamespace(metav1.ObjectMeta{GenerateName: "kube-", Labels: withLabel(podSecurityEnforce, "baseline")}), noSystemName},
		{"delete a namespace of others", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			return c.CoreV1().Namespaces().Delete(ctx, "plain", metav1.DeleteOptions{})
		}, noDeletion},
		{"finalize a namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Namespaces().Finalize(ctx, &corev1.Namespace{ObjectMeta: marked(ns)}, metav1.UpdateOptions{})
			return err
		}, `cannot update resource "namespaces/finalize"`},

		{"make a token Secret in kube-system", makeSecret("kube-system", withMark(tokenSecret("x"))), onlyManaged},
		{"make the CI Secret in kube-system", makeSecret("kube-system", &corev1.Secret{ObjectMeta: marked(kubename.CISecret)}), onlyManaged},
		{"make a token Secret in its own namespace", makeSecret(deploy.Namespace, tokenSecret("gl-k8s-integrator-snapshot")), onlyOpaque},
		{"make any Secret in its own namespace", makeSecret(deploy.Namespace, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "x"}}), onlyNames},
		{"make another Secret", makeSecret(ns, &corev1.Secret{ObjectMeta: marked("x")}), onlyNames},
		{"list Secrets", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
			return err
		}, `cannot list resource "secrets"`},
		{"read a Secret of others", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().Secrets(ns).Get(ctx, "x", metav1.GetOptions{})
			return err
		}, `cannot get resource "secrets"`},
		{"mint a token in kube-system", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			return token(ctx, c, "kube-system", kubename.CIServiceAccount, 600)
		}, onlyManaged},
		{"mint an unbound token", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return token(ctx, c, ns, kubename.CIServiceAccount, 600)
		}, onlyBound},
		{"mint its own token", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			return token(ctx, c, deploy.Namespace, deploy.ServiceAccount, 600)
		}, `cannot create resource "serviceaccounts/token"`},
		{"make a ServiceAccount in kube-system", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().ServiceAccounts("kube-system").Create(ctx, &corev1.ServiceAccount{ObjectMeta: marked("x")}, metav1.CreateOptions{})
			return err
		}, onlyManaged},
		{"make another ServiceAccount", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: marked("x")}, metav1.CreateOptions{})
			return err
		}, onlyNames},
		{"delete the ServiceAccount default", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().ServiceAccounts(ns).Delete(ctx, "default", metav1.DeleteOptions{})
		}, onlyMarked},
		{"make an Event in default", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Events("default").Create(ctx, event("default"), metav1.CreateOptions{})
			return err
		}, onlyManaged},
		{"remove the cage", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			return c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, deploy.OwnCage, metav1.DeleteOptions{})
		}, `cannot delete resource "validatingadmissionpolicies"`},
		{"change its own role", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.RbacV1().ClusterRoles().Patch(ctx, deploy.ServiceAccount, types.MergePatchType, []byte(`{"rules":[]}`), metav1.PatchOptions{})
			return err
		}, `cannot patch resource "clusterroles"`},
	} {
		t.Run(a.name, func(t *testing.T) { refused(t, a.do(t.Context(), c, ns), a.want) })
	}
	t.Run("the CI Secret as a token Secret", func(t *testing.T) {
		other := managed(t, "cage-secret")
		if err := admin.CoreV1().Secrets(other).Delete(t.Context(), kubename.CISecret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		refused(t, makeSecret(other, withMark(tokenSecret(kubename.CISecret)))(t.Context(), c, other), onlyOpaque)
	})
}

const podSecurityEnforce = "pod-security.kubernetes.io/enforce"

// withLabel returns our mark and further labels, given as key, value, key, value.
func withLabel(more ...string) map[string]string {
	labels := maps.Clone(mark)
	for i := 0; i < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	return labels
}

// secured is the metadata of a namespace as the integrator makes it.
func secured(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: withLabel(podSecurityEnforce, "baseline")}
}

// TestSecurityInvariantStolenTokenIsNotRoot goes the whole way from a stolen token of the integrator to the nodes: it ends
// before a pod that could reach one.
func TestSecurityInvariantStolenTokenIsNotRoot(t *testing.T) {
	admin, c := as(t, ""), integrator(t)
	ctx := t.Context()
	ns := managed(t, "cage-stolen") // a namespace, its ServiceAccount, bindings, and a token stored in a Secret: all allowed
	refused(t, func() error {
		_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch(podSecurityEnforce, "privileged"), metav1.PatchOptions{})
		return err
	}(), noPrivileged)
	root := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "root"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "root", Image: "root", SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}},
		Volumes:    []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}},
	}}
	s, err := c.CoreV1().Secrets(ns).Get(ctx, kubename.CISecret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, string(s.Data["token"])
	ci := clientFor(t, cfg)
	thief := as(t, kubename.User(maintainer)) // whom the thief bound to edit
	for who, c := range map[string]kubernetes.Interface{"with the token": ci, "as a user it bound": thief} {
		t.Run(who, func(t *testing.T) {
			_, err := c.CoreV1().Pods(ns).Create(ctx, root, metav1.CreateOptions{})
			refused(t, err, `violates PodSecurity "baseline`)
		})
	}

	// Where an administrator has chosen the level, the integrator's writes go on, and it can only make it stricter.
	open := managed(t, "cage-open")
	level := func(c kubernetes.Interface, value any) error {
		_, err := c.CoreV1().Namespaces().Patch(ctx, open, types.MergePatchType, labelPatch(podSecurityEnforce, value), metav1.PatchOptions{})
		return err
	}
	path := func(value string) error {
		_, err := c.CoreV1().Namespaces().Patch(ctx, open, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"gl-k8s-integrator.io/path":"`+value+`"},"labels":{"pod-security.kubernetes.io/warn":"privileged"}}}`), metav1.PatchOptions{})
		return err
	}
	for _, value := range []any{"privileged", nil} {
		if err := level(admin, value); err != nil {
			t.Fatal(err)
		}
		if err := path(fmt.Sprint(value)); err != nil {
			t.Errorf("with the level %v of an administrator: %v", value, err)
		}
		if err := level(c, "restricted"); err != nil {
			t.Errorf("from %v to restricted: %v", value, err)
		}
		refused(t, level(c, "privileged"), noPrivileged)
		refused(t, level(c, nil), noPrivileged)
	}
}

// mayDelete gives the integrator the right to delete namespaces until the end of the test: the others are about the rights
// without it.
func mayDelete(t *testing.T) {
	t.Helper()
	admin := as(t, "")
	if err := deploy.ApplyForDeletion(t.Context(), cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admin.RbacV1().ClusterRoleBindings().Delete(context.WithoutCancel(t.Context()), deploy.ServiceAccount+"-namespace-deletion", metav1.DeleteOptions{})
	})
}

// TestDeletionIsARightOfItsOwn: with deploy/optional/namespace-deletion.yaml the integrator deletes marked namespaces,
// and no others.
func TestDeletionIsARightOfItsOwn(t *testing.T) {
	ns := managed(t, "cage-deletion")
	admin, c := as(t, ""), integrator(t)
	mayDelete(t)
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "unmarked"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove := func(name string) error {
		return c.CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	}
	eventually(t, "the right", func() bool { return remove(ns) == nil })
	refused(t, remove("unmarked"), noTakeover)
	if err := c.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestSecurityInvariantOwnCageWithTemplates climbs with the rights of deploy/optional/templates.yaml on top.
func TestSecurityInvariantOwnCageWithTemplates(t *testing.T) {
	ns := managed(t, "cage-templates")
	admin, c := as(t, ""), integrator(t)
	if err := deploy.ApplyForTemplates(t.Context(), cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the other tests are about the rights without it
		ctx := context.WithoutCancel(t.Context())
		name := deploy.ServiceAccount + "-templates"
		_ = admin.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
		_ = admin.RbacV1().RoleBindings(deploy.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	})
	eventually(t, "the rights", func() bool {
		_, err := c.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{Limit: 1})
		return err == nil
	})
	const pull = "gitlab-pull-secret"
	withMark := func(s *corev1.Secret) *corev1.Secret { s.Labels = mark; return s }
	configMap := func(namespace string, meta metav1.ObjectMeta) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}
	}
	secret := func(namespace string, s *corev1.Secret) func(context.Context, kubernetes.Interface, string) error {
		return func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets(namespace).Create(ctx, s, metav1.CreateOptions{})
			return err
		}
	}
	for _, a := range []attack{
		{"a ConfigMap in kube-system", configMap("kube-system", marked("x")), onlyManaged},
		{"a ConfigMap of its own namespace", configMap(deploy.Namespace, marked("x")), onlyNames},
		{"a ConfigMap without our mark", configMap(ns, metav1.ObjectMeta{Name: "x"}), onlyMarked},
		{"the certificates of the API server's front proxy", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			return c.CoreV1().ConfigMaps("kube-system").Delete(ctx, "extension-apiserver-authentication", metav1.DeleteOptions{})
		}, onlyManaged},
		{"the cluster's CA in a managed namespace", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ConfigMaps(ns).Patch(ctx, "kube-root-ca.crt", types.MergePatchType, []byte(`{"data":{"ca.crt":"evil"}}`), metav1.PatchOptions{})
			return err
		}, onlyMarked},
		{"the quota of an administrator", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			return c.CoreV1().ResourceQuotas(ns).Delete(ctx, "quota", metav1.DeleteOptions{})
		}, onlyMarked},
		{"that quota by our mark", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			_, err := c.CoreV1().ResourceQuotas(ns).Patch(ctx, "quota", types.MergePatchType, labelPatch(kubename.LabelManagedBy, kubename.ManagedBy), metav1.PatchOptions{})
			return err
		}, onlyMarked},
		{"a limit in default", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().LimitRanges("default").Create(ctx, &corev1.LimitRange{ObjectMeta: marked("x")}, metav1.CreateOptions{})
			return err
		}, onlyManaged},
		{"a network policy in kube-system", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.NetworkingV1().NetworkPolicies("kube-system").Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: marked("x")}, metav1.CreateOptions{})
			return err
		}, onlyManaged},
		{"a pull Secret in kube-system", secret("kube-system", &corev1.Secret{ObjectMeta: marked(pull)}), onlyManaged},
		{"a pull Secret that is a token", secret(ns, withMark(tokenSecret(pull))), onlyOpaque},
		{"another Secret", secret(ns, &corev1.Secret{ObjectMeta: marked("x")}), onlyNames},
		{"a list of all Secrets", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		}, `cannot list resource "secrets"`},
		{"a watch of all Secrets", func(ctx context.Context, c kubernetes.Interface, ns string) error {
			w, err := c.CoreV1().Secrets(ns).Watch(ctx, metav1.ListOptions{})
			if err == nil {
				w.Stop()
			}
			return err
		}, `cannot watch resource "secrets"`},
		{"all Secrets but one", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name!=" + pull})
			return err
		}, `cannot list resource "secrets"`},
		{"another shared Secret", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets(deploy.Namespace).Get(ctx, "gl-k8s-integrator-shared-other", metav1.GetOptions{})
			return err
		}, `cannot get resource "secrets"`},
		{"a changed shared Secret", func(ctx context.Context, c kubernetes.Interface, _ string) error {
			_, err := c.CoreV1().Secrets(deploy.Namespace).Patch(ctx, "gl-k8s-integrator-shared-pull-secret", types.MergePatchType, []byte(`{"data":{}}`), metav1.PatchOptions{})
			return err
		}, `cannot patch resource "secrets"`},
	} {
		t.Run(a.name, func(t *testing.T) { refused(t, a.do(t.Context(), c, ns), a.want) })
	}
	w, err := c.CoreV1().Secrets("").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + pull})
	if err != nil {
		t.Fatalf("watching the pull Secrets by name: %v", err)
	}
	w.Stop()
}

func event(ns string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "gl-k8s-integrator-"},
		InvolvedObject: corev1.ObjectReference{Kind: "RoleBinding", Namespace: ns, Name: "gitlab-edit"},
		Reason:         "Changed", Message: "alice was added", Type: corev1.EventTypeNormal,
	}
}

// TestIntegratorCanDoItsWork: with its own ServiceAccount and nothing else. Creation is what managed does.
func TestIntegratorCanDoItsWork(t *testing.T) {
	ns := managed(t, "cage-work")
	c, ctx := integrator(t), t.Context()
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	selector := metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "=" + kubename.ManagedBy}
	_, err := c.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	ok("listing namespaces", err)
	_, err = c.CoreV1().ServiceAccounts("").List(ctx, selector)
	ok("listing ServiceAccounts", err)
	bindings, err := c.RbacV1().RoleBindings("").List(ctx, selector)
	ok("listing RoleBindings", err)
	if len(bindings.Items) < 3 {
		t.Errorf("%d RoleBindings with our mark, want 3 at least", len(bindings.Items))
	}
	_, err = c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"annotations":{"gl-k8s-integrator.io/path":"b"},"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{})
	ok("changing a namespace", err)
	_, err = c.RbacV1().RoleBindings(ns).Patch(ctx, "gitlab-edit", types.MergePatchType, []byte(`{"subjects":[]}`), metav1.PatchOptions{})
	ok("emptying a binding", err)
	ok("deleting a binding", c.RbacV1().RoleBindings(ns).Delete(ctx, "gitlab-edit", metav1.DeleteOptions{}))
	ok("making it anew", bindIn(ctx, c, ns, binding(marked("gitlab-edit"), "edit", subject(kubename.User(7)), subject(kubename.User(8)))))
	_, err = c.CoreV1().ServiceAccounts(ns).Patch(ctx, kubename.CIServiceAccount, types.MergePatchType, []byte(`{"metadata":{"annotations":{"gl-k8s-integrator.io/a":"b"}}}`), metav1.PatchOptions{})
	ok("changing the ServiceAccount", err)
	_, err = c.CoreV1().Events(ns).Create(ctx, event(ns), metav1.CreateOptions{})
	ok("making an Event", err)

	s, err := c.CoreV1().Secrets(ns).Get(ctx, kubename.CISecret, metav1.GetOptions{})
	ok("reading the CI Secret", err)
	w, err := c.CoreV1().Secrets(ns).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + kubename.CISecret, ResourceVersion: s.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	ok("deleting the CI Secret", c.CoreV1().Secrets(ns).Delete(ctx, kubename.CISecret, metav1.DeleteOptions{}))
	if e := <-w.ResultChan(); e.Type != watch.Deleted {
		t.Errorf("the watch said %v, want the deletion", e.Type)
	}
	cfg := cluster.AdminConfig()
	cfg.CertData, cfg.KeyData, cfg.BearerToken = nil, nil, string(s.Data["token"])
	ci := clientFor(t, cfg)
	eventually(t, "the token to die with its Secret", func() bool {
		_, err := ci.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err != nil
	})
	ok("deleting the ServiceAccount", c.CoreV1().ServiceAccounts(ns).Delete(ctx, kubename.CIServiceAccount, metav1.DeleteOptions{}))

	own := deploy.Namespace
	for _, name := range []string{"gl-k8s-integrator-snapshot", "gl-k8s-integrator-keys"} {
		_, err = c.CoreV1().Secrets(own).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		ok("keeping "+name, err)
		_, err = c.CoreV1().Secrets(own).Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"a":"Yg=="}}`), metav1.PatchOptions{})
		ok("changing "+name, err)
		ok("deleting "+name, c.CoreV1().Secrets(own).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	for _, name := range []string{"gl-k8s-integrator-inbox", "gl-k8s-integrator-plan"} {
		_, err = c.CoreV1().ConfigMaps(own).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		ok("keeping "+name, err)
		_, err = c.CoreV1().ConfigMaps(own).Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
		ok("changing "+name, err)
		ok("deleting "+name, c.CoreV1().ConfigMaps(own).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	lease, err := c.CoordinationV1().Leases(own).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "gl-k8s-integrator"}}, metav1.CreateOptions{})
	ok("taking the lease", err)
	_, err = c.CoordinationV1().Leases(own).Update(ctx, lease, metav1.UpdateOptions{})
	ok("renewing the lease", err)
	for _, name := range deploy.Policies() {
		_, err = c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, name, metav1.GetOptions{})
		ok("seeing the policy", err)
		_, err = c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Get(ctx, name, metav1.GetOptions{})
		ok("seeing the policy's binding", err)
	}
}
