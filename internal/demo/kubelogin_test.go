package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientauthv1 "k8s.io/client-go/pkg/apis/clientauthentication/v1"
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
	p := user{"alice", filepath.Join(e.work, "alice-kubelogin.kubeconfig")}
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

// visit is the line in which kubelogin names the page to log in on.
var visit = regexp.MustCompile(`visit the following URL in your browser: (\S+)`)

// execArgs are the arguments that kubelogin gets by the last set-credentials of docs/user.md: the one for a machine
// without a browser. issuer and client are those of the demo.
func execArgs(t *testing.T, e *Env) []string {
	lines := commands(t, filepath.Join("..", "..", "docs", "user.md"), "kubectl config set-credentials")
	if len(lines) != 2 {
		t.Fatalf("docs/user.md sets credentials %d times", len(lines))
	}
	var args []string
	for word := range strings.FieldsSeq(lines[1]) {
		if arg, ok := strings.CutPrefix(word, "--exec-arg="); ok && arg != "oidc-login" {
			arg = strings.Replace(arg, "https://gitlab.example.com", e.GitLab.URL(), 1)
			args = append(args, strings.Replace(arg, "--oidc-client-id=5f1c0a7e", "--oidc-client-id="+clientID, 1))
		}
	}
	return append(args, "--certificate-authority="+filepath.Join(e.dir, "gitlab-ca.crt"))
}

// headless logs alice in as docs/user.md says for a machine without a browser, and out again.
func headless(t *testing.T, e *Env) {
	program, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Symlink(program, filepath.Join(home, "kubectl-oidc_login")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	env := []string{"HOME=" + home, "PATH=" + home + ":" + filepath.Dir(e.Cluster.Kubectl())}
	cmd := exec.CommandContext(ctx, program, execArgs(t, e)...)
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout = &out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	messages := bufio.NewReader(stderr)
	line, _ := messages.ReadString('\n')
	if m := visit.FindStringSubmatch(line); m == nil {
		t.Errorf("kubelogin says %q, and no page to visit", line)
	} else if shown, err := gitlabsim.Login(ctx, e.GitLab.Client(), m[1], "alice", "alice-password"); err != nil {
		t.Error(err)
	} else if u, err := url.Parse(shown); err != nil || u.Host != "" {
		t.Errorf("GitLab sends the browser to %s, not to its own page: %v", shown, err)
	} else {
		fmt.Fprintln(stdin, u.Query().Get("code"))
	}
	_ = stdin.Close()
	rest, _ := io.ReadAll(messages)
	if err := cmd.Wait(); err != nil || !strings.Contains(string(rest), "Enter code:") {
		t.Fatalf("kubelogin: %v\n%s", err, rest)
	}
	var cred clientauthv1.ExecCredential
	if err := json.Unmarshal(out.Bytes(), &cred); err != nil || cred.Status == nil {
		t.Fatalf("kubelogin prints no credential: %v", err)
	}
	p := user{"alice", filepath.Join(e.work, "alice-headless.kubeconfig")}
	if err := e.Cluster.WriteKubeconfig(p.kubeconfig, controlplane.KubeconfigUser{Name: "gitlab", Token: cred.Status.Token}, "haw-world"); err != nil {
		t.Fatal(err)
	}
	if o := e.kubectl(ctx, p, "auth", "whoami"); o.code != 0 || !o.has("alice") {
		t.Errorf("kubectl auth whoami: %s", o.text)
	}

	cache := filepath.Join(home, ".kube", "cache", "oidc-login")
	if kept, err := os.ReadDir(cache); err != nil || len(kept) == 0 {
		t.Fatalf("kubelogin keeps no token: %v", err)
	}
	clean := commands(t, filepath.Join("..", "..", "docs", "user.md"), "kubectl oidc-login")
	if len(clean) != 1 {
		t.Fatalf("docs/user.md logs out by %q", clean)
	}
	cmd = exec.CommandContext(ctx, "/bin/sh", "-c", clean[0])
	cmd.Env = env
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", clean[0], err, said)
	}
	if _, err := os.Stat(cache); !os.IsNotExist(err) {
		t.Errorf("after %s: %v", clean[0], err)
	}
}
