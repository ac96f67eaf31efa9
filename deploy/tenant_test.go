package deploy_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"os/exec"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

func podToken(ctx context.Context, c kubernetes.Interface, ns string, seconds int64) error {
	p, err := c.CoreV1().Pods(ns).Create(ctx, pod(func(*corev1.PodSpec) {}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = c.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	}}, metav1.CreateOptions{})
	return err
}

func podCertificateRequest() *certificatesv1.PodCertificateRequest {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		panic(err)
	}
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/signer", PodName: "none", PodUID: "none", NodeName: "none", NodeUID: "none",
			ServiceAccountName: "default", ServiceAccountUID: "none",
			StubPKCS10Request: der,
		},
	}
}

func projected(seconds int64) func(*corev1.PodSpec) {
	return func(p *corev1.PodSpec) {
		p.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}}},
		}}}}
	}
}

func markedDeployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name, kubename.LabelManagedBy: kubename.ManagedBy}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(func(*corev1.PodSpec) {}).Spec},
		},
	}
}

// TestPodsOfControllers: what a tenant can't make, no controller makes for them, and what is there from before can be
// deleted.
func TestPodsOfControllers(t *testing.T) {
	ns, ctx := managed(t, "fence-pods"), t.Context()
	admin, tenant := as(t, ""), person(t, maintainer)
	controller := as(t, "system:serviceaccount:kube-system:replicaset-controller", "system:masters")
	create := func(c kubernetes.Interface, p *corev1.Pod) error {
		_, err := c.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{})
		return err
	}
	carries := pod(func(*corev1.PodSpec) {})
	carries.Labels = mark
	for _, c := range []kubernetes.Interface{controller, admin} {
		refused(t, create(c, carries), ownsMark)
		refused(t, create(c, pod(func(p *corev1.PodSpec) { p.ServiceAccountName = kubename.CIServiceAccount })), noCIPods)
		refused(t, create(c, pod(projected(24*3600+1))), noLongVolume)
		refused(t, create(c, pod(func(p *corev1.PodSpec) { p.PriorityClassName = "system-node-critical" })), noPriority)
		for _, seconds := range []int64{600, 3607, 24 * 3600} {
			if err := create(c, pod(projected(seconds))); err != nil {
				t.Errorf("a projected token of %d s: %v", seconds, err)
			}
		}
	}

	// As if made before the policies: the administrator is not held by the rule on templates.
	if _, err := admin.AppsV1().Deployments(ns).Create(ctx, markedDeployment("old"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its ReplicaSet", func() bool {
		list, err := admin.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=old"})
		return err == nil && len(list.Items) == 1 && list.Items[0].Labels[kubename.LabelManagedBy] == kubename.ManagedBy
	})
	if err := tenant.AppsV1().ReplicaSets(ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=old"}); err != nil {
		t.Errorf("deleting a ReplicaSet with our mark: %v", err)
	}
	if err := tenant.AppsV1().Deployments(ns).Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
		t.Errorf("deleting a Deployment of pods with our mark: %v", err)
	}

	// The same pods in namespaces that are not ours are nobody's business.
	odd := pod(projected(24*3600 + 1))
	odd.Labels, odd.Spec.PriorityClassName = mark, "system-node-critical"
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	for _, elsewhere := range []string{"kube-system", "default"} {
		eventually(t, "the ServiceAccount default in "+elsewhere, func() bool {
			_, err := admin.CoreV1().ServiceAccounts(elsewhere).Get(ctx, "default", metav1.GetOptions{})
			return err == nil
		})
		if _, err := controller.CoreV1().Pods(elsewhere).Create(ctx, odd, dry); err != nil {
			t.Errorf("in %s: %v", elsewhere, err)
		}
	}
	_, err := controller.CoreV1().Pods(ns).Create(ctx, odd, dry)
	refused(t, err, deploy.TenantPods)
}

// TestTokensOfPodsFromBefore: a pod that runs as gitlab-serviceaccount gets no further token, whoever asks.
func TestTokensOfPodsFromBefore(t *testing.T) {
	const ns = "fence-pod-tokens"
	admin, ctx := as(t, ""), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	must(err)
	t.Cleanup(func() { _ = admin.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), ns, metav1.DeleteOptions{}) })
	_, err = admin.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: kubename.CIServiceAccount}}, metav1.CreateOptions{})
	must(err)
	p, err := admin.CoreV1().Pods(ns).Create(ctx, pod(func(p *corev1.PodSpec) { p.ServiceAccountName = kubename.CIServiceAccount }), metav1.CreateOptions{})
	must(err)
	_, err = admin.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, labelPatch(kubename.LabelManagedBy, kubename.ManagedBy), metav1.PatchOptions{})
	must(err)
	_, err = as(t, "").CoreV1().ServiceAccounts(ns).CreateToken(ctx, kubename.CIServiceAccount, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	}}, metav1.CreateOptions{})
	refused(t, err, noCIPods)
}

// TestNamesOfOthers: only the names that the integrator writes are kept.
func TestNamesOfOthers(t *testing.T) {
	ns, ctx := managed(t, "fence-names"), t.Context()
	c := serviceAccount(t, ns, kubename.CIServiceAccount)
	for _, name := range []string{"gitlab-runner", "gitlab-editor", "gitlab-edit-x", "gitlab-view-1a", "gitlab-serviceaccount-2"} {
		if err := bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: name}, "view", account(ns, "default"))); err != nil {
			t.Errorf("RoleBinding %s: %v", name, err)
		}
	}
	for _, name := range []string{kubename.RoleBinding("edit", 7), kubename.RoleBinding("view", 12)} {
		refused(t, bindIn(ctx, c, ns, binding(metav1.ObjectMeta{Name: name}, "view", account(ns, "default"))), keptName)
	}
	pull := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "gitlab-pull-secret"}}
	if _, err := c.CoreV1().Secrets(ns).Create(ctx, pull, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil && !strings.Contains(err.Error(), "gl-k8s-integrator-tenant-templates") {
		t.Errorf("Secret gitlab-pull-secret: %v", err)
	}
	if err := deploy.ApplyForTemplates(ctx, cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the names of templates to be kept", func() bool {
		_, err := c.CoreV1().Secrets(ns).Create(ctx, pull, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "this name is kept for Secrets")
	})
}

// TestApplyOfANamespace: a manifest with its own, plain Namespace can be applied, and any other says what to do.
func TestApplyOfANamespace(t *testing.T) {
	ns, ctx := managed(t, "fence-apply"), t.Context()
	user := "system:serviceaccount:" + ns + ":" + kubename.CIServiceAccount
	apply := func(manifest string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, cluster.Kubectl(), append([]string{"--kubeconfig", cluster.AdminKubeconfig(), "--as", user, "apply", "-f", "-"}, args...)...)
		cmd.Stdin = strings.NewReader(manifest)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dry, err := exec.CommandContext(ctx, cluster.Kubectl(), "create", "namespace", ns, "--dry-run=client", "-o", "yaml").Output()
	if err != nil {
		t.Fatal(err)
	}
	plain := "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + ns + "\n"
	if out, err := apply(plain, "--server-side"); err != nil {
		t.Errorf("server-side: %v\n%s", err, out)
	}
	for what, manifest := range map[string]string{"plain": plain, "kubectl create --dry-run": string(dry)} {
		for range 2 {
			if out, err := apply(manifest); err != nil {
				t.Errorf("%s: %v\n%s", what, err, out)
			}
		}
	}
	for _, more := range []string{
		"  labels: {team: a}\n", "  annotations: {scheduler.alpha.kubernetes.io/node-selector: a=b}\n", "  annotations: {linkerd.io/inject: enabled}\n",
	} {
		if out, err := apply(plain + more); err == nil || !strings.Contains(out, "leave 'kind: Namespace' out of your manifests") {
			t.Errorf("with %s: %v\n%s", more, err, out)
		}
	}
	c := serviceAccount(t, ns, kubename.CIServiceAccount)
	for _, note := range []string{
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"annotations":{},"labels":{"pod-security.kubernetes.io/enforce":"baseline"},"name":"x"}}`,
		strings.Repeat("x", 10000),
	} {
		_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType,
			merge(map[string]any{"metadata": map[string]any{"annotations": map[string]any{corev1.LastAppliedConfigAnnotation: note}}}), metav1.PatchOptions{})
		refused(t, err, ownsNamespace)
	}
}
