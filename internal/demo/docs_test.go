package demo

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
)

var shellBlock = regexp.MustCompile("(?s)```[a-z ]*\n(.*?)```")

// commands returns the lines of a page's shell blocks that begin with prefix, with continuation lines joined.
func commands(t *testing.T, page, prefix string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(strings.ReplaceAll(b[1], "\\\n", " ")) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, prefix) {
				out = append(out, line)
			}
		}
	}
	return out
}

// docs runs the kubectl commands of the pages: those of the laptop in an empty folder with a CA file, and those of
// the cluster's administrator in the root of the repository.
func docs(t *testing.T, e *Env) {
	laptop, root := t.TempDir(), filepath.Join("..", "..")
	if err := os.WriteFile(filepath.Join(laptop, "icc-ca.crt"), e.Cluster.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(dir, kubeconfig, line string) {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + laptop, "PATH=" + filepath.Dir(e.Cluster.Kubectl()) + ":/usr/bin:/bin"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	config := commands(t, filepath.Join(root, "docs", "user.md"), "kubectl config")
	if len(config) < 4 {
		t.Fatalf("docs/user.md has only %d kubectl config commands", len(config))
	}
	kubeconfig := filepath.Join(laptop, "config")
	for _, line := range config {
		run(laptop, kubeconfig, line)
		run(laptop, filepath.Join(laptop, "second"), strings.ReplaceAll(line, " icc", " lab")) // of another cluster
	}
	merged(t, e, kubeconfig, filepath.Join(laptop, "second"))
	withoutKubelogin(t, e, kubeconfig)
	redirectURIs(t, e)
	written, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"current-context: icc", "namespace: haw-world", "oidc-login", "--oidc-issuer-url=https://gitlab.example.com"} {
		if !strings.Contains(string(written), want) {
			t.Errorf("following docs/user.md gives a kubeconfig without %q", want)
		}
	}
	var apply []string
	for page, n := range map[string]int{"install": 1, "install-chart": 2, "deletion": 1, "templates": 1} {
		lines := commands(t, filepath.Join(root, "docs", page+".md"), "kubectl apply")
		if len(lines) != n {
			t.Errorf("docs/%s.md applies %q", page, lines)
		}
		apply = append(apply, lines...)
	}
	for _, line := range apply {
		run(root, e.Cluster.AdminKubeconfig(), line+" --server-side --force-conflicts --dry-run=server")
	}
	quotes(t, e)
}

// withoutKubelogin: what kubectl says where kubelogin is not installed is on the page.
func withoutKubelogin(t *testing.T, e *Env, kubeconfig string) {
	const said = `error: unknown command "oidc-login" for "kubectl"`
	cmd := exec.CommandContext(t.Context(), e.Cluster.Kubectl(), "get", "pods")
	cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + t.TempDir(), "PATH=" + filepath.Dir(e.Cluster.Kubectl())}
	out, err := cmd.CombinedOutput()
	page, pageErr := os.ReadFile(filepath.Join("..", "..", "docs", "user.md"))
	if err == nil || !strings.Contains(string(out), said) || pageErr != nil || !strings.Contains(string(page), said) {
		t.Errorf("without kubelogin (%v, %v) kubectl says\n%s", err, pageErr, out)
	}
}

// merged has kubectl merge the files of two clusters, made by the same commands with another name: nothing of the
// second gets lost.
func merged(t *testing.T, e *Env, files ...string) {
	cmd := exec.CommandContext(t.Context(), e.Cluster.Kubectl(), "config", "view", "--merge", "--output=json")
	cmd.Env = []string{"KUBECONFIG=" + strings.Join(files, string(os.PathListSeparator))}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type entry struct{ Name string }
	var view struct{ Clusters, Users, Contexts []entry }
	if err := json.Unmarshal(out, &view); err != nil {
		t.Fatal(err)
	}
	if len(view.Clusters) != 2 || len(view.Users) != 2 || len(view.Contexts) != 2 {
		t.Errorf("two files by docs/user.md, merged: %+v", view)
	}
}

// redirectURIs compares what docs/install.md has registered with what GitLab of the demo has, and with the ports of
// kubelogin.
func redirectURIs(t *testing.T, e *Env) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "\n## GitLab\n")
	text, _, _ = strings.Cut(text, "\n2. ")
	said := regexp.MustCompile("`(http://localhost[^`]*)`").FindAllStringSubmatch(text, -1)
	if len(said) != 2 {
		t.Fatalf("docs/install.md names %d redirect URIs: %q", len(said), said)
	}
	for _, uri := range said {
		q := url.Values{"client_id": {clientID}, "redirect_uri": {uri[1]}, "response_type": {"code"}, "scope": {"openid"}}
		if _, err := gitlabsim.Login(t.Context(), e.GitLab.Client(), e.GitLab.URL()+"/oauth/authorize?"+q.Encode(), "alice", "alice-password"); err != nil {
			t.Errorf("redirect URI %s of docs/install.md: %v", uri[1], err)
		}
	}
	program, err := controlplane.EnsureKubelogin(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile(filepath.Join("..", "..", "docs", "user.md")); err != nil || !strings.Contains(string(page), "kubelogin "+controlplane.KubeloginVersion()+" ") {
		t.Errorf("docs/user.md was written for another kubelogin than %s: %v", controlplane.KubeloginVersion(), err)
	}
	help, err := exec.CommandContext(t.Context(), program, "get-token", "--help").Output()
	if want := "(default [127.0.0.1:8000,127.0.0.1:18000])"; err != nil || !strings.Contains(string(help), want) {
		t.Errorf("kubelogin does not listen at %s: %v\n%s", want, err, help)
	}
}

// quotes provokes the messages that the pages explain.
func quotes(t *testing.T, e *Env) {
	yesterday, err := e.yesterday("alice")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		page string
		who  user
		said string // "…" stands for anything
	}{
		{"ci.md", user{"job", "/dev/null"}, `failed to download openapi: Get "http://localhost:8080/…": … connection refused`},
		{"user.md", yesterday, `failed to download openapi: the server has asked for the client to provide credentials`},
	} {
		o := e.kubectl(t.Context(), c.who, "apply", "-f", "deploy_new.yaml")
		if !regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(c.said), "…", ".*")).MatchString(o.text) {
			t.Errorf("kubectl says %q, not %q", o.text, c.said)
		}
		if page, err := os.ReadFile(filepath.Join("..", "..", "docs", c.page)); err != nil || !strings.Contains(string(page), c.said) {
			t.Errorf("docs/%s does not explain %q: %v", c.page, c.said, err)
		}
	}
}

// plan looks at a cluster that is in step: it says so, and that GitLab has all that jobs need. Then it looks what other
// configurations would make: from GitLab and the cluster, and from a file, both say the same.
func plan(t *testing.T, e *Env) {
	show := func(cfg *config.Config, v app.PlanView) (string, int) {
		t.Helper()
		var out, progress strings.Builder
		changes, err := app.Plan(t.Context(), cfg, slog.New(slog.DiscardHandler), &out, &progress, v)
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), changes
	}
	load := func() *config.Config {
		cfg, err := config.Load(e.configFile)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	text, changes := show(load(), app.PlanView{})
	rest, ok := strings.CutPrefix(text, "cluster: nothing to change\nnamespaces:\n")
	alone := strings.Contains(rest, "\nfinding explain_single: ") && strings.Count(rest, "finding ") == 1 // the demo runs one integrator
	if changes != 0 || !ok || !alone {
		t.Errorf("plan: %d changes, want none\n%s", changes, text)
	}

	file := filepath.Join(t.TempDir(), "gitlab.snapshot")
	var out strings.Builder
	if err := app.SaveSnapshot(t.Context(), load(), slog.New(slog.DiscardHandler), file, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	secrets(t, e, file)
	for name, c := range map[string]struct {
		change func(*config.Config)
		want   []string
	}{
		"the same": {func(*config.Config) {}, []string{"nothing to change"}},
		"kinds": {func(c *config.Config) { c.Authz.Kinds, c.RBACSync.Limits.Policy.Count = []string{"group"}, 1 }, []string{
			"= haw-world  (namespace of project/", "keeps ", "because of the configuration", "approve ", "held: ",
		}},
		"roles": {func(c *config.Config) {
			c.Authz.Roles = []config.Role{{ClusterRole: "edit", Levels: []string{"owner", "maintainer", "developer"}}}
		}, []string{"view -> edit  Developer"}},
		"delivery": {func(c *config.Config) { c.CI.Delivery = "none" }, []string{"- taken back from jobs of project/", "KUBE_TOKEN"}},
		"url":      {func(c *config.Config) { c.Cluster.PublicURL = "https://icc.example.com" }, []string{"~ replaced for jobs of project/", "KUBE_URL; what jobs are given has changed"}},
		"scope":    {func(c *config.Config) { c.CI.Environment = "elsewhere" }, []string{"+ delivered to jobs of project/", "environment elsewhere", "KUBE_TOKEN"}},
	} {
		cfg := load()
		c.change(cfg)
		online, n := show(cfg, app.PlanView{Output: "text", Colour: "never"})
		offline, m := show(cfg, app.PlanView{Offline: file})
		online, _, _ = strings.Cut(online, "finding ")
		offline, _, _ = strings.Cut(offline, "finding ")
		if online != offline || n != m {
			t.Errorf("%s: online %d changes, from the file %d\n%s\n%s", name, n, m, online, offline)
		}
		for _, want := range c.want {
			if !strings.Contains(online, want) {
				t.Errorf("%s: the plan has no %q:\n%s", name, want, online)
			}
		}
	}

	cfg := load()
	cfg.Authz.Roles = []config.Role{{ClusterRole: "edit", Levels: []string{"owner", "maintainer", "developer"}}}
	for _, v := range []app.PlanView{{Offline: file, Output: "json", User: "bob"}, {Offline: file, Output: "yaml", User: "bob", Namespace: "haw-world"}} {
		text, _ := show(cfg, v)
		var d preview.Document
		if err := yaml.UnmarshalStrict([]byte(text), &d); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		for _, ns := range d.Namespaces {
			for _, r := range ns.People {
				if r.User.Username != "bob" || v.Namespace != "" && ns.Name != v.Namespace {
					t.Errorf("%+v: %s %+v", v, ns.Name, r)
				}
			}
		}
		if len(d.Namespaces) == 0 || d.APIVersion != preview.APIVersion {
			t.Errorf("%+v:\n%s", v, text)
		}
	}
	cfg.GitLab.URL = "https://another.example.com"
	if _, err := app.Plan(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, io.Discard, app.PlanView{Offline: file}); err == nil || !strings.Contains(err.Error(), "another.example.com") {
		t.Errorf("a file of another GitLab: %v", err)
	}
}

// secrets looks for secrets in a saved snapshot: those of the cluster, and the tokens of the configuration.
func secrets(t *testing.T, e *Env, file string) {
	t.Helper()
	cfg, err := config.Load(e.configFile)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read it: %v, %v", info.Mode(), err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	look := func(what, secret string) {
		if secret = strings.TrimSpace(secret); len(secret) < 8 {
			return
		}
		looked++
		if strings.Contains(string(text), secret) {
			t.Errorf("%s is in the saved snapshot", what)
		}
	}
	for _, path := range []string{cfg.GitLab.ReadTokenFile, cfg.GitLab.WriteTokenFile} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		look(path, string(data))
	}
	kubectl := exec.CommandContext(t.Context(), e.Cluster.Kubectl(), "--kubeconfig", e.Cluster.AdminKubeconfig(), "get", "secrets", "-A", "-o", "json")
	list, err := kubectl.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string][]byte
		}
	}
	if err := json.Unmarshal(list, &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all.Items {
		look("Secret "+s.Metadata.Name, string(s.Data["token"]))
	}
	if looked < 3 {
		t.Errorf("only %d secrets were looked for", looked)
	}
}
