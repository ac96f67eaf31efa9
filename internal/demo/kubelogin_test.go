package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// browserCA names the CA file and makes the test binary the browser that kubelogin opens.
const browserCA = "DEMO_TEST_BROWSER_CA"

// browser logs alice in at the address that kubelogin gives as the last argument.
func browser() int {
	err := func() error {
		pem, err := os.ReadFile(os.Getenv(browserCA))
		if err != nil {
			return err
		}
		client, err := gitlab.NewHTTPClient(pem, loginTimeout)
		if err != nil {
			return err
		}
		return gitlabsim.Browse(context.Background(), client, os.Args[len(os.Args)-1], "alice", "alice-password")
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// kubelogin logs alice in through the real kubelogin as kubectl's exec plugin: the flags are those of docs/user.md,
// plus a browser that needs no person.
func kubelogin(t *testing.T, e *Env) {
	program, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(e.dir, "gitlab-ca.crt")
	p := person{"alice", filepath.Join(e.work, "alice-kubelogin.kubeconfig")}
	err = e.Cluster.WriteKubeconfig(p.kubeconfig, controlplane.KubeconfigUser{Name: "gitlab", Exec: &api.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: api.IfAvailableExecInteractiveMode, Command: program,
		Args: []string{
			"get-token", "--oidc-issuer-url=" + e.GitLab.URL(), "--oidc-client-id=" + clientID, "--certificate-authority=" + ca,
			"--browser-command=" + self, "--token-cache-dir=" + filepath.Join(e.home, "tokens"), "--authentication-timeout-sec=30",
		},
		Env: []api.ExecEnvVar{{Name: browserCA, Value: ca}},
	}}, "haw-world")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"auth", "whoami"}, "alice"},
		{[]string{"apply", "-f", "deploy_new.yaml"}, "deployment.apps/world"}, // with the token of the first login
	} {
		if o := e.kubectl(t.Context(), p, c.args...); o.code != 0 || !o.has(c.want) {
			t.Errorf("kubectl %s: %s", strings.Join(c.args, " "), o.text)
		}
	}
}
