package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientauthv1 "k8s.io/client-go/pkg/apis/clientauthentication/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeconfig"
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

// laptop is a folder in which everything that a person installs and downloads lies, and the environment of its terminal.
// kubelogin has the name under which kubectl looks for it, and xdg-open is a browser that needs no person.
func laptop(t *testing.T, e *Env) (home string, env []string) {
	t.Helper()
	program, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home = t.TempDir()
	for name, is := range map[string]string{kubeconfig.Command: program, "xdg-open": self, "kubectl": e.Cluster.Kubectl()} {
		if err := os.Symlink(is, filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	return home, []string{"HOME=" + home, "PATH=" + home + ":/usr/bin:/bin", browserCA + "=" + filepath.Join(e.dir, "gitlab-ca.crt")}
}

// file is what the command kubeconfig prints.
func file(t *testing.T, e *Env, v kubeconfig.Variant, namespaces ...string) []byte {
	t.Helper()
	cfg, err := config.Load(e.configFile)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := app.Kubeconfig(t.Context(), []*config.Config{cfg}, string(v), namespaces, slog.New(slog.DiscardHandler), &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// kubelogin logs alice in through the real kubelogin by what the command kubeconfig prints, with the lines that
// docs/kubeconfig.md has to copy.
func kubelogin(t *testing.T, e *Env) {
	home, env := laptop(t, e)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "kubeconfig.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sh laptop\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 2 {
		t.Fatalf("docs/kubeconfig.md has %d blocks for a laptop", len(blocks))
	}
	download := filepath.Join(home, "Downloads", "icc.yaml")
	if err := os.Mkdir(filepath.Dir(download), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(download, file(t, e, kubeconfig.Default, "haw-world"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	apply := "kubectl apply -f " + filepath.Join(e.work, "deploy_new.yaml") // with the token of the first login
	cmd := exec.CommandContext(ctx, "/bin/sh", "-e", "-c", blocks[0][1]+"kubectl auth whoami\n"+apply+"\n"+blocks[1][1]+"kubectl --kubeconfig=$HOME/.kube/all.yaml get deployments\n")
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"alice", "deployment.apps/world", "UP-TO-DATE"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("by docs/kubeconfig.md, %q is missing: %v\n%s", want, err, out)
		}
	}

	// Without a keyring, a variant that keeps tokens in one fails as the page says.
	if err := os.WriteFile(download, file(t, e, kubeconfig.Windows, "haw-world"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(ctx, e.Cluster.Kubectl(), "--kubeconfig="+download, "get", "pods")
	cmd.Env = append(env, "DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere")
	const said = "could not write the token cache: keyring"
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), said) || !strings.Contains(string(page), said) {
		t.Errorf("without a keyring: %v\n%s", err, out)
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

// fileArgs are the arguments that kubelogin gets by the kubeconfig for a machine without a browser.
func fileArgs(t *testing.T, e *Env) []string {
	k, err := clientcmd.Load(file(t, e, kubeconfig.Headless))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range k.AuthInfos {
		return user.Exec.Args
	}
	t.Fatal("no user in the kubeconfig")
	return nil
}

// headless logs alice in on a machine without a browser, and out again, as docs/user.md says.
func headless(t *testing.T, e *Env, args []string) {
	home, env := laptop(t, e)
	program := filepath.Join(home, kubeconfig.Command)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
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
	} else if u, err := url.Parse(shown); err != nil || u.Host != "localhost:8000" {
		t.Errorf("GitLab sends the browser to %s, not to where nothing listens: %v", shown, err)
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
