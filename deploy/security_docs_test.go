package deploy_test

import (
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TestEndingTokensOfTheDocs: the commands of docs/security.md delete the Secrets that CI tokens belong to, in one namespace or in
// all, and no other one.
func TestEndingTokensOfTheDocs(t *testing.T) {
	admin := as(t, "")
	secrets := func(ns string) string {
		t.Helper()
		var there []string
		for _, name := range []string{kubename.CISecret, kubename.CIAnchor, "of-the-tenant"} {
			_, err := admin.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			} else if err == nil {
				there = append(there, name)
			}
		}
		return strings.Join(there, " ")
	}
	one, other := managed(t, "docs-end-one"), managed(t, "docs-end-other")
	for _, ns := range []string{one, other} {
		for _, name := range []string{kubename.CIAnchor, "of-the-tenant"} {
			if _, err := admin.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func(kind string) {
		t.Helper()
		script := strings.ReplaceAll(block(t, "security.md", kind), "haw-world", one)
		shell(t, t.TempDir(), "PATH="+filepath.Dir(cluster.Kubectl())+":$PATH\n"+script, "KUBECONFIG="+cluster.AdminKubeconfig())
	}
	all := kubename.CISecret + " " + kubename.CIAnchor + " of-the-tenant"
	run("sh end one")
	if a, b := secrets(one), secrets(other); a != "of-the-tenant" || b != all {
		t.Errorf("after the first command: %q and %q", a, b)
	}
	run("sh end all")
	if a, b := secrets(one), secrets(other); a != "of-the-tenant" || b != a {
		t.Errorf("after the second: %q and %q", a, b)
	}
}
