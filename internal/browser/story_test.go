package browser

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
)

func TestPages(t *testing.T) {
	w := newWorld(t)
	c := startChromium(t, pin(t, w.gitlab.URL(), w.gitlab.CA()))
	t.Run("kubelogin", func(t *testing.T) {
		at := time.Now()
		alice := c.window(t, settings{})
		alice.open(w.gitlab.URL())
		alice.signIn("alice")
		alice.shows("Signed in as alice")
		t.Log("signed in", time.Since(at))
		laptop := w.laptop(t, alice, func(tab *window) { tab.shows("Authenticated") })
		file := filepath.Join(laptop.home, "config")
		if err := w.cluster.WriteKubeconfig(file, controlplane.KubeconfigUser{Name: "gitlab", Exec: &api.ExecConfig{
			APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.IfAvailableExecInteractiveMode, Command: "kubectl",
			Args: []string{"oidc-login", "get-token", "--oidc-issuer-url=" + w.gitlab.URL(), "--oidc-client-id=kubelogin-app", "--certificate-authority=" + filepath.Join(w.dir, "gitlab-ca.crt")},
		}}, "haw-world"); err != nil {
			t.Fatal(err)
		}
		out, err := laptop.kubectl(t, file, "get", "pods")
		if err != nil || !strings.Contains(out, "No resources found in haw-world namespace.") {
			t.Errorf("kubectl get pods: %v\n%s", err, out)
		}
		t.Log(time.Since(at))
	})
}
