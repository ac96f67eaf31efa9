package fence

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// writeFiles writes the files of the fence, changed, and returns the path of the AdmissionConfiguration.
func writeFiles(t *testing.T, dir string, change func(string) string, roles ...string) string {
	t.Helper()
	files, err := deploy.Files(dir, roles)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(change(string(f.Content))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, files[0].Name)
}

func client(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { utilnet.CloseIdleConnectionsFor(h.Transport) })
	kube, err := kubernetes.NewForConfigAndClient(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// TestFenceFromFiles: on a real kube-apiserver that has the fence from files it holds, mode enforce sees it with the
// integrator's own rights, and nobody can take it away through the API.
func TestFenceFromFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	ctx, dir := t.Context(), t.TempDir()
	same := func(s string) string { return s }
	c, err := controlplane.Start(ctx, controlplane.Options{Progress: os.Stderr, APIServerFlags: []string{"--admission-control-config-file=" + writeFiles(t, dir, same, "deployer")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	if err := deploy.ApplyBesideFiles(ctx, c.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	admin := client(t, c.AdminConfig())
	own := c.AdminConfig()
	token, err := admin.CoreV1().ServiceAccounts(deploy.Namespace).CreateToken(ctx, deploy.ServiceAccount, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own.CertData, own.KeyData, own.BearerToken = nil, nil, token.Status.Token
	integrator := client(t, own)

	// The integrator makes a namespace, under the cage.
	labels := map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: "group-7", "pod-security.kubernetes.io/enforce": "baseline"}
	if _, err := integrator.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "haw", Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	tenant := c.AdminConfig()
	tenant.Impersonate = rest.ImpersonationConfig{UserName: kubename.User(9), Groups: []string{"system:masters"}} // whatever RBAC could give
	person := client(t, tenant)
	holds := func(t *testing.T) {
		t.Helper()
		_, err := person.CoreV1().Namespaces().Patch(ctx, "haw", types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`), metav1.PatchOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), deploy.TenantFence+".static.k8s.io") {
			t.Errorf("a tenant relabels a namespace: %v", err)
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if _, err := admin.CoreV1().Pods("haw").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), deploy.TenantPods+".static.k8s.io") {
			t.Errorf("a pod with the owner mark: %v", err)
		}
		_, err = integrator.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), deploy.OwnCage+".static.k8s.io") {
			t.Errorf("the integrator writes in kube-system: %v", err)
		}
		if err := Check(ctx, integrator); err != nil {
			t.Errorf("mode enforce does not see the fence: %v", err)
		}
	}
	t.Run("it holds", holds)
	t.Run("roles", func(t *testing.T) {
		roles := config.Authz{Roles: []config.Role{{ClusterRole: "edit"}, {ClusterRole: "deployer"}}}
		if err := CheckRoles(ctx, integrator, roles); err != nil {
			t.Error(err)
		}
		roles.Extra = []config.ExtraRole{{ClusterRole: "debugger"}}
		if err := CheckRoles(ctx, integrator, roles); err == nil || !strings.Contains(err.Error(), "debugger") || !strings.Contains(err.Error(), "fence-files") {
			t.Errorf("a role that the files don't know: %v", err)
		}
	})
	t.Run("nobody deletes it", func(t *testing.T) {
		policies, bindings := admin.AdmissionregistrationV1().ValidatingAdmissionPolicies(), admin.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
		for _, name := range append(deploy.Policies(), "gl-k8s-integrator-files") {
			for _, err := range []error{
				policies.Delete(ctx, name+".static.k8s.io", metav1.DeleteOptions{}), bindings.Delete(ctx, name+".static.k8s.io", metav1.DeleteOptions{}),
			} {
				if !apierrors.IsNotFound(err) {
					t.Errorf("deleting %s: %v", name, err)
				}
			}
		}
		if err := policies.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		if err := bindings.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		holds(t)
	})
	t.Run("another version's files", func(t *testing.T) {
		writeFiles(t, dir, func(s string) string { return strings.ReplaceAll(s, `"digest":"`, `"digest":"0`) })
		if err := c.RestartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		if err := Check(ctx, integrator); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "another version") {
			t.Errorf("got %v", err)
		}
	})
}
